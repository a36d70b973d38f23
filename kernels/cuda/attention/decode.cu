// Split-KV attention of few rows over long caches: bfloat16, head_dim 128, pages of 128 tokens, up to 8 query heads a
// kv head.
//
// Contract: paged_attention for the rows of spans of at most kDecodeRows rows. Bytes a row: 2 * 256 a key and kv head,
// read once; 4 * 128 flops a key and query head, 5 flops a byte at 5 heads: the limit is memory.
//
// The keys of all (row, kv head) pairs are one line of units of 128 keys (a page), cut into as many equal parts as
// there are blocks, one an SM: the grid is fixed (recorded graphs), one long sequence is as balanced as 64 of mixed
// lengths, and each block finds its part from the spans in its prologue. A pair that lies in one part is finished
// there; the others leave maximum, sum and weighted values of their parts in scratch, and the block that arrives last
// adds them up in the line's order.
//
// Within a block each of 8 warps takes 16 keys of a unit and has a ring of its own (cp.async, 3 stages of 8 KB), so no
// barrier stands in the loop; loads run ahead across the ends of pairs: 128 KB in flight an SM, against 36 KB that an
// H200's 4.56 TB/s need at 1 us. Matrix instructions are m16n8k16 with the keys (for the values: the elements) as the
// 16 rows and the query heads as the 8 columns: at 5 heads 62 % of the work is useful, and the 16 instructions of 16
// keys take about 50 of the 611 cycles that their bytes take on an H100's SM. The other form (heads as rows) would need
// twice as many.
//
// Before it waits for its predecessor (the kernel that writes q and this step's keys) it reads the plan and fills its
// rings with keys of earlier steps. That is allowed because every kernel lets its successor start only after its own
// wait: what was written two or more kernels back is complete, and a step's plan and page copies come before its first
// kernel.
//
// Keys past the row's end are written as zeros by the copy (a freed page's NaN never comes in), and their scores are
// masked.
//
// Tried on paper: two blocks of 4 warps an SM have the same bytes in flight but twice the parts, and at batch 1 the
// last block's additions are a tenth of the time.
#include "kernels/cuda/attention/choose.h"
#include "kernels/cuda/attention/fragments.h"
#include "kernels/cuda/attention/kernels.h"
#include "kernels/cuda/device/shared.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx/cp_async.h"
#include "kernels/cuda/ptx/exp2.h"
#include "kernels/cuda/ptx/ldmatrix.h"
#include "kernels/cuda/ptx/load.h"
#include "kernels/cuda/ptx/mma.h"
#include "kernels/cuda/ptx/movmatrix.h"
#include "kernels/cuda/ptx/pdl.h"

namespace l4::cuda {

namespace {

constexpr int kHd = int(kFastHeadDim);
constexpr int kHeads = int(kMaxGroup);
constexpr int kWarps = 8, kThreads = 32 * kWarps;
constexpr int kStepKeys = 16, kUnitKeys = kWarps * kStepKeys;
constexpr int kStages = 3;
constexpr uint32_t kWholeWarp = 0xffffffffu;
static_assert(kUnitKeys == kFastPageTokens);

// How 16 keys and values come to shared memory and from there to a matrix instruction's registers. Another cache format
// is another such policy.
struct Bf16Cache {
  static constexpr int kRowBytes = kHd * 2;
  static constexpr int kPartBytes = kStepKeys * kRowBytes;  // the keys; the values follow
  static constexpr int kStageBytes = 2 * kPartBytes;

