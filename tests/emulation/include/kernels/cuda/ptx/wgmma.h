#pragma once

#include "kernels/cuda/ptx/address.h"
#include "kernels/cuda/ptx/swizzle.h"

namespace l4::cuda {

enum class Major : int { k = 0, mn = 1 };

inline uint64_t matrix_descriptor(const void* tile, Swizzle swizzle, uint32_t leading_bytes, uint32_t stride_bytes) {
  return uint64_t((shared_address(tile) & 0x3FFFF) >> 4) | uint64_t((leading_bytes & 0x3FFFF) >> 4) << 16 |
         uint64_t((stride_bytes & 0x3FFFF) >> 4) << 32 | uint64_t(swizzle) << 62;
}
inline uint64_t advance_descriptor(uint64_t descriptor, uint32_t bytes) {
  return descriptor + (bytes >> 4);
}

inline void wgmma_fence() {}
inline void wgmma_commit() {
  ++emulation::thread().n_wgmma_commits;
}
template <int kPending>
inline void wgmma_wait() {
  emulation::block().wait_wgmma(kPending);
}
template <int kCount>
inline void wgmma_hold(float (&)[kCount]) {}

namespace emulated {

struct Wgmma {
  emulation::WgmmaOperands operands;
  float* d;
  const uint32_t* a;
  emulation::Where where;

  static void complete(void** payloads) {
    emulation::WgmmaOperation all;
    all.operands = static_cast<Wgmma*>(payloads[0])->operands;
    for (int t = 0; t < 128; ++t) {
      const Wgmma& w = *static_cast<Wgmma*>(payloads[t]);
      if (w.operands != all.operands)
        emulation::block().fail(w.where, "wgmma: the threads of a warpgroup give different operands");
      all.d[t] = w.d;
      if (w.a) std::memcpy(all.a[t], w.a, sizeof all.a[t]);
    }
    emulation::block().issue_wgmma(all);
  }
};

template <int kN, Major kMajorOfB, bool kE4m3 = false>
void issue(float* d, const uint32_t* a_registers, uint64_t a, uint64_t b, bool accumulate, emulation::Where where) {
  static_assert(kN == 8 || (kN > 0 && kN % 16 == 0 && kN <= 256));
  Wgmma w{{kN, a_registers != nullptr, kMajorOfB == Major::mn, accumulate, kE4m3, a, b}, d, a_registers, where};
  emulation::block().meet_warpgroup("wgmma", &w, Wgmma::complete, where);
}

}  // namespace emulated

template <int kN, Major kMajorOfB = Major::k>
inline void wgmma(float (&d)[kN / 2], uint64_t a, uint64_t b, bool accumulate, L4_WHERE) {
  emulated::issue<kN, kMajorOfB>(d, nullptr, a, b, accumulate, where);
}
template <int kN, Major kMajorOfB = Major::k>
inline void wgmma(float (&d)[kN / 2], const uint32_t (&a)[4], uint64_t b, bool accumulate, L4_WHERE) {
  emulated::issue<kN, kMajorOfB>(d, a, 0, b, accumulate, where);
}
template <int kN>
inline void wgmma_e4m3(float (&d)[kN / 2], uint64_t a, uint64_t b, bool accumulate, L4_WHERE) {
  emulated::issue<kN, Major::k, true>(d, nullptr, a, b, accumulate, where);
}

}  // namespace l4::cuda
