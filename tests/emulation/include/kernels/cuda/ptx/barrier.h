#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace l4::cuda {

inline void barrier_sync(int id, int n_threads, L4_WHERE) {
  emulation::block().barrier(id, n_threads, true, "barrier_sync", where);
}
inline void barrier_arrive(int id, int n_threads, L4_WHERE) {
  emulation::block().barrier(id, n_threads, false, "barrier_arrive", where);
}
inline bool elect_one(L4_WHERE) {
  emulation::block().meet_warp(0xffffffffu, "elect_one", nullptr, nullptr, where);
  return emulation::thread().lane() == 0;
}

}  // namespace l4::cuda
