// INT4 codes (weight_layout.h) as bfloat16, exactly: 128 + (code + 8) has the code + 8 in the lowest bits of its fraction.
#pragma once

#include "kernels/cuda/device/piece.h"
#include "kernels/cuda/ptx/lop3.h"

namespace l4::cuda {

// Columns 2 i and 2 i + 1 of a word's eight, the first in the lower half.
__device__ inline uint32_t int4_codes(uint32_t word, int i) {
  constexpr uint32_t kMask = 0x000F000Fu, k128 = 0x43004300u, k136 = 0x43084308u;
  return pairs::each(and_or(word >> 4 * i, kMask, k128), k136,
                     [](__nv_bfloat162 v, __nv_bfloat162 w) { return __hsub2_rn(v, w); });
}
// Two codes by the scale of each, rounded once: products of bfloat16 are exact in float32.
__device__ inline uint32_t times(uint32_t codes, __nv_bfloat162 scale) {
  uint32_t bits;
  memcpy(&bits, &scale, sizeof bits);
  return pairs::each(codes, bits, [](__nv_bfloat162 v, __nv_bfloat162 w) { return __hmul2_rn(v, w); });
}

}  // namespace l4::cuda
