#pragma once

#include <cuda_runtime.h>

namespace l4::cuda {

inline void wait_for_predecessor() {
  emulation::block().waited_for_predecessor = true;
}
inline void let_successor_start() {}

}  // namespace l4::cuda
