// 2^x by the special function unit alone.
#pragma once

#include <cuda_runtime.h>

namespace l4::cuda {

// ex2.approx.ftz: 2^x within 2 ulp; 0 for x < -126 and -infinity.
__device__ inline float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace l4::cuda
