#pragma once

#include <cuda_runtime.h>

namespace l4::cuda {

template <class T = unsigned char>
inline T* dynamic_shared() {
  return reinterpret_cast<T*>(emulation::block().dynamic_shared());
}

}  // namespace l4::cuda
