#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace l4::cuda {

inline uint32_t shared_address(const void* shared) {
  return emulation::block().shared_address(shared);
}

}  // namespace l4::cuda
