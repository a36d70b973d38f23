#pragma once

#include "kernels/cuda/ptx/address.h"

namespace l4::cuda {

template <int kBytes>
inline void cp_async_or_zero(void* shared, const void* global, bool valid, L4_WHERE) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
  emulation::Block& b = emulation::block();
  b.check_shared(shared, kBytes, kBytes, "cp_async", where);
  if (reinterpret_cast<uintptr_t>(global) % kBytes) b.fail(where, "cp_async: the global address is not aligned");
  emulation::thread().copies.issue(b.late, [=] {
    if (valid)
      std::memcpy(shared, global, kBytes);
    else
      std::memset(shared, 0, kBytes);
  });
}
template <int kBytes>
inline void cp_async(void* shared, const void* global, L4_WHERE) {
  cp_async_or_zero<kBytes>(shared, global, true, where);
}
inline void cp_async_commit() {
  emulation::thread().copies.commit();
}
template <int kPending>
inline void cp_async_wait() {
  emulation::thread().copies.wait(kPending);
}

}  // namespace l4::cuda