  // The first n_valid of 16 rows from k and v, the others as zeros. 16-byte chunk c of row r lies at chunk c ^ (r % 8):
  // eight rows of one column are in eight different groups of banks.
  __device__ static void load(std::byte* stage, const std::byte* k, const std::byte* v, int n_valid, int lane) {
#pragma unroll
    for (int i = 0; i < kStepKeys / 2; ++i) {
      const int row = 2 * i + lane / 16, chunk = lane % 16;
      const int from = row * kRowBytes + chunk * 16, to = row * kRowBytes + (chunk ^ (row % 8)) * 16;
      cp_async_or_zero<16>(stage + to, k + from, row < n_valid);
      cp_async_or_zero<16>(stage + kPartBytes + to, v + from, row < n_valid);
    }
  }
  // A operand [16 keys, elements 16 i ..].
  __device__ static void keys(uint32_t (&a)[4], const std::byte* stage, int i, int lane) {
    const int row = lane % 16, chunk = 2 * i + lane / 16;
    ldmatrix_x4(a, stage + row * kRowBytes + (chunk ^ (row % 8)) * 16);
  }
  // A operand [elements 16 i .., 16 keys].
  __device__ static void values(uint32_t (&a)[4], const std::byte* stage, int i, int lane) {
    const int row = lane % 8 + lane / 16 * 8, chunk = 2 * i + lane / 8 % 2;
    ldmatrix_x4_trans(a, stage + kPartBytes + row * kRowBytes + (chunk ^ (row % 8)) * 16);
  }
};

// What a part of a pair's keys comes to, unnormalised; maxima in base 2.
struct Part {
  float values[kHeads][kHd], top[kHeads], sum[kHeads];
};

struct DecodeArgs {
  PagedKv kv;
  const bf16* q;       // [T, H, 128]
  bf16* out;           // [T, H, 128]
  int32_t group;       // query heads of a kv head
  float scale;         // times log2(e)
  Part* parts;         // [2 * blocks]: of a block's first pair, and of its last where that is another one
  uint32_t* counters;  // [blocks]: of the pair that is cut at a block's end
};

__device__ inline int32_t units_of(const KvSpan& span) {
  return (span.past + span.n_rows + kUnitKeys - 1) / kUnitKeys;
}
__device__ inline bool is_decoded(const KvSpan& span) {
  return span.n_rows <= kDecodeRows;
}

// A place on the line: unit `unit` of kv head `head` of row `row` of span number `index`.
struct Place {
  KvSpan span;
  int32_t index, row, head, unit, n_units;

  __device__ void enter(const PagedKv& kv, int32_t span_index) {
    index = span_index;
    span = kv.spans[index];
    n_units = units_of(span);
    row = head = unit = 0;
  }
  __device__ int64_t first_element(const DecodeArgs& args) const {  // of the pair's queries and outputs
    return (int64_t(span.row + row) * args.kv.n_kv_heads + head) * args.group * kHd;
  }
  // To the next pair. Must not be called at the line's last.
  __device__ void next_pair(const PagedKv& kv) {
    unit = 0;
    if (++head < kv.n_kv_heads) return;
    head = 0;
    if (++row < span.n_rows) return;
    do {
      enter(kv, index + 1);
    } while (!is_decoded(span));
  }
};

// The line and this block's part of it.
struct Line {
  int64_t n_units, n_parts;  // parts: blocks with work
  __device__ int64_t begin(int64_t part) const { return n_units * part / n_parts; }
  __device__ int64_t part_of(int64_t unit) const { return ((unit + 1) * n_parts - 1) / n_units; }
};

// The line, and the place of this block's first unit (undefined for a block without work). All threads of the block;
// `shared`: 48 bytes, aligned to 16, free again at the end.
__device__ Line find_place(const PagedKv& kv, Place& place, void* shared) {
  int64_t* warp_units = static_cast<int64_t*>(shared);
  int32_t* found = reinterpret_cast<int32_t*>(warp_units + kWarps);
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  const int32_t spans_each = (kv.n_spans + kThreads - 1) / kThreads, first = int32_t(threadIdx.x) * spans_each;
  const int32_t last = min(first + spans_each, kv.n_spans);
  auto units = [&](int32_t i) {
    const KvSpan span = kv.spans[i];
    return is_decoded(span) ? int64_t(span.n_rows) * kv.n_kv_heads * units_of(span) : 0;
  };
  int64_t mine = 0;
  for (int32_t i = first; i < last; ++i) mine += units(i);
  int64_t until = mine;  // inclusive prefix sum
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const int64_t before = __shfl_up_sync(kWholeWarp, until, offset);
    if (lane >= offset) until += before;
  }
  if (lane == 31) warp_units[warp] = until;
  __syncthreads();
  Line line{0, 0};
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    if (w == warp) until += line.n_units;
    line.n_units += warp_units[w];
  }
  line.n_parts = min(int64_t(gridDim.x), line.n_units);
  if (int64_t(blockIdx.x) >= line.n_parts) return line;
  int64_t left = line.begin(blockIdx.x) - (until - mine);  // units from this thread's first span
  if (left >= 0 && left < mine) {
    int32_t i = first;
    for (; left >= units(i); ++i) left -= units(i);
    const int32_t n_units = units_of(kv.spans[i]);
    const int64_t pair = left / n_units;
    found[0] = i;
    found[1] = int32_t(pair / kv.n_kv_heads);
    found[2] = int32_t(pair % kv.n_kv_heads);
    found[3] = int32_t(left % n_units);
  }
  __syncthreads();
  place.enter(kv, found[0]);
  place.row = found[1], place.head = found[2], place.unit = found[3];
  __syncthreads();
  return line;
}

