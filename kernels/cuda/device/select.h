// Order statistics within a block: the best of its threads' values, and cuts through a set at a count or at a sum.
// Everything that is added up is an integer, so that no sum depends on the order in which threads arrive.
#pragma once

#include <climits>

#include "kernels/cuda/device/math.h"
#include "kernels/cuda/sort_key.h"

namespace l4::cuda {

// ---- the largest value, the lowest id among equals

struct Best {
  float value = -INFINITY;
  int id = INT_MAX;
  __device__ void consider(float v, int i) {
    if (v > value || (v == value && i < id)) value = v, id = i;
  }
};
__device__ inline Best warp_best(Best b) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    const float value = __shfl_xor_sync(0xffffffffu, b.value, offset);
    const int id = __shfl_xor_sync(0xffffffffu, b.id, offset);
    b.consider(value, id);
  }
  return b;
}
// The same in every thread; all threads of the block call it.
template <int kThreads>
__device__ inline Best block_best(Best b) {
  __shared__ float values[kThreads / 32];
  __shared__ int ids[kThreads / 32];
  b = warp_best(b);
  if (threadIdx.x % 32 == 0) values[threadIdx.x / 32] = b.value, ids[threadIdx.x / 32] = b.id;
  __syncthreads();
  for (int w = 0; w < kThreads / 32; ++w) b.consider(values[w], ids[w]);
  __syncthreads();
  return b;
}

// ---- histograms

constexpr int kBuckets = 2048;

struct Histogram {  // in shared memory
  unsigned long long amount[kBuckets];
  uint32_t count[kBuckets];
};
template <int kThreads>
__device__ inline void clear(Histogram& h) {
  __syncthreads();
  for (int b = int(threadIdx.x); b < kBuckets; b += kThreads) h.amount[b] = 0, h.count[b] = 0;
  __syncthreads();
}

// sums[b] becomes sums[0] + .. + sums[b]. All threads call it; what they wrote before is seen, and the sums after.
template <int kThreads>
__device__ inline void add_up(unsigned long long (&sums)[kBuckets]) {
  __shared__ unsigned long long warp_sums[kThreads / 32];
  constexpr int kEach = kBuckets / kThreads;
  const int lane = int(threadIdx.x % 32), warp = int(threadIdx.x / 32);
  unsigned long long* mine = sums + threadIdx.x * kEach;
  __syncthreads();
  unsigned long long total = 0;
  for (int i = 0; i < kEach; ++i) total += mine[i];
  unsigned long long up_to = total;  // of this warp's threads up to this one
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const unsigned long long below = __shfl_up_sync(0xffffffffu, up_to, offset);
    if (lane >= offset) up_to += below;
  }
  if (lane == 31) warp_sums[warp] = up_to;
  __syncthreads();
  unsigned long long sum = up_to - total;
  for (int w = 0; w < warp; ++w) sum += warp_sums[w];
  for (int i = 0; i < kEach; ++i) sum += mine[i], mine[i] = sum;
  __syncthreads();
}

// The first bucket whose sum reaches `goal` (at least 1); the last one if none does. sums: after add_up.
template <int kThreads>
__device__ inline int first_to_reach(const unsigned long long (&sums)[kBuckets], unsigned long long goal) {
  __shared__ int found;
  if (threadIdx.x == 0) found = kBuckets - 1;
  __syncthreads();
  for (int b = int(threadIdx.x); b < kBuckets; b += kThreads)
    if (sums[b] >= goal && (b == 0 || sums[b - 1] < goal)) found = b;  // one thread at most
  __syncthreads();
  return found;
}

// The least key c with amount(all keys <= c) >= goal >= 1; all ones if there is none, or where the keys between do not
// matter. candidates(f) calls f(key) for every candidate, amount(key) is what it counts; counts: amount is always 1.
// Digits of 11 bits, the highest first.
template <int kThreads, bool counts, class Candidates, class Amount>
__device__ inline uint64_t cut_at(unsigned long long goal, Histogram& h, const Candidates& candidates,
                                  const Amount& amount) {
  uint64_t prefix = 0;
  for (int shift = 53, bits = 11;; bits = shift >= 11 ? 11 : shift, shift -= bits) {
    clear<kThreads>(h);
    candidates([&](uint64_t key) {
      if (shift + bits < 64 && key >> (shift + bits) != prefix) return;
      const int b = int(key >> shift) & ((1 << bits) - 1);
      atomicAdd(&h.amount[b], amount(key));
      atomicAdd(&h.count[b], 1u);
    });
    add_up<kThreads>(h.amount);
    if (h.amount[kBuckets - 1] < goal) return ~uint64_t(0);
    const int b = first_to_reach<kThreads>(h.amount, goal);
    if (b > 0) goal -= h.amount[b - 1];
    prefix = prefix << bits | uint64_t(b);
    if (shift == 0 || h.count[b] == 1 || (counts && h.count[b] == goal))
      return shift == 0 ? prefix : (prefix << shift) | ((uint64_t(1) << shift) - 1);
  }
}

}  // namespace l4::cuda
