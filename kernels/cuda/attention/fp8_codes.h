// E4M3 codes (quant/fp8.h) as bfloat16: exactly, by moving their bits.
//
// Sign to bit 15, exponent and fraction to bits 10 to 4: of a code's number that is the bfloat16 of 2^-120 times it,
// since bfloat16 has an exponent bias of 127, E4M3 of 7; subnormal codes become subnormal bfloat16. Matrix
// instructions take those as they are, so nobody multiplies by 2^120: the other operand is given times 2^60, and what
// comes out, 2^-60 times what is meant, is multiplied by 2^60 where it is scaled anyhow. Halfway, so that neither operand
// nor product can leave float32's range for numbers of sizes from 2^-60 to 2^60.
//
// The code of NaN becomes 480. A token's scale is NaN where any of its numbers is.
#pragma once

#include <cstring>

#include "kernels/cuda/device/math.h"

namespace l4::cuda {

constexpr float kCodesFactor = 0x1p60f;  // of a matrix instruction's other operand, and of its results

// Two codes in the upper bytes of the halves of a word.
__device__ inline uint32_t upper_codes(uint32_t word) {
  return (word & 0x80008000u) | ((word >> 4) & 0x07F007F0u);
}
// The first and the third of the four codes of a word; the second and the fourth.
__device__ inline uint32_t even_codes(uint32_t word) {
  return ((word << 8) & 0x80008000u) | ((word << 4) & 0x07F007F0u);
}
__device__ inline uint32_t odd_codes(uint32_t word) {
  return upper_codes(word);
}

__device__ inline uint32_t times(uint32_t pair, uint32_t by) {
  __nv_bfloat162 a, b;
  memcpy(&a, &pair, sizeof a), memcpy(&b, &by, sizeof b);
  a = __hmul2_rn(a, b);
  memcpy(&pair, &a, sizeof pair);
  return pair;
}
constexpr uint32_t kCodesFactorPair = 0x5D805D80u;  // kCodesFactor twice, in bfloat16
constexpr uint32_t kOnePair = 0x3F803F80u;          // scales of 1

}  // namespace l4::cuda
