// Split-KV attention of few rows over long caches: bfloat16 over bfloat16 or FP8, head_dim 128, pages of 128 tokens, up to
// 8 query heads a kv head.
//
// Contract: paged_attention for the rows of spans of at most kDecodeRows rows. Bytes a row: 2 * 256 a key and kv head (of
// codes 2 * 130), read once; 4 * 128 flops a key and query head, 5 flops a byte at 5 heads: the limit is memory.
//
// What follows is said of bfloat16; of codes a warp's step is 32 keys, so a unit is 128, a page, of as many bytes
// (decode_cache.h). A key's scale multiplies its score, a value's its weight, before that is rounded (the reference rounds
// first: 2^-9 of a weight either way); scales go from memory to registers, two steps ahead.
//
// The keys of all (row, kv head) pairs are one line of units of 64 keys (half a page), cut into as many parts as there
// are blocks, one an SM, of as many units or one less: the grid is fixed (recorded graphs), one long sequence is as
// balanced as 64 of mixed lengths, and each warp finds its block's part from the spans by itself. A pair that lies in
// one part is finished there; the others leave maximum, sum and weighted values of their parts in scratch, and who
// arrives last adds them up in the line's order.
//
// Within a block each of 4 warps takes 16 keys of a unit and has a ring of its own (cp.async, 3 stages of 8 KB), so no
// barrier stands in the loop; loads run ahead across the ends of pairs: 64 KB in flight an SM, against 36 KB that an
// H200's 4.56 TB/s need at 1 us. Matrix instructions are m16n8k16 with the keys (for the values: the elements) as the
// 16 rows and the query heads as the 8 columns: at 5 heads 62 % of the work is useful, and the 16 instructions of 16
// keys take about 50 of the 611 cycles that their bytes take on an H100's SM. The other form (heads as rows) would need
// twice as many.
//
// A block has less than half of an SM's shared memory, so that two kernels of such size live on an SM at once: this one
// fills its rings while the product before it ends, and the product after it (small_m.cu) fills its own while this one
// adds up its parts. Small steps are a chain of latencies, most of which lie in those two shadows; in the light lie the
// end of the predecessor, q, 16 keys' products, the sum over the warps, the arrival and the sum over the parts.
//
// Before it waits for its predecessor (the kernel that writes q and this step's keys) it reads the plan and fills its
// rings with keys of earlier steps, which launch.h allows; of a unit with both kinds of keys this step's follow after
// the wait. The successor is let in when the last unit has been asked for: before our own wait where the keys are few.
//
// From the pair's end on, a warp works by itself on a quarter of each head's elements, so that no barrier of the block
// stands between its part's stores, its arrival (a counter for each quarter) and, where it is the last, its loads of
// all parts' quarters, which are all in flight at once.
//
// Keys past the row's end are written as zeros by the copy (a freed page's NaN never comes in), and their scores are
// masked.
//
// Tried: 8 warps and 230 KB of shared memory a block, barriers around a single arrival: 7.5 us at 1K, 18.2 us at 8K as
// a stage, of which 6 us and 7 us were the chain of latencies. On paper: a cluster for a pair, its parts exchanged in
// shared memory, would save the way through L2 (0.5 us), but pairs longer than a cluster need that way all the same,
// and 132 SMs are not a whole number of clusters of 8 or 16.
#include "kernels/cuda/attention/decode_attend.h"
#include "kernels/cuda/attention/decode_cache.h"
#include "kernels/cuda/attention/decode_line.h"
#include "kernels/cuda/attention/fragments.h"
#include "kernels/cuda/device/shared.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx/load.h"
#include "kernels/cuda/ptx/pdl.h"