// A warp's running softmax over its keys. As of mma.h: this thread has the columns (heads) 2 t and 2 t + 1.
struct State {
  float top[2], sum[2];       // sum: of this thread's keys only
  float values[kHd / 16][4];  // [elements, heads]

  __device__ void clear() {
    top[0] = top[1] = -INFINITY;
    sum[0] = sum[1] = 0;
#pragma unroll
    for (int i = 0; i < kHd / 16; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) values[i][j] = 0;
  }
};

// B operands: element 16 i + .. of head g.
struct Query {
  uint32_t b[kHd / 16][2];
  __device__ void load(const bf16* heads, int32_t group, int lane) {
    const int g = lane / 4, t = lane % 4;
    const uint32_t* from = reinterpret_cast<const uint32_t*>(heads + g * kHd) + t;
#pragma unroll
    for (int i = 0; i < kHd / 16; ++i) {
      b[i][0] = g < group ? from[8 * i] : 0;
      b[i][1] = g < group ? from[8 * i + 4] : 0;
    }
  }
};

// 16 keys of which the first n_valid >= 1 count.
template <class Cache>
__device__ inline void attend(State& state, const Query& query, const std::byte* stage, int n_valid, float scale,
                              int lane) {
  float even[4] = {}, odd[4] = {};
#pragma unroll
  for (int i = 0; i < kHd / 16; ++i) {
    uint32_t a[4];
    Cache::keys(a, stage, i, lane);
    mma_m16n8k16(i % 2 ? odd : even, a, query.b[i]);
  }
  float s[4];  // keys g (0, 1) and g + 8 (2, 3), heads 2 t (0, 2) and 2 t + 1 (1, 3)
  const int key = lane / 4;
#pragma unroll
  for (int i = 0; i < 4; ++i) s[i] = key + i / 2 * 8 < n_valid ? (even[i] + odd[i]) * scale : -INFINITY;
  float next[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    next[i] = fmaxf(s[i], s[i + 2]);
#pragma unroll
    for (int offset = 4; offset < 32; offset *= 2)
      next[i] = fmaxf(next[i], __shfl_xor_sync(kWholeWarp, next[i], offset));
    next[i] = fmaxf(next[i], state.top[i]);
  }
  if (__any_sync(kWholeWarp, next[0] != state.top[0] || next[1] != state.top[1])) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float shrink = exp2_approx(state.top[i] - next[i]);
      state.top[i] = next[i];
      state.sum[i] *= shrink;
#pragma unroll
      for (int j = 0; j < kHd / 16; ++j) {
        state.values[j][i] *= shrink;
        state.values[j][i + 2] *= shrink;
      }
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) s[i] = exp2_approx(s[i] - state.top[i % 2]);
  state.sum[0] += s[0] + s[2];
  state.sum[1] += s[1] + s[3];
  const uint32_t weights[2] = {transpose_8x8(narrow(s[0], s[1])), transpose_8x8(narrow(s[2], s[3]))};
