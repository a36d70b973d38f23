// The 32-bit address of something in shared memory, which most instructions of this folder want.
//
// kernels/cuda/ptx is the only place with inline assembly: each function is one instruction (named in its comment; the
// formulas are the PTX ISA's, 9.0) and has a twin of the same contract in tests/emulation/include, which runs on the
// host.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace l4::cuda {

__device__ inline uint32_t shared_address(const void* shared) {
  return uint32_t(__cvta_generic_to_shared(shared));
}

}  // namespace l4::cuda