namespace l4::cuda {

namespace {

constexpr int kWarps = 4, kThreads = 32 * kWarps;
constexpr int kStages = 3;

// What a part of a pair's keys comes to, unnormalised; maxima in base 2. A slice is a quarter of each head's elements,
// and all that a warp writes and reads.
constexpr int kSlice = kHd / kWarps, kSliceQuads = kSlice / 4;
struct Slice {
  float values[kHeads][kSlice];
  float2 top_and_sum[kHeads];
};
struct alignas(16) Part {
  Slice slices[kWarps];
};

struct DecodeArgs {
  PagedKv kv;
  const bf16* q;       // [T, H, 128]
  bf16* out;           // [T, H, 128]
  int32_t group;       // query heads of a kv head
  float scale;         // times log2(e), the cache's factor and the keys' scale where all have one
  float value_scale;   // the same of values
  Part* parts;         // [2 * blocks]: of a block's first pair, and of its last where that is another one
  uint32_t* counters;  // [blocks][kWarps]: of the slices of the pair that is cut at a block's end
};

template <class Cache>
constexpr size_t kSharedBytes = size_t(kWarps) * kStages* Cache::kStageBytes + sizeof(Meeting<kWarps>);
static_assert(kSharedBytes<Bf16Cache> <= kHalfShared - kHalfSharedStep);  // small_m.cu
static_assert(kSharedBytes<Fp8Cache> <= kHalfShared - kHalfSharedStep);

// This warp's slice of n parts, to bf16 out [group, 128] from its first element on. slice(i) is the i-th part's. Eight
// lanes hold a slice's 32 elements of a head, so the warp takes four parts beside each other (slots), and at once as
// many as lie in the registers: their loads do not wait for each other. Of maxima and sums lane `quad` of each slot has
// those of head `quad`. Heads past the last have garbage, which stays with them.
template <class SliceAt>
__device__ void combine(int32_t n, const SliceAt& slice, int32_t group, int lane, bf16* out) {
  constexpr int kSlots = 32 / kSliceQuads, kPartsAtOnce = 5, kHeadsAtOnce = 5;
  static_assert(kSliceQuads == kHeads && kSlots == 4);
  const int slot = lane / kSliceQuads, quad = lane % kSliceQuads;
  for (int first_head = 0;; first_head = kHeads - kHeadsAtOnce) {
    float top = -INFINITY, sum = 0, acc[kHeadsAtOnce][4] = {};
    for (int32_t first = 0; first < n; first += kSlots * kPartsAtOnce) {
      float2 top_and_sum[kPartsAtOnce];
      float4 values[kPartsAtOnce][kHeadsAtOnce];
#pragma unroll
      for (int p = 0; p < kPartsAtOnce; ++p) {
        // Past the last part a copy of it, which does not count: of few bytes, since the slots share it.
        const Slice* from = slice(min(first + p * kSlots + slot, n - 1));
        top_and_sum[p] = __ldcg(&from->top_and_sum[quad]);
#pragma unroll
        for (int h = 0; h < kHeadsAtOnce; ++h)
          values[p][h] = __ldcg(reinterpret_cast<const float4*>(from->values[first_head + h]) + quad);
      }
      float next = top;
#pragma unroll
      for (int p = 0; p < kPartsAtOnce; ++p) {
        if (first + p * kSlots + slot >= n) top_and_sum[p].x = -INFINITY;
        next = fmaxf(next, top_and_sum[p].x);
      }
#pragma unroll
      for (int offset = kSliceQuads; offset < 32; offset *= 2)
        next = fmaxf(next, __shfl_xor_sync(kWholeWarp, next, offset));
      if (first > 0) {
        const float shrink = weight_of(top, next);
        sum *= shrink;
#pragma unroll
        for (int h = 0; h < kHeadsAtOnce; ++h) {
          const float of_head = __shfl_sync(kWholeWarp, shrink, first_head + h);
#pragma unroll
          for (float& v : acc[h]) v *= of_head;
        }
      }
      top = next;
#pragma unroll
      for (int p = 0; p < kPartsAtOnce; ++p) {
        const float weight = weight_of(top_and_sum[p].x, top);
        sum += weight * top_and_sum[p].y;
#pragma unroll
        for (int h = 0; h < kHeadsAtOnce; ++h) {
          const float of_head = __shfl_sync(kWholeWarp, weight, slot * kSliceQuads + first_head + h);
          acc[h][0] += of_head * values[p][h].x;
          acc[h][1] += of_head * values[p][h].y;
          acc[h][2] += of_head * values[p][h].z;
          acc[h][3] += of_head * values[p][h].w;
        }
      }
    }
    // Over the slots: a lane keeps that one of its four elements which has its slot's number.
#pragma unroll
    for (int offset = kSliceQuads; offset < 32; offset *= 2) sum += __shfl_xor_sync(kWholeWarp, sum, offset);
    const float factor = __fdividef(1, sum);
    const bool upper = slot / 2, odd = slot % 2;
#pragma unroll
    for (int h = 0; h < kHeadsAtOnce; ++h) {
      float(&v)[4] = acc[h];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float send = upper ? v[i] : v[i + 2];
        v[i] = (upper ? v[i + 2] : v[i]) + __shfl_xor_sync(kWholeWarp, send, 2 * kSliceQuads);
      }
      const float send = odd ? v[0] : v[1];
      v[0] = (odd ? v[1] : v[0]) + __shfl_xor_sync(kWholeWarp, send, kSliceQuads);
      v[0] *= __shfl_sync(kWholeWarp, factor, first_head + h);
    }
#pragma unroll
    for (int h = 0; h < kHeadsAtOnce; ++h)
      if (first_head + h < group) out[(first_head + h) * kHd + quad * 4 + slot] = __float2bfloat16_rn(acc[h][0]);
    if (first_head + kHeadsAtOnce >= group) return;
  }
}

// A (row, kv head): where its queries and outputs begin, and the blocks that have its units.
struct Pair {
  int64_t first_element;
  uint32_t first_block, last_block;
  bool starts_block;  // it is its first block's first pair, too
};

// This warp's slice of the warps' states of a pair or of this block's part of it, added up, and its output if no other
// part's is missing.
__device__ void finish(const DecodeArgs& args, const Pair& pair, bool is_blocks_first, const Meeting<kWarps>& meeting, int warp,
                       int lane) {
  const bool is_whole = pair.first_block == pair.last_block;
  bf16* out = args.out + pair.first_element + warp * kSlice;
  Slice& mine = args.parts[2 * blockIdx.x + (is_blocks_first ? 0 : 1)].slices[warp];
  const int element = lane % kSliceQuads * 4;
  constexpr int kHeadsAtOnce = 32 / kSliceQuads, kTurns = kHeads / kHeadsAtOnce;
  Sum sums[kTurns];
#pragma unroll
  for (int i = 0; i < kTurns; ++i)  // heads past the last are summed like others, but not stored
    sums[i] = add_warps(meeting, i * kHeadsAtOnce + lane / kSliceQuads, warp * kSlice + element);
#pragma unroll
  for (int i = 0; i < kTurns; ++i) {
    const int head = i * kHeadsAtOnce + lane / kSliceQuads;
    if (head >= args.group) continue;
    if (is_whole) {
      sums[i].put(out + head * kHd + element);
    } else {
      *reinterpret_cast<float4*>(mine.values[head] + element) =
          make_float4(sums[i].values[0], sums[i].values[1], sums[i].values[2], sums[i].values[3]);
      if (element == 0) mine.top_and_sum[head] = make_float2(sums[i].top, sums[i].sum);
    }
  }
  if (is_whole) return;
  uint32_t* counter = args.counters + pair.first_block * kWarps + warp;
  uint32_t n_before = 0;
  __syncwarp();
  // Releases what the warp has written, acquires the others' slices.
  if (lane == 0) n_before = fetch_add_gpu(counter, 1);
  __syncwarp();
  n_before = __shfl_sync(kWholeWarp, n_before, 0);
  const uint32_t n = pair.last_block - pair.first_block + 1;
  if (n_before != n - 1) return;
  if (lane == 0) *counter = 0;
  const Part* parts = args.parts + 2 * pair.first_block;
  const int first_part = pair.starts_block ? 0 : 1;
  combine(
      int32_t(n), [&](int32_t i) { return &parts[i == 0 ? first_part : 2 * i].slices[warp]; }, args.group, lane, out);
}

template <class Cache>
__global__ void __launch_bounds__(kThreads, 2) decode(const __grid_constant__ DecodeArgs args) {
  constexpr int kUnitKeys = kWarps * Cache::kStepKeys;
  using Scales = typename Cache::Scales;
  const PagedKv& kv = args.kv;
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  std::byte* ring = dynamic_shared<std::byte>() + warp * kStages * Cache::kStageBytes;
  auto& meeting = *reinterpret_cast<Meeting<kWarps>*>(dynamic_shared<std::byte>() + kWarps * kStages * Cache::kStageBytes);

  Place<kUnitKeys> place;
  const Line line = find_place(kv, lane, place);
  if (blockIdx.x >= line.n_parts) {
    let_successor_start();
    return wait_for_predecessor();
  }
  const uint32_t begin = line.begin(blockIdx.x), end = line.begin(blockIdx.x + 1);

  // This warp's keys of a unit. n_old: of earlier steps, n_valid: that the row sees; below 0 or above a step's, too.
  struct Keys {
    const std::byte* page;
    int64_t entry;  // the first one's, among those of the page's heads
    int n_old, n_valid;
    __device__ const std::byte* k(const PagedKv& kv) const { return page + kv.k_offset + entry * Cache::kRowBytes; }
    __device__ const std::byte* v(const PagedKv& kv) const { return page + kv.v_offset + entry * Cache::kRowBytes; }
  };
  auto scales_of = [&](const Keys& keys) { return Scales::load(kv, keys.page, keys.entry, lane); };
  // Loads run ahead of the work by kStages - 1 units, page numbers by one more; one group of copies a unit, empty ones
  // at the end.
  Place<kUnitKeys> ahead = place;
  uint32_t next = begin;  // the unit at `ahead`
  int32_t page = ahead.page(kv);
  auto next_keys = [&] {
    const int first = int(ahead.unit) * kUnitKeys + warp * Cache::kStepKeys;
    const Keys keys{kv.base + page * kv.page_stride,
                    int64_t(ahead.head) * kFastPageTokens + first % int(kFastPageTokens), ahead.span.past - first,
                    ahead.span.past + ahead.row + 1 - first};
    if (++next < end) {
      if (++ahead.unit == ahead.n_units) ahead.next_pair(kv);
      page = ahead.page(kv);
    }
    return keys;
  };

  Keys begun[kStages - 1] = {};
  Scales scales[kStages - 1];  // of the units whose rows are on their way
#pragma unroll
  for (int i = 0; i < kStages - 1; ++i) {
    if (next < end) {
      begun[i] = next_keys();
      load_rows<Cache>(ring + i * Cache::kStageBytes, begun[i].k(kv), begun[i].v(kv),
                       min(begun[i].n_old, begun[i].n_valid), lane);
      scales[i] = scales_of(begun[i]);
    }
    cp_async_commit();
  }
  if (next == end) let_successor_start();
  wait_for_predecessor();

  Query<Cache> query;
  query.load(args.q + place.first_element(kv, args.group), args.group, lane);
  bool any_new = false;
#pragma unroll
  for (int i = 0; i < kStages - 1; ++i) any_new |= begun[i].n_old < Cache::kStepKeys && begun[i].n_valid > 0;
  if (any_new) {
    cp_async_wait<0>();
#pragma unroll
    for (int i = 0; i < kStages - 1; ++i) {
      if (begun[i].n_valid <= 0) continue;
      load_new_rows<Cache>(ring + i * Cache::kStageBytes, begun[i].k(kv), begun[i].v(kv), begun[i].n_old,
                           begun[i].n_valid, lane);
      scales[i] = scales_of(begun[i]);
    }
    cp_async_commit();
    cp_async_wait<0>();
  }

  int stage = 0, load_stage = kStages - 1;
  for (uint32_t unit = begin; unit < end;) {
    // One pair, or this block's part of it: n units.
    const uint32_t pair_begin = unit - place.unit, first_block = line.part_of(pair_begin);
    const Pair pair{place.first_element(kv, args.group), first_block, line.part_of(pair_begin + place.n_units - 1),
                    line.begin(first_block) == pair_begin};
    const uint32_t n = min(place.n_units - place.unit, end - unit);
    int n_valid = place.span.past + place.row + 1 - (int(place.unit) * kUnitKeys + warp * Cache::kStepKeys);
    State state;
    state.clear();
    for (uint32_t i = 0; i < n; ++i, n_valid -= kUnitKeys) {
      cp_async_wait<kStages - 2>();
      __syncwarp();  // every lane's copies are there, and every lane is done with the stage that comes next
      const Scales now = scales[0];
#pragma unroll
      for (int j = 0; j + 1 < kStages - 1; ++j) scales[j] = scales[j + 1];
      if (next < end) {
        const Keys keys = next_keys();
        load_rows<Cache>(ring + load_stage * Cache::kStageBytes, keys.k(kv), keys.v(kv), keys.n_valid, lane);
        scales[kStages - 2] = scales_of(keys);
        load_stage = load_stage + 1 == kStages ? 0 : load_stage + 1;
        if (next == end) let_successor_start();
      }
      cp_async_commit();
      if (n_valid > 0)
        attend(state, query, ring + stage * Cache::kStageBytes, now, n_valid, args.scale, i == 0, lane);
      stage = stage + 1 == kStages ? 0 : stage + 1;
    }
    const bool is_first = unit == begin;
    if (!is_first) __syncthreads();  // every warp has read the meeting of the pair before
    put<Cache>(meeting, state, args.value_scale, warp, lane);
    unit += n;
    if (unit < end) {  // the next query comes while this one is finished
      place.next_pair(kv);
      query.load(args.q + place.first_element(kv, args.group), args.group, lane);
    }
    __syncthreads();
    finish(args, pair, is_first, meeting, warp, lane);
  }
  cp_async_wait<0>();  // only empty groups
}

}  // namespace