#pragma unroll
  for (int i = 0; i < kHd / 16; ++i) {
    uint32_t a[4];
    Cache::values(a, stage, i, lane);
    mma_m16n8k16(state.values[i], a, weights);
  }
}

// Where the warps of a block add up their states, and the last block the parts.
struct Meeting {
  static constexpr int kStride = kHd + 4;  // four heads beside each other in different banks
  alignas(16) float values[kWarps][kHeads][kStride];
  float top[kWarps][kHeads], sum[kWarps][kHeads];
  bool last;
};
template <class Cache>
constexpr size_t kSharedBytes = size_t(kWarps) * kStages* Cache::kStageBytes + sizeof(Meeting);
static_assert(kSharedBytes<Bf16Cache> <= 227 * 1024);

// 2^(x - top), where both may be -infinity: no key was seen.
__device__ inline float weight_of(float x, float top) {
  return exp2_approx(x - (top == -INFINITY ? 0.0f : top));
}

__device__ inline void put(Meeting& meeting, const State& state, int warp, int lane) {
  const int g = lane / 4, t = lane % 4;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float sum = state.sum[i];
#pragma unroll
    for (int offset = 4; offset < 32; offset *= 2) sum += __shfl_xor_sync(kWholeWarp, sum, offset);
    if (g == 0) {
      meeting.top[warp][2 * t + i] = state.top[i];
      meeting.sum[warp][2 * t + i] = sum;
    }
#pragma unroll
    for (int j = 0; j < kHd / 16; ++j) {
      meeting.values[warp][2 * t + i][16 * j + g] = state.values[j][i];
      meeting.values[warp][2 * t + i][16 * j + g + 8] = state.values[j][i + 2];
    }
  }
}

// One element of a head over the warps, with the head's maximum and sum.
__device__ inline float add_warps(const Meeting& meeting, int head, int element, float& top, float& sum) {
  top = meeting.top[0][head];
#pragma unroll
  for (int w = 1; w < kWarps; ++w) top = fmaxf(top, meeting.top[w][head]);
  float value = 0;
  sum = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    const float weight = weight_of(meeting.top[w][head], top);
    sum += weight * meeting.sum[w][head];
    value += weight * meeting.values[w][head][element];
  }
  return value;
}

// Heads [0, group) of n parts in order, to bf16 out [group, 128]. part(i) says where the i-th is. All threads.
template <class PartAt>
__device__ void combine(int32_t n, const PartAt& part, int32_t group, Meeting& meeting, bf16* out) {
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  // Each part's weight in the result, a warp a head.
  static_assert(kWarps == kHeads);
  float* weights = &meeting.values[0][0][0];  // [n][kHeads]
  if (warp < group) {
    float top = -INFINITY, sum = 0;
    for (int32_t i = lane; i < n; i += 32) {
      const float part_top = __ldcg(&part(i)->top[warp]), part_sum = __ldcg(&part(i)->sum[warp]);
      const float next = fmaxf(top, part_top);
      sum = sum * weight_of(top, next) + part_sum * weight_of(part_top, next);
      top = next;
      weights[i * kHeads + warp] = part_top;
    }
    const float whole = warp_max(top), factor = 1 / warp_sum(sum * weight_of(top, whole));
    for (int32_t i = lane; i < n; i += 32) {
      float& weight = weights[i * kHeads + warp];
      weight = weight_of(weight, whole) * factor;
    }
  }
  __syncthreads();
  // The parts' values, every eighth part to a warp, four elements to a lane.
  float acc[kHeads][4] = {};
#pragma unroll 2
  for (int32_t i = warp; i < n; i += kWarps) {
    const Part* p = part(i);
#pragma unroll
    for (int head = 0; head < kHeads; ++head) {
      if (head >= group) continue;
      const float4 v = __ldcg(reinterpret_cast<const float4*>(p->values[head]) + lane);
      const float weight = weights[i * kHeads + head];
      acc[head][0] += weight * v.x;
      acc[head][1] += weight * v.y;
      acc[head][2] += weight * v.z;
      acc[head][3] += weight * v.w;
    }
  }
  __syncthreads();
#pragma unroll
  for (int head = 0; head < kHeads; ++head)
    if (head < group)
      *(reinterpret_cast<float4*>(meeting.values[warp][head]) + lane) =
          make_float4(acc[head][0], acc[head][1], acc[head][2], acc[head][3]);
  __syncthreads();
  for (int i = int(threadIdx.x); i < group * kHd; i += kThreads) {
    float value = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) value += meeting.values[w][i / kHd][i % kHd];
    out[i] = __float2bfloat16_rn(value);
  }
}

