// Sampling (kernels/cpu/sample.cpp is the contract, ops/sampling.h its words). Compiled without contraction to fused
// multiply-adds.
//
//   edit    rows with biases, penalties or masks: new logits of the tokens named (a list), a bitmap of the others
//   scan    every logit once: NaN and infinity, the best token; this is all that a greedy row needs
//   weigh   draws: the Gumbel-max over all tokens, or, where top-k or top-p cut, a histogram of probabilities (2,048
//           buckets of 1/64 in the logarithm) that tells in which bucket the cut lies
//   weigh   logprobs: the sum of exponentials, and the same histogram for the n best
//   gather  the few tokens down to that bucket, into a list
//   finish  a block a row: the cut itself, then the Gumbel-max among the kept
//
// Each row is cut into parts that depend on the vocabulary alone, a block a part; the last block of a row to arrive
// adds the parts up. A row with more than kListed tokens above its cut (hot temperatures, equal logits) is finished
// over all its logits: right, but slower. Bytes a row: 4 V for scan, the same again for each weigh and gather, from the
// L2 cache while the batch is small (64 rows: 52 MB).
#include "kernels/cuda/device/last_block.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx/pdl.h"
#include "kernels/cuda/sample_kernels.h"
#include "ops/sampling_random.h"

namespace l4::cuda::sampling {

namespace {
constexpr int kThreads = 256, kFinishThreads = 512;

// f(id, logit) for the tokens of part `part` of n_parts, as they are: neither patched nor masked.
template <int kBlock, class F>
__device__ void for_plain(const Batch& b, int row, int part, int n_parts, const F& f) {
  const int size = (b.vocab + n_parts - 1) / n_parts, begin = part * size, end = min(begin + size, b.vocab);
  const float* logits = b.logits + int64_t(row) * b.vocab;
  constexpr int kAhead = 4;  // loads in flight
  for (int first = begin + int(threadIdx.x); first < end; first += kAhead * kBlock) {
    float v[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) v[i] = first + i * kBlock < end ? logits[first + i * kBlock] : 0;
#pragma unroll
    for (int i = 0; i < kAhead; ++i)
      if (first + i * kBlock < end) f(first + i * kBlock, v[i]);
  }
}
// The same with the row's biases, penalties and masks.
template <int kBlock, class F>
__device__ void for_edited(const Batch& b, int row, int part, int n_parts, const F& f) {
  const Row& p = b.rows[row];
  const uint32_t* plain = p.edited() ? b.plain + int64_t(row) * b.n_words : nullptr;
  for_plain<kBlock>(b, row, part, n_parts, [&](int id, float v) {
    if (!plain || (plain[id / 32] >> (id % 32) & 1)) f(id, v);
  });
  for (int i = part * kBlock + int(threadIdx.x); i < p.n_patches; i += n_parts * kBlock)
    f(b.patches[p.first_patch + i].id, b.patched[p.first_patch + i]);
}

// Where in a histogram a value that is `below` (0 or more) under the best one goes: 64 buckets a unit, the last for all
// that is 32 or more below.
__device__ inline int bucket_of(float below) {
  return int(fminf(below * 64.0f, float(kBuckets - 1)));
}
__device__ inline unsigned long long fixed_point(float weight, float one) {
  return static_cast<unsigned long long>(weight * one);
}
// Fixed-point before < top_p * total, for whole numbers: before < goal.
__device__ inline unsigned long long goal_of(float top_p, unsigned long long total) {
  return static_cast<unsigned long long>(ceil(double(top_p) * double(total)));
}

// Argmax of z + Gumbel noise; see kernels/cpu/sample.cpp for the test that spares nearly every token the logarithms.
struct GumbelMax {
  uint64_t key;
  Best best;
  float exp_best = 0;
  __device__ void consider(int id, float z, float weight) {
    if (z == -INFINITY || sample_uniform(sample_bits(key, id)) * exp_best > weight * 1.001f) return;
    best.consider(z + sample_gumbel(key, id), id);
    exp_best = expf(best.value);
  }
};
// The draw of a row before any token but the best one, which is always in it.
__device__ inline GumbelMax draw_of(const Row& p, const State& state) {
  GumbelMax draw{.key = p.key};
  draw.consider(state.best, 0, 1);
  return draw;
}
__device__ inline void choose(const Batch& b, int row, int id) {
  b.states[row].choice = id;
  b.states[row].choice_logit = b.logits[int64_t(row) * b.vocab + id];
}

// ---- kernels

__global__ void __launch_bounds__(kThreads) edit_kernel(const __grid_constant__ Batch b) {
  wait_for_predecessor();
  let_successor_start();
  const int row = int(blockIdx.x);
  const Row& p = b.rows[row];
  if (!p.edited()) return;
  const uint32_t* mask = p.mask >= 0 ? b.masks + int64_t(p.mask) * b.n_words : nullptr;
  uint32_t* plain = b.plain + int64_t(row) * b.n_words;
  for (int w = int(threadIdx.x); w < b.n_words; w += kThreads) plain[w] = mask ? mask[w] : ~0u;
  __syncthreads();
  for (int i = int(threadIdx.x); i < p.n_patches; i += kThreads) {
    const Patch patch = b.patches[p.first_patch + i];
    const uint32_t bit = 1u << (patch.id % 32);
    float v = b.logits[int64_t(row) * b.vocab + patch.id] + patch.bias;
    if (patch.forbidden || (mask && !(mask[patch.id / 32] & bit))) v = -INFINITY;
    if (patch.count >= 0) {
      v = v > 0 ? v / p.repetition : v * p.repetition;
      v -= p.frequency * float(patch.count);
      if (patch.count > 0) v -= p.presence;
    }
    b.patched[p.first_patch + i] = v;
    atomicAnd(&plain[patch.id / 32], ~bit);
  }
}

__device__ inline Part reduce(Part part) {
  __shared__ int bad[kThreads / 32];
  __shared__ float highest[kThreads / 32];
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2)
    part.bad = min(part.bad, __shfl_xor_sync(0xffffffffu, part.bad, offset));
  part.raw_highest = warp_max(part.raw_highest);
  if (threadIdx.x % 32 == 0) bad[threadIdx.x / 32] = part.bad, highest[threadIdx.x / 32] = part.raw_highest;
  part.best = block_best<kThreads>(part.best);
  for (int w = 0; w < kThreads / 32; ++w) {
    part.bad = min(part.bad, bad[w]);
    part.raw_highest = fmaxf(part.raw_highest, highest[w]);
  }
  return part;
}

__global__ void __launch_bounds__(kThreads) scan_kernel(const __grid_constant__ Batch b) {
  wait_for_predecessor();
  let_successor_start();
  const int row = int(blockIdx.y);
  constexpr Part kNothing{.bad = INT_MAX, .raw_highest = -INFINITY, .best = {}, .exp_sum = 0};
  Part part = kNothing;
  auto check = [&](int id, float v) {
    if (!(v < INFINITY)) part.bad = min(part.bad, id);
    part.raw_highest = fmaxf(part.raw_highest, v);
  };
  auto consider = [&](int id, float v) { part.best.consider(v, id); };
  if (b.rows[row].edited()) {
    for_plain<kThreads>(b, row, int(blockIdx.x), b.n_parts, check);
    for_edited<kThreads>(b, row, int(blockIdx.x), b.n_parts, consider);
  } else {
    for_plain<kThreads>(b, row, int(blockIdx.x), b.n_parts, [&](int id, float v) { check(id, v), consider(id, v); });
  }
  part = reduce(part);
  Part* parts = b.parts + row * kMaxParts;
  if (threadIdx.x == 0) parts[blockIdx.x] = part;
  if (!last_to_arrive(b.counters + row, b.n_parts)) return;
  part = reduce(int(threadIdx.x) < b.n_parts ? parts[threadIdx.x] : kNothing);
  if (threadIdx.x != 0) return;
  State& state = b.states[row];
  state.bad = part.bad;
  state.bad_logit = part.bad < b.vocab ? b.logits[int64_t(row) * b.vocab + part.bad] : 0;
  state.raw_highest = part.raw_highest;
  state.highest = part.best.value;
  state.best = part.best.id;
  if (state.good()) choose(b, row, part.best.id);
}

// A block's histogram is added to its row's in device memory; the last block fetches the row's counts, and then its
// weights, as sums up to each bucket, and leaves zeros.
__device__ inline void flush(const Histogram& h, uint32_t* counts, unsigned long long* weights) {
  __syncthreads();
  for (int i = int(threadIdx.x); i < kBuckets; i += kThreads) {
    if (h.count[i]) atomicAdd(&counts[i], h.count[i]);
    if (weights && h.amount[i]) atomicAdd(&weights[i], h.amount[i]);
  }
}
template <class From>
__device__ inline void fetch(From* from, unsigned long long (&to)[kBuckets]) {
  __syncthreads();
  for (int i = int(threadIdx.x); i < kBuckets; i += kThreads) to[i] = from[i], from[i] = 0;
  add_up<kThreads>(to);
}

__global__ void __launch_bounds__(kThreads) weigh_draw_kernel(const __grid_constant__ Batch b) {
  __shared__ Histogram h;
  wait_for_predecessor();
  let_successor_start();
  const int row = int(blockIdx.y), part = int(blockIdx.x);
  const Row& p = b.rows[row];
  State& state = b.states[row];
  if (!(p.temperature > 0) || !state.good()) return;
  const float highest = state.highest;
  if (!p.filters()) {
    GumbelMax draw = draw_of(p, state);
    for_edited<kThreads>(b, row, part, b.n_parts, [&](int id, float v) {
      const float z = (v - highest) / p.temperature;
      if (z >= p.lowest) draw.consider(id, z, expf(z));
    });
    Best best = block_best<kThreads>(draw.best);
    Part* parts = b.parts + row * kMaxParts;
    if (threadIdx.x == 0) parts[part].best = best;
    if (!last_to_arrive(b.counters + row, b.n_parts)) return;
    best = block_best<kThreads>(int(threadIdx.x) < b.n_parts ? parts[threadIdx.x].best : Best{});
    if (threadIdx.x == 0) choose(b, row, best.id);
    return;
  }
  const bool weighs = p.top_p < 1;
  clear<kThreads>(h);
  for_edited<kThreads>(b, row, part, b.n_parts, [&](int, float v) {
    const float z = (v - highest) / p.temperature;
    if (z == -INFINITY) return;
    const int bucket = bucket_of(-z);
    atomicAdd(&h.count[bucket], 1u);
    const unsigned long long weight = weighs ? fixed_point(expf(z), b.one) : 0;
    if (weight) atomicAdd(&h.amount[bucket], weight);
  });
  uint32_t* counts = b.bucket_counts + (int64_t(kDraw) * b.n + row) * kBuckets;
  unsigned long long* weights = b.bucket_weights + int64_t(row) * kBuckets;
  flush(h, counts, weighs ? weights : nullptr);
  if (!last_to_arrive(b.counters + row, b.n_parts)) return;
  Cut cut = {};
  fetch(counts, h.amount);
  if (p.top_k > 0 && uint32_t(p.top_k) < h.amount[kBuckets - 1]) {
    cut.top_k = p.top_k;
    cut.bucket = first_to_reach<kThreads>(h.amount, uint32_t(p.top_k));
  } else {
    cut.bucket = kBuckets - 1;
  }
  // The counts make room for the weights.
  for (int i = int(threadIdx.x); i < kBuckets; i += kThreads) h.count[i] = uint32_t(h.amount[i]);
  if (weighs) {
    fetch(weights, h.amount);
    cut.total = h.amount[kBuckets - 1];
    if (cut.top_k == 0) cut.bucket = first_to_reach<kThreads>(h.amount, max(goal_of(p.top_p, cut.total), 1ull));
  }
  __syncthreads();
  cut.n_through = h.count[cut.bucket];
  if (threadIdx.x == 0) state.cut[kDraw] = cut;
}

__global__ void __launch_bounds__(kThreads) weigh_logprobs_kernel(const __grid_constant__ Batch b) {
  __shared__ Histogram h;
  __shared__ double warp_sums[kThreads / 32];
  wait_for_predecessor();
  let_successor_start();
  const int row = int(blockIdx.y), part = int(blockIdx.x);
  const Row& p = b.rows[row];
  State& state = b.states[row];
  if (p.n_best < 0 || !state.good()) return;
  if (p.n_best > 0) clear<kThreads>(h);
  double sum = 0;
  for_plain<kThreads>(b, row, part, b.n_parts, [&](int, float v) {
    const float below = state.raw_highest - v;
    sum += double(expf(-below));
    if (p.n_best > 0) atomicAdd(&h.count[bucket_of(below)], 1u);
  });
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
  if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = sum;
  uint32_t* counts = b.bucket_counts + (int64_t(kBest) * b.n + row) * kBuckets;
  if (p.n_best > 0) flush(h, counts, nullptr);
  __syncthreads();
  Part* parts = b.parts + (int64_t(b.n) + row) * kMaxParts;
  if (threadIdx.x == 0) {
    sum = 0;
    for (double s : warp_sums) sum += s;
    parts[part].exp_sum = sum;
  }
  if (!last_to_arrive(b.counters + b.n + row, b.n_parts)) return;
  if (threadIdx.x == 0) {
    sum = 0;
    for (int i = 0; i < b.n_parts; ++i) sum += parts[i].exp_sum;
    state.exp_sum = sum;
  }
  if (p.n_best == 0) return;
  fetch(counts, h.amount);
  Cut cut = {};
  cut.bucket = first_to_reach<kThreads>(h.amount, uint32_t(p.n_best));
  cut.n_through = uint32_t(h.amount[cut.bucket]);
  if (threadIdx.x == 0) state.cut[kBest] = cut;
}

// Whether this row has a set to cut, and it fits its list.
__device__ inline bool has(const Batch& b, int row, int problem) {
  const Row& p = b.rows[row];
  return (problem == kDraw ? p.filters() : p.n_best > 0) && b.states[row].good();
}
__device__ inline uint64_t* list_of(const Batch& b, int row, int problem) {
  return b.lists + (int64_t(problem) * b.n + row) * kListed;
}
// f(bucket, key) for a part of the candidates of a problem.
template <int kBlock, class F>
__device__ void for_candidates(const Batch& b, int row, int problem, int part, int n_parts, const F& f) {
  const State& state = b.states[row];
  if (problem == kDraw) {
    const float highest = state.highest, temperature = b.rows[row].temperature;
    for_edited<kBlock>(b, row, part, n_parts, [&](int id, float v) {
      const float z = (v - highest) / temperature;
      if (z > -INFINITY) f(bucket_of(-z), sort_key(z, id));
    });
  } else {
    const float highest = state.raw_highest;
    for_plain<kBlock>(b, row, part, n_parts, [&](int id, float v) { f(bucket_of(highest - v), sort_key(v, id)); });
  }
}

__global__ void __launch_bounds__(kThreads) gather_kernel(const __grid_constant__ Batch b) {
  wait_for_predecessor();
  let_successor_start();
  const int row = int(blockIdx.y), problem = int(blockIdx.z);
  if (!has(b, row, problem)) return;
  Cut& cut = b.states[row].cut[problem];
  if (cut.n_through > kListed) return;
  const int bucket = cut.bucket;
  uint64_t* list = list_of(b, row, problem);
  for_candidates<kThreads>(b, row, problem, int(blockIdx.x), b.n_parts, [&](int candidate, uint64_t key) {
    if (candidate <= bucket) list[atomicAdd(&cut.n_listed, 1u)] = key;
  });
}

__global__ void __launch_bounds__(kFinishThreads) finish_kernel(const __grid_constant__ Batch b) {
  __shared__ Histogram h;
  __shared__ uint32_t n_out;
  wait_for_predecessor();
  let_successor_start();
  const int row = int(blockIdx.x), problem = int(blockIdx.y);
  if (!has(b, row, problem)) return;
  const Row& p = b.rows[row];
  const State& state = b.states[row];
  const Cut cut = state.cut[problem];
  const uint64_t* list = list_of(b, row, problem);
  // In no order, all that may be kept: the list, or all there are.
  auto candidates = [&](auto&& f) {
    if (cut.n_through <= kListed)
      for (uint32_t i = threadIdx.x; i < cut.n_through; i += kFinishThreads) f(list[i]);
    else
      for_candidates<kFinishThreads>(b, row, problem, 0, 1, [&](int, uint64_t key) { f(key); });
  };
  auto one_each = [](uint64_t) { return 1ull; };

  if (problem == kBest) {
    if (threadIdx.x == 0) n_out = 0;
    const uint64_t last = cut_at<kFinishThreads, true>(uint32_t(p.n_best), h, candidates, one_each);
    candidates([&](uint64_t key) {
      if (key <= last) b.best[p.first_best + int(atomicAdd(&n_out, 1u))] = key;
    });
    return;
  }
  uint64_t last = ~uint64_t(0);
  bool any = true;
  if (cut.top_k > 0) last = cut_at<kFinishThreads, true>(uint32_t(cut.top_k), h, candidates, one_each);
  if (p.top_p < 1) {
    auto kept = [&](auto&& f) {
      candidates([&](uint64_t key) {
        if (key <= last) f(key);
      });
    };
    auto weight = [&](uint64_t key) { return fixed_point(expf(key_value(key)), b.one); };
    unsigned long long total = cut.total;
    if (cut.top_k > 0) {
      clear<kFinishThreads>(h);
      kept([&](uint64_t key) { atomicAdd(&h.amount[threadIdx.x % 32], weight(key)); });
      add_up<kFinishThreads>(h.amount);
      total = h.amount[kBuckets - 1];
    }
    const unsigned long long goal = goal_of(p.top_p, total);
    any = goal > 0;
    if (any) last = min(last, cut_at<kFinishThreads, false>(goal, h, kept, weight));
  }
  GumbelMax draw = draw_of(p, state);
  if (any)
    candidates([&](uint64_t key) {
      const float z = key_value(key);
      if (key <= last && z >= p.lowest) draw.consider(key_id(key), z, expf(z));
    });
  const Best best = block_best<kFinishThreads>(draw.best);
  if (threadIdx.x == 0) choose(b, row, best.id);
}

}  // namespace

void issue(const Batch& batch, const SampleWork& work, cudaStream_t stream) {
  auto start = [&](dim3 grid, int block, auto kernel) {
    launch({.grid = grid, .block = unsigned(block), .stream = stream, .programmatic = true}, kernel, batch);
  };
  const unsigned rows = unsigned(batch.n), parts = unsigned(batch.n_parts);
  if (work.edits) start(rows, kThreads, edit_kernel);
  start({parts, rows}, kThreads, scan_kernel);
  if (work.draws) start({parts, rows}, kThreads, weigh_draw_kernel);
  if (work.logprobs) start({parts, rows}, kThreads, weigh_logprobs_kernel);
  if (work.filters || work.n_best > 0) {
    start({parts, rows, kProblems}, kThreads, gather_kernel);
    start({rows, kProblems}, kFinishThreads, finish_kernel);
  }
}

}  // namespace l4::cuda::sampling
