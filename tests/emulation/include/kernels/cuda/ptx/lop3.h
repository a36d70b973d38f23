#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace l4::cuda {

inline uint32_t and_or(uint32_t v, uint32_t mask, uint32_t bits) {
  return (v & mask) | bits;
}
inline uint32_t xor_and(uint32_t v, uint32_t bits, uint32_t mask) {
  return (v ^ bits) & mask;
}

}  // namespace l4::cuda