// A (row, kv head): its first unit on the line, where its queries and outputs begin, and its number of units.
struct Pair {
  int64_t begin, first_element;
  int32_t n_units;
};

// The warps' states of a pair or of this block's part of it, added up, and its output if no other part is missing.
__device__ void finish(const DecodeArgs& args, const Line& line, const Pair& pair, bool is_whole, bool is_blocks_first,
                       Meeting& meeting) {
  bf16* out = args.out + pair.first_element;
  if (is_whole) {
    for (int i = int(threadIdx.x); i < args.group * kHd; i += kThreads) {
      float top, sum;
      const float value = add_warps(meeting, i / kHd, i % kHd, top, sum);
      out[i] = __float2bfloat16_rn(value / sum);
    }
    return;
  }
  Part& part = args.parts[2 * blockIdx.x + (is_blocks_first ? 0 : 1)];
  for (int i = int(threadIdx.x); i < args.group * kHd; i += kThreads) {
    float top, sum;
    part.values[i / kHd][i % kHd] = add_warps(meeting, i / kHd, i % kHd, top, sum);
    if (i % kHd == 0) part.top[i / kHd] = top, part.sum[i / kHd] = sum;
  }
  const int64_t first_block = line.part_of(pair.begin), last_block = line.part_of(pair.begin + pair.n_units - 1);
  // Not last_to_arrive(): its static shared memory, padded to 1 KB, would keep our blocks off an SM that still runs
  // the predecessor's.
  __syncthreads();
  if (threadIdx.x == 0) {  // releases what the block has written, acquires what the others have
    const uint32_t before = fetch_add_gpu(&args.counters[first_block], 1);
    meeting.last = before == uint32_t(last_block - first_block);
    if (meeting.last) args.counters[first_block] = 0;
  }
  __syncthreads();
  if (!meeting.last) return;
  const bool first_is_whole = line.begin(first_block) == pair.begin;  // it is its block's first pair, too
  const Part* parts = args.parts + 2 * first_block;
  combine(
      int32_t(last_block - first_block + 1), [&](int32_t i) { return parts + 2 * i + (i == 0 && !first_is_whole); },
      args.group, meeting, out);
}

