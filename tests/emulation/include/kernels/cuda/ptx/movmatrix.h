#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace l4::cuda {

namespace emulated {

struct Transpose {
  uint32_t given, got;
  static void complete(void** payloads) {
    for (int t = 0; t < 32; ++t) {
      uint32_t v[2];
      for (int e = 0; e < 2; ++e) {  // element (t / 4, 2 * (t % 4) + e) of the transposed matrix
        const int row = t % 4 * 2 + e, column = t / 4;
        v[e] = static_cast<Transpose*>(payloads[4 * row + column / 2])->given >> column % 2 * 16 & 0xFFFF;
      }
      static_cast<Transpose*>(payloads[t])->got = v[1] << 16 | v[0];
    }
  }
};

}  // namespace emulated

inline uint32_t transpose_8x8(uint32_t pair, L4_WHERE) {
  emulated::Transpose m{pair, 0};
  emulation::block().meet_warp(0xffffffffu, "transpose_8x8", &m, emulated::Transpose::complete, where);
  return m.got;
}

}  // namespace l4::cuda
