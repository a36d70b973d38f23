// What makes FP8 codes of bfloat16 input: the largest of a row, and the division by its scale.
#pragma once

#include "kernels/cuda/device/piece.h"

namespace l4::cuda {

// largest = the largest size of it and of eight numbers. NaN is not looked for.
__device__ inline void raise(float& largest, const uint4& numbers) {
  float v[8];
  widen(numbers, v);
#pragma unroll
  for (float of : v) largest = fmaxf(largest, fabsf(of));
}

// x / scale as a division rounds it, of q = x * reciprocal, which is off by its last bit, corrected by what it leaves
// of x (Markstein). A division for each number would be 16 instructions, one of them the special unit's.
__device__ inline float corrected_quotient(float q, float x, float scale, float reciprocal) {
  return fmaf(fmaf(-q, scale, x), reciprocal, q);
}

}  // namespace l4::cuda
