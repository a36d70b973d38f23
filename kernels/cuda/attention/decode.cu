// Split-KV attention of few rows over long caches: bfloat16, head_dim 128, pages of 128 tokens, up to 8 query heads a
// kv head.
//
// Contract: paged_attention for the rows of spans of at most kDecodeRows rows. Bytes a row: 2 * 256 a key and kv head,
// read once; 4 * 128 flops a key and query head, 5 flops a byte at 5 heads: the limit is memory.
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
constexpr int kWarps = 4, kThreads = 32 * kWarps;
constexpr int kStepKeys = 16, kUnitKeys = kWarps * kStepKeys;
constexpr int kStages = 3;
constexpr uint32_t kWholeWarp = 0xffffffffu;
constexpr int kPageUnits = int(kFastPageTokens) / kUnitKeys;
static_assert(kPageUnits * kUnitKeys == kFastPageTokens);

// How 16 keys and values come to shared memory and from there to a matrix instruction's registers. Another cache format
// is another such policy.
struct Bf16Cache {
  static constexpr int kRowBytes = kHd * 2;
  static constexpr int kPartBytes = kStepKeys * kRowBytes;  // the keys; the values follow
  static constexpr int kStageBytes = 2 * kPartBytes;

  // 16-byte chunk c of row r lies at chunk c ^ (r % 8): eight rows of one column are in eight different groups of
  // banks.
  __device__ static int place_of(int row, int chunk) { return row * kRowBytes + (chunk ^ (row % 8)) * 16; }
  // Starts the copy of 16 rows of k and v, those from n_valid on as zeros.
  __device__ static void load(std::byte* stage, const std::byte* k, const std::byte* v, int n_valid, int lane) {
#pragma unroll
    for (int i = 0; i < kStepKeys / 2; ++i) {
      const int row = 2 * i + lane / 16, chunk = lane % 16;
      const int from = row * kRowBytes + chunk * 16, to = place_of(row, chunk);
      cp_async_or_zero<16>(stage + to, k + from, row < n_valid);
      cp_async_or_zero<16>(stage + kPartBytes + to, v + from, row < n_valid);
    }
  }
  // The same for rows n_old to n_valid only, over zeros that have arrived: each by who wrote the zeros.
  __device__ static void load_new(std::byte* stage, const std::byte* k, const std::byte* v, int n_old, int n_valid,
                                  int lane) {
#pragma unroll 1
    for (int row = max(n_old, 0); row < min(n_valid, kStepKeys); ++row) {
      if (row % 2 != lane / 16) continue;
      const int chunk = lane % 16, from = row * kRowBytes + chunk * 16, to = place_of(row, chunk);
      cp_async<16>(stage + to, k + from);
      cp_async<16>(stage + kPartBytes + to, v + from);
    }
  }
  // A operand [16 keys, elements 16 i ..].
  __device__ static void keys(uint32_t (&a)[4], const std::byte* stage, int i, int lane) {
    ldmatrix_x4(a, stage + place_of(lane % 16, 2 * i + lane / 16));
  }
  // A operand [elements 16 i .., 16 keys].
  __device__ static void values(uint32_t (&a)[4], const std::byte* stage, int i, int lane) {
    ldmatrix_x4_trans(a, stage + kPartBytes + place_of(lane % 8 + lane / 16 * 8, 2 * i + lane / 8 % 2));
  }
};

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
  float scale;         // times log2(e)
  Part* parts;         // [2 * blocks]: of a block's first pair, and of its last where that is another one
  uint32_t* counters;  // [blocks][kWarps]: of the slices of the pair that is cut at a block's end
};

__device__ inline KvSpan span_at(const PagedKv& kv, int32_t index) {
  static_assert(sizeof(KvSpan) == sizeof(int4));
  const int4 v = *reinterpret_cast<const int4*>(kv.spans + index);
  return {v.x, v.y, v.z, v.w};
}
__device__ inline bool is_decoded(const KvSpan& span) {
  return span.n_rows <= kDecodeRows;
}
__device__ inline uint32_t units_of(const KvSpan& span) {  // of each of its pairs
  return uint32_t(span.past + span.n_rows + kUnitKeys - 1) / kUnitKeys;
}

