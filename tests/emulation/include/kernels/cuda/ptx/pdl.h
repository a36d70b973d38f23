#pragma once

#include <cuda_runtime.h>

#include <functional>
#include <utility>

namespace l4::emulation {

// What a kernel's predecessor still has to do when the kernel starts: run at the first wait for it, then gone. For tests
// of what is read before the wait; otherwise whatever was launched before has ended.
inline std::function<void()> predecessor;

}  // namespace l4::emulation

namespace l4::cuda {

inline void wait_for_predecessor() {
  emulation::block().waited_for_predecessor = true;
  if (emulation::predecessor) std::exchange(emulation::predecessor, nullptr)();
}
inline void let_successor_start() {}

}  // namespace l4::cuda
