#pragma once

#include <cuda.h>

#include "emulation/tensor_map.h"
#include "kernels/cuda/ptx/mbarrier.h"

namespace l4::cuda {

inline void fence_proxy_async() {}
inline uint64_t cache_evict_first() {
  return 1;
}
inline uint64_t cache_evict_last() {
  return 2;
}

inline void bulk_load(void* shared, const void* global, uint32_t n_bytes, Mbarrier* barrier, L4_WHERE) {
  emulation::issue_bulk_load(shared, global, n_bytes, barrier, where);
}
inline void bulk_load(void* shared, const void* global, uint32_t n_bytes, Mbarrier* barrier, uint64_t, L4_WHERE) {
  emulation::issue_bulk_load(shared, global, n_bytes, barrier, where);
}
inline void bulk_store(void* global, const void* shared, uint32_t n_bytes, L4_WHERE) {
  emulation::issue_bulk_store(global, shared, n_bytes, where);
}
inline void bulk_prefetch(const void* global, uint32_t n_bytes, L4_WHERE) {
  if (n_bytes % 16 || reinterpret_cast<uintptr_t>(global) % 16)
    emulation::block().fail(where, "bulk_prefetch: alignment");
}

inline void prefetch_tensor_map(const CUtensorMap*) {}
inline void tensor_load(void* shared, const CUtensorMap* map, Mbarrier* barrier, int c0, int c1, L4_WHERE) {
  const int at[] = {c0, c1};
  emulation::issue_tensor_copy(map, shared, at, 2, barrier, where);
}
inline void tensor_load(void* shared, const CUtensorMap* map, Mbarrier* barrier, int c0, int c1, int c2, L4_WHERE) {
  const int at[] = {c0, c1, c2};
  emulation::issue_tensor_copy(map, shared, at, 3, barrier, where);
}
inline void tensor_load(void* shared, const CUtensorMap* map, Mbarrier* barrier, int c0, int c1, int c2, int c3,
                        L4_WHERE) {
  const int at[] = {c0, c1, c2, c3};
  emulation::issue_tensor_copy(map, shared, at, 4, barrier, where);
}
inline void tensor_load(void* shared, const CUtensorMap* map, Mbarrier* barrier, int c0, int c1, int c2, int c3, int c4,
                        L4_WHERE) {
  const int at[] = {c0, c1, c2, c3, c4};
  emulation::issue_tensor_copy(map, shared, at, 5, barrier, where);
}
inline void tensor_load_to_blocks(void* shared, const CUtensorMap* map, Mbarrier* barrier, uint16_t blocks, int c0,
                                  int c1, L4_WHERE) {
  const int at[] = {c0, c1};
  if (blocks == 0) emulation::block().fail(where, "tensor_load_to_blocks to no block");
  emulation::issue_tensor_copy(map, shared, at, 2, barrier, where, blocks);
}
inline void tensor_load_hint(void* shared, const CUtensorMap* map, Mbarrier* barrier, uint64_t, int c0, int c1,
                             L4_WHERE) {
  tensor_load(shared, map, barrier, c0, c1, where);
}
inline void tensor_load_hint(void* shared, const CUtensorMap* map, Mbarrier* barrier, uint64_t, int c0, int c1, int c2,
                             L4_WHERE) {
  tensor_load(shared, map, barrier, c0, c1, c2, where);
}
inline void bulk_commit() {
  emulation::thread().bulk_stores.commit();
}
template <int kPending>
inline void bulk_wait() {
  emulation::thread().bulk_stores.wait(kPending);
}
template <int kPending>
inline void bulk_wait_read() {
  emulation::thread().bulk_stores.wait(kPending);
}

}  // namespace l4::cuda
