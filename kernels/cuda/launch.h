// The one way in which kernels are started:
//
//   launch({.grid = 132, .block = 256, .shared_bytes = n, .stream = gpu.stream}, my_kernel<4>, a, b, c);
//
// Who starts when, in a stream of programmatic launches (ptx/pdl.h). Every kernel waits for its predecessor before it
// ends, whatever it does. So when wait_for_predecessor() returns, not only the kernel before has ended but every one
// before that, however early any of them started. A late kernel lets its successor start after its own wait, an early
// one before. So when a kernel starts, all that is older than the last late kernel before it has ended. Before its wait a
// kernel may read
//   * always: weights, and the step's plan. Both were there before the step's first kernel, and a copy lets nobody in
//     before it is done.
//   * what is older than the last late kernel before it, whichever kernels that may be.
// The latter do
//   attention/decode.cu  pages of earlier steps and copied pages. The late kernel is the product of QKV.
//   small_m.cu's down    the route. The late kernel is its up.
//   norm.cu              the residual stream, where the ranks' parts of what is added come by themselves (device/peer.h). The
//                        late kernel is the product that sends them. It writes h as well, whose readers are older than that.
// And small_m.cu reads the rows that norm.cu has said are there (OpContext::published) before norm.cu's kernel ends; it stores
// nothing before that.
// Early are norm.cu's rms_norm, add_residual and add_residual_norm_route, rope.cu's finish_qkv, and attention/decode.cu
// where the keys are few; all others are late. After the early ones come small_m.cu's linear and up, which fill their rings
// of weights, and decode.cu, so that the memory does not stand idle while a few blocks work.
// A plain launch, as libraries make them, waits for the whole of what is before it by itself.
#pragma once

#include <cuda_runtime.h>

#include <utility>

#include "kernels/cuda/check.h"

namespace l4::cuda {

// Shared memory of a block that shares an SM with another one of the same size: half of the 228 KB, of which every block
// takes 1 KB for itself. A kernel with a step more does not share with its own kind, but with who has a step less.
constexpr size_t kHalfShared = (228 << 10) / 2 - (1 << 10), kHalfSharedStep = 128;

struct Launch {
  dim3 grid = 1, block = 1;
  size_t shared_bytes = 0;  // dynamic
  cudaStream_t stream = nullptr;
  // Programmatic dependent launch: the kernel may start before its predecessor in the stream has ended, and MUST wait for
  // it (wait_for_predecessor()), in the whole block, before it touches what is not named above.
  bool programmatic = false;
  bool cooperative = false;  // all blocks run at once: grid barriers are allowed
  unsigned cluster = 1;      // neighbouring blocks along x that run at once and reach each other (ptx/cluster.h)
};

template <class... Parameters, class... Arguments>
void launch(const Launch& l, void (*kernel)(Parameters...), Arguments&&... arguments) {
  if (l.grid.x == 0 || l.grid.y == 0 || l.grid.z == 0) return;
  constexpr size_t kStaticLimit = 48 << 10;
  if (l.shared_bytes > kStaticLimit)
    L4_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(l.shared_bytes)));
  cudaLaunchAttribute attributes[4] = {};
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
  if (l.cluster > 1) {
    attributes[config.numAttrs].id = cudaLaunchAttributeClusterDimension;
    attributes[config.numAttrs++].val.clusterDim = {l.cluster, 1, 1};
  }
  L4_CUDA(cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...));
}

}  // namespace l4::cuda
