// Launches of one thread for each of n things, which the kernel numbers blockIdx.x * kThreadsEach + threadIdx.x.
#pragma once

#include "kernels/cuda/gpu.h"
#include "kernels/cuda/launch.h"

namespace l4::cuda {

constexpr int kThreadsEach = 256;

// n below 2^31, so that the number fits 32 bits: divisions of 64 are dear.
inline Launch one_thread_each(const OpContext& ctx, int64_t n) {
  L4_CHECK(n < int64_t(1) << 31, n, " threads");
  return {.grid = unsigned((n + kThreadsEach - 1) / kThreadsEach),
          .block = kThreadsEach,
          .stream = ctx.gpu.stream,
          .programmatic = true};
}

}  // namespace l4::cuda
