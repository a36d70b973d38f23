// Small device functions that most kernels use: activation types, 16-byte accesses, sums over warps and blocks.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>

#include "tensor/view.h"

namespace l4::cuda {

using bf16 = __nv_bfloat16;

// ---- activation types: float32 or bfloat16

__device__ inline float get(float v) {
  return v;
}
__device__ inline float get(bf16 v) {
  return __bfloat162float(v);
}
// To A: the points where the reference rounds. By conversions of pairs, one value of which is nothing: an ordinary
// instruction (F2FP), where the conversion of one value is the special unit's (F2F). The upper half of a word is a
// bfloat16's float already.
template <class A>
__device__ inline A rounded(float v) {
  if constexpr (sizeof(A) == sizeof(float))
    return v;
  else
    return __floats2bfloat162_rn(v, 0.0f).x;
}
template <class A>
__device__ inline float round_to(float v) {
  if constexpr (sizeof(A) == sizeof(float)) return v;
  const __nv_bfloat162 pair = __floats2bfloat162_rn(0.0f, v);
  uint32_t word;
  memcpy(&word, &pair, sizeof word);
  return __uint_as_float(word);
}

// Calls body(A{}) with the activation type of `dtype`, on the host.
template <class Body>
void with_activation(DType dtype, Body&& body) {
  if (dtype == DType::f32)
    body(float{});
  else if (dtype == DType::bf16)
    body(bf16{});
  else
    L4_CHECK(false, "activations are F32 or BF16, not ", dtype_name(dtype));
}
template <class A>
A* data(const View& v) {
  L4_CHECK(v.dtype == (sizeof(A) == sizeof(float) ? DType::f32 : DType::bf16), "tensor is ", dtype_name(v.dtype));
  return static_cast<A*>(v.data);
}

// The larger one, NaN if any is.
__device__ inline float larger(float a, float b) {
  return b > a || b != b ? b : a;
}

// ---- sums; the order depends on the number of threads alone

__device__ inline float warp_sum(float v) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) v += __shfl_xor_sync(0xffffffffu, v, offset);
  return v;
}
__device__ inline float warp_max(float v) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, offset));
  return v;
}
// Sum over a block of kThreads threads (a multiple of 32), the same in every thread. All threads must call it.
template <int kThreads>
__device__ inline float block_sum(float v) {
  constexpr int kWarps = kThreads / 32;
  __shared__ float parts[kWarps];
  v = warp_sum(v);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = v;
  __syncthreads();
  float sum = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) sum += parts[w];
  __syncthreads();  // parts may be used again
  return sum;
}

}  // namespace l4::cuda
