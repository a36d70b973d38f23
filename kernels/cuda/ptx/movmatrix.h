// An 8x8 matrix of 16-bit values in a warp's registers, transposed.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace l4::cuda {

// movmatrix.trans: thread t gives elements (t / 4, 2 * (t % 4)) and (t / 4, 2 * (t % 4) + 1), the first in the low
// half, and gets (2 * (t % 4), t / 4) and (2 * (t % 4) + 1, t / 4). All 32 threads take part.
__device__ inline uint32_t transpose_8x8(uint32_t pair) {
  uint32_t transposed;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(transposed) : "r"(pair));
  return transposed;
}

}  // namespace l4::cuda
