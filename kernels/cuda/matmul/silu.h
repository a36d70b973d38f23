// SwiGLU's silu where it ends a product. The fast exponential and division err by a few 2^-22 of the result, which is
// rounded to bfloat16 next.
#pragma once

#include <cuda_runtime.h>

namespace l4::cuda {

__device__ inline float silu(float g) {
  return __fdividef(g, 1.0f + __expf(-g));  // g under -87: the divisor passes 2^126, where __fdividef gives 0
}

}  // namespace l4::cuda
