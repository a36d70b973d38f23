// Asynchronous copies global -> shared by the threads themselves (LDGSTS), no registers in between.
//
//   cp_async<16>(to, from); ...; cp_async_commit();     // one group a stage
//   cp_async_wait<1>(); __syncthreads();                // all but the newest group are in shared memory, for every
//   thread
#pragma once

#include "kernels/cuda/ptx/address.h"

namespace l4::cuda {

// kBytes 16 goes past L1 (.cg), 4 and 8 through it (.ca). Both addresses are multiples of kBytes.
template <int kBytes>
__device__ inline void cp_async(void* shared, const void* global) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
  if constexpr (kBytes == 16)
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(shared_address(shared)), "l"(global)
                 : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(shared_address(shared)), "l"(global), "n"(kBytes)
                 : "memory");
}

// Where not `valid`, zeros are written and nothing is read; `global` must still be some valid address.
template <int kBytes>
__device__ inline void cp_async_or_zero(void* shared, const void* global, bool valid) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
  const int n = valid ? kBytes : 0;
  if constexpr (kBytes == 16)
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
                 "r"(n)
                 : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(shared)), "l"(global),
                 "n"(kBytes), "r"(n)
                 : "memory");
}

// What was issued since the last commit becomes this thread's newest group.
__device__ inline void cp_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

// Until at most kPending of this thread's newest groups are not done. Other threads' copies need a barrier after it.
template <int kPending>
__device__ inline void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

}  // namespace l4::cuda
