// Barriers in shared memory that count arrivals and bytes: what producers and consumers of tiles meet at.
//
// A phase ends when its arrivals have come and its expected bytes are there; the barrier then starts the next phase by
// itself. Waiters name the parity of the phase they wait for: 0 for the first, then 1, 0, ... A stage that is free from
// the start is waited for with parity 1, which has "just ended" in a fresh barrier.
//
//   if (threadIdx.x == 0) { mbarrier_init(&full, 1); mbarrier_init_fence(); }
//   __syncthreads();
//   producer: mbarrier_arrive_expect_tx(&full, n_bytes); bulk_load(tile, from, n_bytes, &full);
//   consumer: mbarrier_wait(&full, parity);
#pragma once

#include "kernels/cuda/ptx/address.h"

namespace l4::cuda {

struct alignas(8) Mbarrier {
  uint64_t state;  // the hardware's
};

// By one thread; the others may use it after mbarrier_init_fence() and a __syncthreads().
__device__ inline void mbarrier_init(Mbarrier* barrier, int n_arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(n_arrivals) : "memory");
}
// fence.mbarrier_init: the copy engine sees the initialisation.
__device__ inline void mbarrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ inline void mbarrier_arrive(Mbarrier* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
// As so many threads.
__device__ inline void mbarrier_arrive(Mbarrier* barrier, int n_arrivals) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(n_arrivals)
               : "memory");
}
// One arrival, and n_bytes more must be copied before the phase ends.
__device__ inline void mbarrier_arrive_expect_tx(Mbarrier* barrier, uint32_t n_bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(n_bytes)
               : "memory");
}
// The bytes alone, no arrival.
__device__ inline void mbarrier_expect_tx(Mbarrier* barrier, uint32_t n_bytes) {
  asm volatile("mbarrier.expect_tx.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(n_bytes) : "memory");
}

// Whether the phase of this parity has ended; may sleep a while before it says no.
__device__ inline bool mbarrier_try_wait(Mbarrier* barrier, uint32_t parity) {
  uint32_t done;
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
      "selp.u32 %0, 1, 0, p;\n"
      "}"
      : "=r"(done)
      : "r"(shared_address(barrier)), "r"(parity)
      : "memory");
  return done != 0;
}
__device__ inline void mbarrier_wait(Mbarrier* barrier, uint32_t parity) {
  while (!mbarrier_try_wait(barrier, parity)) {
  }
}

}  // namespace l4::cuda
