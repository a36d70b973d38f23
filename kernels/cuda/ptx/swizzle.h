// How 16-byte chunks of a tile in shared memory are permuted, so that 8 rows of it touch all banks: by the copy engine
// on the way in, by wgmma on the way out, by swizzled() for a thread's own reads and writes.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace l4::cuda {

// A tile of rows of 128, 64 or 32 bytes, which begins at a multiple of 1024, 512 or 256 bytes. The values are those of
// a matrix descriptor.
enum class Swizzle : uint32_t { none = 0, bytes128 = 1, bytes64 = 2, bytes32 = 3 };

// Where byte `offset` of such a tile, counted row after row, lies: bits 4.. are XORed with bits 7.. .
__host__ __device__ constexpr uint32_t swizzled(Swizzle swizzle, uint32_t offset) {
  const uint32_t mask = swizzle == Swizzle::bytes128  ? 7
                        : swizzle == Swizzle::bytes64 ? 3
                        : swizzle == Swizzle::bytes32 ? 1
                                                      : 0;
  return offset ^ ((offset >> 7 & mask) << 4);
}

}  // namespace l4::cuda
