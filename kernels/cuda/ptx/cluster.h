// Blocks of a cluster (Launch::cluster): they run at once on neighbouring multiprocessors and reach each other's shared
// memory. What is at some place in one block's shared memory is at the same place in the others'.
//
// Before a block touches another's barriers or memory, that one must have initialised them; and no block may end while
// another still writes into it or arrives at its barriers: cluster_arrive() and cluster_wait() by all threads, at the
// beginning and at the end. Copies to several blocks: tensor_load_to_blocks() of tma.h.
#pragma once

#include "kernels/cuda/ptx/mbarrier.h"

namespace l4::cuda {

// %cluster_ctarank: this block's number in its cluster, from 0.
__device__ inline uint32_t cluster_rank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

// barrier.cluster: all threads of all blocks arrive, then each waits until all have. Threads of a warp need not come
// together. Relaxed: of what was written before, only barriers are sure to be seen after it (mbarrier_init_fence());
// .release would be a fence of the whole GPU's scope, which waits for all stores of the thread.
__device__ inline void cluster_arrive() {
  asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory");
}
__device__ inline void cluster_wait() {
  asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
}

// One arrival at the barrier that block `rank` has where this block has `barrier` (mapa, mbarrier.arrive). It says that
// reads are done (of a tile that may be loaded anew), and hands no writes over: for that it would have to be
// .release.cluster, which is a fence of the whole GPU's scope at each arrival.
__device__ inline void mbarrier_arrive_at(Mbarrier* barrier, uint32_t rank) {
  asm volatile(
      "{\n"
      ".reg .b32 there;\n"
      "mapa.shared::cluster.u32 there, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [there];\n"
      "}" ::"r"(shared_address(barrier)),
      "r"(rank)
      : "memory");
}

}  // namespace l4::cuda
