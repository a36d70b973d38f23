#pragma once

#include "kernels/cuda/ptx/mbarrier.h"

namespace l4::cuda {

inline uint32_t cluster_rank() {
  return emulation::block().rank();
}
inline void cluster_arrive(L4_WHERE) {
  emulation::block().cluster_arrive(where);
}
inline void cluster_wait(L4_WHERE) {
  emulation::block().cluster_wait(where);
}
inline void mbarrier_arrive_at(Mbarrier* barrier, uint32_t rank, L4_WHERE) {
  emulation::Block& other = emulation::block().neighbour(rank, where);
  other.mbarrier_arrive(emulation::block().address_in(other, barrier), 1, 0, 0, where);
}

}  // namespace l4::cuda