template <class Cache>
__global__ void __launch_bounds__(kThreads, 1) decode(const __grid_constant__ DecodeArgs args) {
  const PagedKv& kv = args.kv;
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  std::byte* ring = dynamic_shared<std::byte>() + warp * kStages * Cache::kStageBytes;
  Meeting& meeting = *reinterpret_cast<Meeting*>(dynamic_shared<std::byte>() + kWarps * kStages * Cache::kStageBytes);

  Place place;
  const Line line = find_place(kv, place, &meeting);
  if (int64_t(blockIdx.x) >= line.n_parts) return wait_for_predecessor();
  const int64_t begin = line.begin(blockIdx.x), end = line.begin(int64_t(blockIdx.x) + 1);

  // Loads run ahead of the work by kStages - 1 units; one group a unit, empty ones at the end.
  Place ahead = place;
  int64_t loaded = begin;
  int load_stage = 0;
  auto load_next = [&] {
    if (loaded < end) {
      const int64_t page = kv.pages[ahead.span.table + ahead.unit];
      const std::byte* row = kv.base + page * kv.page_stride +
                             (int64_t(ahead.head) * kFastPageTokens + warp * kStepKeys) * Cache::kRowBytes;
      const int32_t n_valid = ahead.span.past + ahead.row + 1 - (ahead.unit * kUnitKeys + warp * kStepKeys);
      Cache::load(ring + load_stage * Cache::kStageBytes, row + kv.k_offset, row + kv.v_offset, n_valid, lane);
      load_stage = load_stage + 1 == kStages ? 0 : load_stage + 1;
      if (++loaded < end && ++ahead.unit == ahead.n_units) ahead.next_pair(kv);
    }
    cp_async_commit();
  };
  for (int i = 0; i < kStages - 1; ++i) {
    const bool all_old = ahead.unit * kUnitKeys + (warp + 1) * kStepKeys <= ahead.span.past;
    if (loaded < end && !all_old) wait_for_predecessor();
    load_next();
  }
  wait_for_predecessor();
  let_successor_start();

  int stage = 0;
  Query query;
  query.load(args.q + place.first_element(args), args.group, lane);
  for (int64_t unit = begin; unit < end;) {
    // One pair, or this block's part of it: n units.
    const Pair pair{unit - place.unit, place.first_element(args), place.n_units};
    const int32_t n = int32_t(min(int64_t(place.n_units - place.unit), end - unit));
    int32_t n_valid = place.span.past + place.row + 1 - (place.unit * kUnitKeys + warp * kStepKeys);
    State state;
    state.clear();
    for (int32_t i = 0; i < n; ++i, n_valid -= kUnitKeys) {
      cp_async_wait<kStages - 2>();
      __syncwarp();  // every lane's copies are there, and every lane is done with the stage that comes next
      load_next();
      if (n_valid > 0) attend<Cache>(state, query, ring + stage * Cache::kStageBytes, n_valid, args.scale, lane);
      stage = stage + 1 == kStages ? 0 : stage + 1;
    }
    put(meeting, state, warp, lane);
    const bool is_first = unit == begin;
    unit += n;
    if (unit < end) {  // the next query comes while this one is finished
      place.next_pair(kv);
      query.load(args.q + place.first_element(args), args.group, lane);
    }
    __syncthreads();
    finish(args, line, pair, n == pair.n_units, is_first, meeting);
    __syncthreads();  // the meeting may begin again
  }
  cp_async_wait<0>();  // only empty groups
}

}  // namespace

void decode_attention(const OpContext& ctx, const AttentionArgs& args, bool run) {
  Scratch scratch(ctx.work);
  const int64_t n_blocks = ctx.gpu.n_sms;
  Part* parts = scratch.take_array<Part>(2 * n_blocks);
  if (!run || ctx.measuring()) return;

  L4_CHECK(n_blocks <= Gpu::kCounters &&
           n_blocks * kHeads * int64_t(sizeof(float)) <= int64_t(sizeof(Meeting::values)));
  const PagedKv kv = paged_kv(args.kv, ctx.gpu.step.of(args.kv.kind));
  launch({.grid = dim3(unsigned(n_blocks)),
          .block = kThreads,
          .shared_bytes = kSharedBytes<Bf16Cache>,
          .stream = ctx.gpu.stream,
          .programmatic = true},
         decode<Bf16Cache>,
         DecodeArgs{kv, data<bf16>(args.q), data<bf16>(args.out), int32_t(args.q.shape[1] / kv.n_kv_heads),
                    args.scale * kLog2e, parts, ctx.gpu.counters});
}

}  // namespace l4::cuda