// A place on the line: unit `unit` of kv head `head` of row `row` of span number `index`.
struct Place {
  KvSpan span;
  int32_t index, row, head;
  uint32_t unit, n_units;

  __device__ void enter(const PagedKv& kv, int32_t span_index) {
    index = span_index;
    span = span_at(kv, index);
    n_units = units_of(span);
    row = head = 0;
    unit = 0;
  }
  __device__ int64_t first_element(const DecodeArgs& args) const {  // of the pair's queries and outputs
    return (int64_t(span.row + row) * args.kv.n_kv_heads + head) * args.group * kHd;
  }
  __device__ int32_t page(const PagedKv& kv) const { return kv.pages[span.table + unit / kPageUnits]; }
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

// The line, fewer than 2^32 units (512 rows at 10 million keys and 8 kv heads are 0.7 * 10^9), and its cut.
struct Line {
  uint32_t n_units, n_parts;  // parts: blocks with work
  uint32_t each, n_larger;    // units of a part; so many of them, the first, have one more
  __device__ uint32_t begin(uint32_t part) const { return part * each + min(part, n_larger); }
  __device__ uint32_t part_of(uint32_t unit) const {
    const uint32_t in_larger = n_larger * (each + 1);
    return unit < in_larger ? unit / (each + 1) : n_larger + (unit - in_larger) / each;
  }
};

// The line, and the place of this block's first unit; of a block without work n_parts alone. A whole warp.
__device__ Line find_place(const PagedKv& kv, int lane, Place& place) {
  const int32_t spans_each = (kv.n_spans + 31) / 32, first = lane * spans_each;
  const int32_t last = min(first + spans_each, kv.n_spans);
  auto units = [&](int32_t i) {
    const KvSpan span = span_at(kv, i);
    return is_decoded(span) ? uint32_t(span.n_rows * kv.n_kv_heads) * units_of(span) : 0;
  };
  uint32_t mine = 0;
#pragma unroll 1
  for (int32_t i = first; i < last; ++i) mine += units(i);
  uint32_t until = mine;  // inclusive prefix sum
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const uint32_t before = __shfl_up_sync(kWholeWarp, until, offset);
    if (lane >= offset) until += before;
  }
  Line line{};
  line.n_units = __shfl_sync(kWholeWarp, until, 31);
  line.n_parts = min(gridDim.x, line.n_units);
  if (blockIdx.x >= line.n_parts) return line;
  line.each = line.n_units / line.n_parts;
  line.n_larger = line.n_units - line.each * line.n_parts;

