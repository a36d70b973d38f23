// Dynamic shared memory: the bytes that Launch::shared_bytes asked for.
#pragma once

#include <cuda_runtime.h>

namespace l4::cuda {

// The same for every T and kernel, aligned to 1024 bytes as swizzled tiles want it; a kernel divides it up by itself.
template <class T = unsigned char>
__device__ inline T* dynamic_shared() {
  extern __shared__ __align__(1024) unsigned char l4_dynamic_shared[];
  return reinterpret_cast<T*>(l4_dynamic_shared);
}

}  // namespace l4::cuda
