#pragma once

#include "kernels/cuda/ptx/address.h"

namespace l4::cuda {

namespace emulated {

struct Matrices {
  const void* row;
  uint32_t* r;
};

template <int kCount, bool kTransposed>
void load_matrices(void** payloads) {
  for (int i = 0; i < kCount; ++i)
    for (int t = 0; t < 32; ++t) {
      uint16_t v[2];
      for (int e = 0; e < 2; ++e) {
        const int row = kTransposed ? t % 4 * 2 + e : t / 4, column = kTransposed ? t / 4 : t % 4 * 2 + e;
        v[e] = static_cast<const uint16_t*>(static_cast<Matrices*>(payloads[8 * i + row])->row)[column];
      }
      static_cast<Matrices*>(payloads[t])->r[i] = uint32_t(v[1]) << 16 | v[0];
    }
}
template <int kCount>
void store_matrices(void** payloads) {
  for (int i = 0; i < kCount; ++i)
    for (int t = 0; t < 32; ++t) {
      auto to = static_cast<uint16_t*>(const_cast<void*>(static_cast<Matrices*>(payloads[8 * i + t / 4])->row));
      const uint32_t v = static_cast<Matrices*>(payloads[t])->r[i];
      to[t % 4 * 2] = uint16_t(v), to[t % 4 * 2 + 1] = uint16_t(v >> 16);
    }
}
template <int kCount>
void meet(const void* row, uint32_t* r, emulation::Complete complete, const char* what, emulation::Where where) {
  if (emulation::thread().lane() < 8 * kCount) emulation::block().check_shared(row, 16, 16, what, where);
  Matrices m{row, r};
  emulation::block().meet_warp(0xffffffffu, what, &m, complete, where);
}

}  // namespace emulated

inline void ldmatrix_x1(uint32_t (&r)[1], const void* row, L4_WHERE) {
  emulated::meet<1>(row, r, emulated::load_matrices<1, false>, "ldmatrix_x1", where);
}
inline void ldmatrix_x2(uint32_t (&r)[2], const void* row, L4_WHERE) {
  emulated::meet<2>(row, r, emulated::load_matrices<2, false>, "ldmatrix_x2", where);
}
inline void ldmatrix_x4(uint32_t (&r)[4], const void* row, L4_WHERE) {
  emulated::meet<4>(row, r, emulated::load_matrices<4, false>, "ldmatrix_x4", where);
}
inline void ldmatrix_x1_trans(uint32_t (&r)[1], const void* row, L4_WHERE) {
  emulated::meet<1>(row, r, emulated::load_matrices<1, true>, "ldmatrix_x1_trans", where);
}
inline void ldmatrix_x2_trans(uint32_t (&r)[2], const void* row, L4_WHERE) {
  emulated::meet<2>(row, r, emulated::load_matrices<2, true>, "ldmatrix_x2_trans", where);
}
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row, L4_WHERE) {
  emulated::meet<4>(row, r, emulated::load_matrices<4, true>, "ldmatrix_x4_trans", where);
}
inline void stmatrix_x2(void* row, const uint32_t (&r)[2], L4_WHERE) {
  emulated::meet<2>(row, const_cast<uint32_t*>(r), emulated::store_matrices<2>, "stmatrix_x2", where);
}
inline void stmatrix_x4(void* row, const uint32_t (&r)[4], L4_WHERE) {
  emulated::meet<4>(row, const_cast<uint32_t*>(r), emulated::store_matrices<4>, "stmatrix_x4", where);
}

}  // namespace l4::cuda
