// Barriers of a part of the block, by number 1..15 (0 is __syncthreads), and the choice of one thread of a warp.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace l4::cuda {

// n_threads is a multiple of 32 and counts both those that wait and those that only arrive.
__device__ inline void barrier_sync(int id, int n_threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(n_threads) : "memory");
}
__device__ inline void barrier_arrive(int id, int n_threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(n_threads) : "memory");
}

// True in one thread of the warp, which must be whole: the form after which the compiler issues copy and matrix
// instructions without a loop over threads.
__device__ inline bool elect_one() {
  uint32_t elected;
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "elect.sync _|p, 0xffffffff;\n"
      "selp.u32 %0, 1, 0, p;\n"
      "}"
      : "=r"(elected)
      :
      : "memory");
  return elected != 0;
}

}  // namespace l4::cuda
