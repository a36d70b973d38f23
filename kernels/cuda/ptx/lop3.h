// Two logical operations as one instruction, where the compiler takes two.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace l4::cuda {

// (v & mask) | bits: lop3.b32 with the truth table of that (0xF0 & 0xCC | 0xAA).
__device__ inline uint32_t and_or(uint32_t v, uint32_t mask, uint32_t bits) {
  uint32_t out;
  asm("lop3.b32 %0, %1, %2, %3, 0xEA;" : "=r"(out) : "r"(v), "r"(mask), "r"(bits));
  return out;
}
// (v ^ bits) & mask
__device__ inline uint32_t xor_and(uint32_t v, uint32_t bits, uint32_t mask) {
  uint32_t out;
  asm("lop3.b32 %0, %1, %2, %3, 0x28;" : "=r"(out) : "r"(v), "r"(bits), "r"(mask));
  return out;
}

}  // namespace l4::cuda
