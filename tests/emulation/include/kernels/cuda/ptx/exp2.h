#pragma once

#include <cuda_runtime.h>

#include <cmath>

namespace l4::cuda {

inline float exp2_approx(float x) {
  return x < -126.0f ? 0.0f : std::exp2(x);
}

}  // namespace l4::cuda
