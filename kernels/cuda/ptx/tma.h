// The bulk copy engine: one thread moves whole runs of bytes or tiles of a tensor (a CUtensorMap of tensor_map.h)
// between global and shared memory. Loads end at an mbarrier, stores in this thread's bulk groups.
#pragma once

#include <cuda.h>

#include "kernels/cuda/ptx/mbarrier.h"

namespace l4::cuda {

// fence.proxy.async: what this thread (and who it has met at a barrier) wrote to shared memory with ordinary stores can
// be read by the copy engine and by wgmma. In each writing thread, before the barrier.
__device__ inline void fence_proxy_async() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// How long a line that was read should stay in L2.
__device__ inline uint64_t cache_evict_first() {
  uint64_t policy;
  asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}
__device__ inline uint64_t cache_evict_last() {
  uint64_t policy;
  asm volatile("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

// ---- runs of bytes: addresses and n_bytes are multiples of 16

__device__ inline void bulk_load(void* shared, const void* global, uint32_t n_bytes, Mbarrier* barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   shared_address(shared)),
               "l"(global), "r"(n_bytes), "r"(shared_address(barrier))
               : "memory");
}
__device__ inline void bulk_load(void* shared, const void* global, uint32_t n_bytes, Mbarrier* barrier,
                                 uint64_t cache_policy) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::
          "r"(shared_address(shared)),
      "l"(global), "r"(n_bytes), "r"(shared_address(barrier)), "l"(cache_policy)
      : "memory");
}
__device__ inline void bulk_store(void* global, const void* shared, uint32_t n_bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(global), "r"(shared_address(shared)),
               "r"(n_bytes)
               : "memory");
}
// Into L2 only.
__device__ inline void bulk_prefetch(const void* global, uint32_t n_bytes) {
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(global), "r"(n_bytes) : "memory");
}

// ---- tiles of a tensor: the box of `map` at these coordinates (innermost first); outside the tensor it reads zeros
// and
// ---- writes nothing, but a load always counts the bytes of the whole box. `map` is a __grid_constant__ parameter.

__device__ inline void prefetch_tensor_map(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

#define L4_TENSOR_LOAD(dim, coordinates)                                                                           \
  "cp.async.bulk.tensor." dim ".shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {" coordinates \
  "}], [%2];"
#define L4_TENSOR_LOAD_HINT(dim, coordinates) \
  "cp.async.bulk.tensor." dim                 \
  ".shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1, {" coordinates "}], [%2], %3;"

__device__ inline void tensor_load(void* shared, const CUtensorMap* map, Mbarrier* barrier, int c0, int c1) {
  asm volatile(L4_TENSOR_LOAD("2d", "%3, %4")::"r"(shared_address(shared)), "l"(map), "r"(shared_address(barrier)),
               "r"(c0), "r"(c1)
               : "memory");
}
__device__ inline void tensor_load(void* shared, const CUtensorMap* map, Mbarrier* barrier, int c0, int c1, int c2) {
  asm volatile(L4_TENSOR_LOAD("3d", "%3, %4, %5")::"r"(shared_address(shared)), "l"(map), "r"(shared_address(barrier)),
               "r"(c0), "r"(c1), "r"(c2)
               : "memory");
}
__device__ inline void tensor_load(void* shared, const CUtensorMap* map, Mbarrier* barrier, int c0, int c1, int c2,
                                   int c3) {
  asm volatile(L4_TENSOR_LOAD("4d", "%3, %4, %5, %6")::"r"(shared_address(shared)), "l"(map),
               "r"(shared_address(barrier)), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
               : "memory");
}
__device__ inline void tensor_load(void* shared, const CUtensorMap* map, Mbarrier* barrier, int c0, int c1, int c2,
                                   int c3, int c4) {
  asm volatile(L4_TENSOR_LOAD("5d", "%3, %4, %5, %6, %7")::"r"(shared_address(shared)), "l"(map),
               "r"(shared_address(barrier)), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4)
               : "memory");
}
// To the same place in every block of the cluster whose bit is set in `blocks`; the box's bytes are counted at each
// one's barrier at this place (.multicast::cluster).
__device__ inline void tensor_load_to_blocks(void* shared, const CUtensorMap* map, Mbarrier* barrier, uint16_t blocks,
                                             int c0, int c1) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, "
      "{%3, %4}], [%2], %5;" ::"r"(shared_address(shared)),
      "l"(map), "r"(shared_address(barrier)), "r"(c0), "r"(c1), "h"(blocks)
      : "memory");
}
// With a policy of cache_evict_first() or cache_evict_last().
__device__ inline void tensor_load_hint(void* shared, const CUtensorMap* map, Mbarrier* barrier, uint64_t cache_policy,
                                        int c0, int c1) {
  asm volatile(L4_TENSOR_LOAD_HINT("2d", "%4, %5")::"r"(shared_address(shared)), "l"(map), "r"(shared_address(barrier)),
               "l"(cache_policy), "r"(c0), "r"(c1)
               : "memory");
}
__device__ inline void tensor_load_hint(void* shared, const CUtensorMap* map, Mbarrier* barrier, uint64_t cache_policy,
                                        int c0, int c1, int c2) {
  asm volatile(L4_TENSOR_LOAD_HINT("3d", "%4, %5, %6")::"r"(shared_address(shared)), "l"(map),
               "r"(shared_address(barrier)), "l"(cache_policy), "r"(c0), "r"(c1), "r"(c2)
               : "memory");
}

#undef L4_TENSOR_LOAD
#undef L4_TENSOR_LOAD_HINT

// ---- bulk groups, of stores

__device__ inline void bulk_commit() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
// Until at most kPending of this thread's newest groups are not done: their writes can be seen.
template <int kPending>
__device__ inline void bulk_wait() {
  asm volatile("cp.async.bulk.wait_group %0;" ::"n"(kPending) : "memory");
}
// The same, until they have read shared memory, which may then be written again.
template <int kPending>
__device__ inline void bulk_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kPending) : "memory");
}

}  // namespace l4::cuda
