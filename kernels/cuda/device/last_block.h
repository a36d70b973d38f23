// The way in which blocks of one launch work together without waiting for each other: the last to arrive does the rest.
#pragma once

#include "kernels/cuda/ptx/load.h"

namespace l4::cuda {

// Whether this block is the last of n to come here; it then sees what the others wrote before they came, and the
// counter is zero again. The same in every thread; all threads call it.
__device__ inline bool last_to_arrive(uint32_t* counter, int n) {
  __shared__ bool last;
  __syncthreads();
  if (threadIdx.x == 0) {
    last = fetch_add_gpu(counter, 1) == uint32_t(n - 1);
    if (last) *counter = 0;
  }
  __syncthreads();
  return last;
}

}  // namespace l4::cuda
