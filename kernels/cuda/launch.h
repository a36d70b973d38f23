// The one way in which kernels are started:
//
//   launch({.grid = 132, .block = 256, .shared_bytes = n, .stream = gpu.stream}, my_kernel<4>, a, b, c);
#pragma once

#include <cuda_runtime.h>

#include <utility>

#include "kernels/cuda/check.h"

namespace l4::cuda {

struct Launch {
  dim3 grid = 1, block = 1;
  size_t shared_bytes = 0;  // dynamic
  cudaStream_t stream = nullptr;
  // Programmatic dependent launch: the kernel may start before its predecessor in the stream has ended, and MUST wait for
  // it (ptx/pdl.h: wait_for_predecessor()) before it touches anything that is not a weight.
  bool programmatic = false;
  bool cooperative = false;  // all blocks run at once: grid barriers are allowed
};

template <class... Parameters, class... Arguments>
void launch(const Launch& l, void (*kernel)(Parameters...), Arguments&&... arguments) {
  if (l.grid.x == 0 || l.grid.y == 0 || l.grid.z == 0) return;
  constexpr size_t kStaticLimit = 48 << 10;
  if (l.shared_bytes > kStaticLimit)
    L4_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(l.shared_bytes)));
  cudaLaunchAttribute attributes[3] = {};
  cudaLaunchConfig_t config = {};
  config.gridDim = l.grid;
  config.blockDim = l.block;
  config.dynamicSmemBytes = l.shared_bytes;
  config.stream = l.stream;
  config.attrs = attributes;
  // All of an SM's memory as shared memory, whether a kernel uses any or not: an SM changes its split only when it is
  // idle, so a small kernel that leaves it to L1 would keep the blocks of its successor out until it has ended, and
  // those would go two to another SM.
  attributes[config.numAttrs].id = cudaLaunchAttributePreferredSharedMemoryCarveout;
  attributes[config.numAttrs++].val.sharedMemCarveout = cudaSharedmemCarveoutMaxShared;
  if (l.programmatic) {
    attributes[config.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[config.numAttrs++].val.programmaticStreamSerializationAllowed = 1;
  }
  if (l.cooperative) {
    attributes[config.numAttrs].id = cudaLaunchAttributeCooperative;
    attributes[config.numAttrs++].val.cooperative = 1;
  }
  L4_CUDA(cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...));
}

}  // namespace l4::cuda