void decode_attention(const OpContext& ctx, const AttentionArgs& args, bool run) {
  Scratch scratch(ctx.work);
  const int64_t n_blocks = ctx.gpu.n_sms;
  Part* parts = scratch.take_array<Part>(2 * n_blocks);
  if (!run || ctx.measuring()) return;

  L4_CHECK(n_blocks * kWarps <= Gpu::kCounters);
  const PagedKv kv = paged_kv(args.kv, ctx.gpu.step.of(args.kv.kind));
  L4_CHECK(reinterpret_cast<uintptr_t>(kv.spans) % sizeof(KvSpan) == 0);  // span_at
  auto run_with = [&]<class Cache>(Cache) {
    launch({.grid = dim3(unsigned(n_blocks)),
            .block = kThreads,
            .shared_bytes = kSharedBytes<Cache>,
            .stream = ctx.gpu.stream,
            .programmatic = true},
           decode<Cache>,
           DecodeArgs{kv, data<bf16>(args.q), data<bf16>(args.out), int32_t(args.q.shape[1] / kv.n_kv_heads),
                      args.scale * kLog2e * Cache::kFactor * kv.k_scale, Cache::kFactor * kv.v_scale, parts,
                      ctx.gpu.counters});
  };
  args.kv.layout.dtype == DType::f8_e4m3 ? run_with(Fp8Cache()) : run_with(Bf16Cache());
}

}  // namespace l4::cuda