  uint32_t left = line.begin(blockIdx.x) - (until - mine);  // units from this lane's first span; above all if before it
  const bool is_here = left < mine;
  int32_t index = first;
  if (is_here) {
#pragma unroll 1
    for (uint32_t n; left >= (n = units(index)); ++index) left -= n;
  }
  const int source = __ffs(__ballot_sync(kWholeWarp, is_here)) - 1;
  left = __shfl_sync(kWholeWarp, left, source);
  place.enter(kv, __shfl_sync(kWholeWarp, index, source));
  const uint32_t pair = left / place.n_units;
  place.unit = left - pair * place.n_units;
  place.row = int32_t(pair / uint32_t(kv.n_kv_heads));
  place.head = int32_t(pair) - place.row * kv.n_kv_heads;
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

// B operands: element 16 i + .. of head g. Columns past the last head repeat it; nobody reads their sums.
struct Query {
  uint32_t b[kHd / 16][2];
  __device__ void load(const bf16* heads, int32_t group, int lane) {
    const int g = min(lane / 4, group - 1), t = lane % 4;
    const uint32_t* from = reinterpret_cast<const uint32_t*>(heads + g * kHd) + t;
#pragma unroll
    for (int i = 0; i < kHd / 16; ++i) {
      b[i][0] = from[8 * i];
      b[i][1] = from[8 * i + 4];
    }
  }
};

// 16 keys of which the first n_valid >= 1 count; is_first: the state is clear.
template <class Cache>
__device__ inline void attend(State& state, const Query& query, const std::byte* stage, int n_valid, float scale,
                              bool is_first, int lane) {
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
  if (is_first) {
    state.top[0] = next[0];
    state.top[1] = next[1];
  } else if (__any_sync(kWholeWarp, next[0] != state.top[0] || next[1] != state.top[1])) {
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

// Where the warps of a block add up their states.
struct Meeting {
  static constexpr int kStride = kHd + 4;  // four heads beside each other in different banks
  alignas(16) float values[kWarps][kHeads][kStride];
  alignas(16) float top[kHeads][kWarps], sum[kHeads][kWarps];
};
template <class Cache>
constexpr size_t kSharedBytes = size_t(kWarps) * kStages* Cache::kStageBytes + sizeof(Meeting);
static_assert(kSharedBytes<Bf16Cache> <= kHalfShared - kHalfSharedStep);  // small_m.cu

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
      meeting.top[2 * t + i][warp] = state.top[i];
      meeting.sum[2 * t + i][warp] = sum;
    }
#pragma unroll
    for (int j = 0; j < kHd / 16; ++j) {
      meeting.values[warp][2 * t + i][16 * j + g] = state.values[j][i];
      meeting.values[warp][2 * t + i][16 * j + g + 8] = state.values[j][i + 2];
    }
  }
}

// Four elements of a head over a block's keys.
struct Sum {
  float top = -INFINITY, sum = 0, values[4] = {};

  __device__ void add(float weight, float sum_of, float4 v) {
    sum += weight * sum_of;
    values[0] += weight * v.x;
    values[1] += weight * v.y;
    values[2] += weight * v.z;
    values[3] += weight * v.w;
  }
  __device__ void put(bf16* out) const {
    const float factor = __fdividef(1, sum);
    *reinterpret_cast<uint2*>(out) =
        make_uint2(narrow(values[0] * factor, values[1] * factor), narrow(values[2] * factor, values[3] * factor));
  }
};

