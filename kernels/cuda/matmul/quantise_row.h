// One row of bfloat16 to FP8 codes, by a block.
#pragma once

#include "kernels/cuda/device/fp8_input.h"
#include "kernels/cuda/matmul/quantise.h"
#include "kernels/cuda/ptx/fp8.h"
#include "quant/fp8.h"

namespace l4::cuda {

// Largest over a block of kThreads threads, in every thread. NaN is not looked for. All threads must call it, once.
template <int kThreads>
__device__ inline float block_max(float v) {
  constexpr int kWarps = kThreads / 32;
  __shared__ float parts[kWarps];
  v = warp_max(v);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = v;
  __syncthreads();
#pragma unroll
  for (int w = 0; w < kWarps; ++w) v = fmaxf(v, parts[w]);
  return v;
}

// x / scale as the reference's division rounds it, for x of bfloat16, by one reciprocal a row.
struct Division {
  float up, scale, reciprocal;  // tiny scales are multiplied, as x is: their reciprocals would be infinite
  __device__ explicit Division(float s) : up(s < 0x1p-64f ? 0x1p64f : 1.0f), scale(s * up), reciprocal(1.0f / scale) {}
  __device__ float operator()(float x) const {
    x *= up;
    const float q = x * reciprocal, exact = corrected_quotient(q, x, scale, reciprocal);
    return fabsf(q) <= 1e4f && q != 0 ? exact : q;  // larger ones are codes of 448, zeros keep their sign
  }
};
__device__ inline uint2 codes_of(const uint4& v, const Division& over) {
  float x[8];
  widen(v, x);
  auto two = [&](int i) { return uint32_t(fp8_pair(over(x[i]), over(x[i + 1]))); };
  return make_uint2(two(0) | two(2) << 16, two(4) | two(6) << 16);
}

// x [k] to codes [k] and *scale, by the whole block, once a kernel. Rows of up to kKept columns are read once.
template <int kThreads>
__device__ inline void quantise_row(const bf16* x, int k, float one_scale, uint8_t* codes, float* scale) {
  constexpr int kPasses = 4, kStride = kThreads * int(kCodesTogether), kKept = kPasses * kStride;
  const int first = int(threadIdx.x) * int(kCodesTogether);
  const uint4 nothing = make_uint4(0, 0, 0, 0);
  auto load = [&](int i, int half) { return i < k ? reinterpret_cast<const uint4*>(x + i)[half] : nothing; };
  auto store = [&](int i, const uint4& v0, const uint4& v1, const Division& over) {
    if (i >= k) return;
    const uint2 a = codes_of(v0, over), b = codes_of(v1, over);
    *reinterpret_cast<uint4*>(codes + i) = make_uint4(a.x, a.y, b.x, b.y);
  };
  uint4 kept[kPasses][2];
#pragma unroll
  for (int p = 0; p < kPasses; ++p)
#pragma unroll
    for (int half = 0; half < 2; ++half) kept[p][half] = load(first + p * kStride, half);
  float s = one_scale;
  if (s == 0) {
    float largest = 0;
#pragma unroll
    for (int p = 0; p < kPasses; ++p) raise(largest, kept[p][0]), raise(largest, kept[p][1]);
    for (int i = first + kKept; i < k; i += kStride) raise(largest, load(i, 0)), raise(largest, load(i, 1));
    s = fp8_scale(block_max<kThreads>(largest));
  }
  if (threadIdx.x == 0) *scale = s;
  const Division over(s);
#pragma unroll
  for (int p = 0; p < kPasses; ++p) store(first + p * kStride, kept[p][0], kept[p][1], over);
  for (int i = first + kKept; i < k; i += kStride) store(i, load(i, 0), load(i, 1), over);
}

}  // namespace l4::cuda
