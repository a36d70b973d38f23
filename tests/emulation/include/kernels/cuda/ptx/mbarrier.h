#pragma once

#include "kernels/cuda/ptx/address.h"

namespace l4::cuda {

struct alignas(8) Mbarrier {
  uint64_t state;
};

inline void mbarrier_init(Mbarrier* barrier, int n_arrivals, L4_WHERE) {
  emulation::block().mbarrier_init(barrier, n_arrivals, where);
}
inline void mbarrier_init_fence() {}
inline void mbarrier_arrive(Mbarrier* barrier, L4_WHERE) {
  emulation::block().mbarrier_arrive(barrier, 1, 0, 0, where);
}
inline void mbarrier_arrive(Mbarrier* barrier, int n_arrivals, L4_WHERE) {
  emulation::block().mbarrier_arrive(barrier, n_arrivals, 0, 0, where);
}
inline void mbarrier_arrive_expect_tx(Mbarrier* barrier, uint32_t n_bytes, L4_WHERE) {
  emulation::block().mbarrier_arrive(barrier, 1, n_bytes, 0, where);
}
inline void mbarrier_expect_tx(Mbarrier* barrier, uint32_t n_bytes, L4_WHERE) {
  emulation::block().mbarrier_arrive(barrier, 0, n_bytes, 0, where);
}
inline bool mbarrier_try_wait(Mbarrier* barrier, uint32_t parity, L4_WHERE) {
  if (!emulation::block().mbarrier_done(barrier, parity, where))
    emulation::block().spin("mbarrier_try_wait", where, false);
  return emulation::block().mbarrier_done(barrier, parity, where);
}
inline void mbarrier_wait(Mbarrier* barrier, uint32_t parity, L4_WHERE) {
  emulation::block().mbarrier_wait(barrier, parity, where);
}

}  // namespace l4::cuda