// Four elements over the warps.
__device__ inline Sum add_warps(const Meeting& meeting, int head, int element) {
  static_assert(kWarps == 4);
  const float4 top = *reinterpret_cast<const float4*>(meeting.top[head]);
  const float4 sum = *reinterpret_cast<const float4*>(meeting.sum[head]);
  const float tops[kWarps] = {top.x, top.y, top.z, top.w}, sums[kWarps] = {sum.x, sum.y, sum.z, sum.w};
  Sum all;
  all.top = fmaxf(fmaxf(top.x, top.y), fmaxf(top.z, top.w));
#pragma unroll
  for (int w = 0; w < kWarps; ++w)
    all.add(weight_of(tops[w], all.top), sums[w], *reinterpret_cast<const float4*>(meeting.values[w][head] + element));
  return all;
}

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
__device__ void finish(const DecodeArgs& args, const Pair& pair, bool is_blocks_first, const Meeting& meeting, int warp,
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
  const PagedKv& kv = args.kv;
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  std::byte* ring = dynamic_shared<std::byte>() + warp * kStages * Cache::kStageBytes;
  Meeting& meeting = *reinterpret_cast<Meeting*>(dynamic_shared<std::byte>() + kWarps * kStages * Cache::kStageBytes);

  Place place;
  const Line line = find_place(kv, lane, place);
  if (blockIdx.x >= line.n_parts) {
    let_successor_start();
    return wait_for_predecessor();
  }
  const uint32_t begin = line.begin(blockIdx.x), end = line.begin(blockIdx.x + 1);

  // This warp's 16 keys of a unit. n_old: of earlier steps, n_valid: that the row sees; below 0 or above 16, too.
  struct Keys {
    const std::byte *k, *v;
    int n_old, n_valid;
  };
  // Loads run ahead of the work by kStages - 1 units, page numbers by one more; one group of copies a unit, empty ones
  // at the end.
  Place ahead = place;
  uint32_t next = begin;  // the unit at `ahead`
  int32_t page = ahead.page(kv);
  auto next_keys = [&] {
    const int first = int(ahead.unit) * kUnitKeys + warp * kStepKeys;
    const std::byte* row = kv.base + page * kv.page_stride +
                           (int64_t(ahead.head) * kFastPageTokens + first % int(kFastPageTokens)) * Cache::kRowBytes;
    const Keys keys{row + kv.k_offset, row + kv.v_offset, ahead.span.past - first,
                    ahead.span.past + ahead.row + 1 - first};
    if (++next < end) {
      if (++ahead.unit == ahead.n_units) ahead.next_pair(kv);
      page = ahead.page(kv);
    }
    return keys;
  };

  Keys begun[kStages - 1] = {};
#pragma unroll
  for (int i = 0; i < kStages - 1; ++i) {
    if (next < end) {
      begun[i] = next_keys();
      Cache::load(ring + i * Cache::kStageBytes, begun[i].k, begun[i].v, min(begun[i].n_old, begun[i].n_valid), lane);
    }
    cp_async_commit();
  }
  if (next == end) let_successor_start();
  wait_for_predecessor();

  Query query;
  query.load(args.q + place.first_element(args), args.group, lane);
  bool any_new = false;
#pragma unroll
  for (int i = 0; i < kStages - 1; ++i) any_new |= begun[i].n_old < kStepKeys && begun[i].n_valid > 0;
  if (any_new) {
    cp_async_wait<0>();
#pragma unroll
    for (int i = 0; i < kStages - 1; ++i)
      Cache::load_new(ring + i * Cache::kStageBytes, begun[i].k, begun[i].v, begun[i].n_old, begun[i].n_valid, lane);
    cp_async_commit();
    cp_async_wait<0>();
  }

  int stage = 0, load_stage = kStages - 1;
  for (uint32_t unit = begin; unit < end;) {
    // One pair, or this block's part of it: n units.
    const uint32_t pair_begin = unit - place.unit, first_block = line.part_of(pair_begin);
    const Pair pair{place.first_element(args), first_block, line.part_of(pair_begin + place.n_units - 1),
                    line.begin(first_block) == pair_begin};
    const uint32_t n = min(place.n_units - place.unit, end - unit);
    int n_valid = place.span.past + place.row + 1 - (int(place.unit) * kUnitKeys + warp * kStepKeys);
    State state;
    state.clear();
    for (uint32_t i = 0; i < n; ++i, n_valid -= kUnitKeys) {
      cp_async_wait<kStages - 2>();
      __syncwarp();  // every lane's copies are there, and every lane is done with the stage that comes next
      if (next < end) {
        const Keys keys = next_keys();
        Cache::load(ring + load_stage * Cache::kStageBytes, keys.k, keys.v, keys.n_valid, lane);
        load_stage = load_stage + 1 == kStages ? 0 : load_stage + 1;
        if (next == end) let_successor_start();
      }
      cp_async_commit();
      if (n_valid > 0)
        attend<Cache>(state, query, ring + stage * Cache::kStageBytes, n_valid, args.scale, i == 0, lane);
      stage = stage + 1 == kStages ? 0 : stage + 1;
    }
    const bool is_first = unit == begin;
    if (!is_first) __syncthreads();  // every warp has read the meeting of the pair before
    put(meeting, state, warp, lane);
    unit += n;
    if (unit < end) {  // the next query comes while this one is finished
      place.next_pair(kv);
      query.load(args.q + place.first_element(args), args.group, lane);
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
