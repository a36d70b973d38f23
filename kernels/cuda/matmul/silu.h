// SwiGLU's silu where it ends a product. The fast exponential and division err by a few 2^-22 of the result, which is
// rounded to bfloat16 next.
#pragma once

#include "kernels/cuda/ptx/exp2.h"

namespace l4::cuda {

__device__ inline float silu(float g) {
  constexpr float kLog2E = 1.44269504f;
  return __fdividef(g, 1.0f + exp2_approx(-kLog2E * g));  // a divisor past 2^126: 0
}

}  // namespace l4::cuda
