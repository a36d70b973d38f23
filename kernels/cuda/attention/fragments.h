// What the attention kernels share around matrix instructions.
#pragma once

#include <cstring>

#include "kernels/cuda/device/math.h"

namespace l4::cuda {

constexpr float kLog2e = 1.44269504088896341f;  // scales of scores are given times this: exp(x) = 2^(x log2(e))

// Two neighbours of an operand row, the first in the low half.
__device__ inline uint32_t pack_bf16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  uint32_t bits;
  std::memcpy(&bits, &pair, sizeof bits);
  return bits;
}

}  // namespace l4::cuda
