#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>

namespace l4::cuda {

namespace emulated {

// By its 16 bits.
struct Bf16 {
  static float value(uint32_t bits) { return std::bit_cast<float>(bits << 16); }
};
struct F16 {
  static float value(uint32_t bits) {
    const int exponent = int(bits >> 10 & 31), fraction = int(bits & 1023);
    const float magnitude = exponent == 31  ? (fraction ? NAN : INFINITY)
                            : exponent == 0 ? std::ldexp(float(fraction), -24)
                                            : std::ldexp(float(1024 + fraction), exponent - 25);
    return bits & 0x8000u ? -magnitude : magnitude;
  }
};

template <class Number>
struct Mma {
  float* d;
  const uint32_t *a, *b;
  static float low(uint32_t v) { return Number::value(v & 0xFFFFu); }
  static float high(uint32_t v) { return Number::value(v >> 16); }

  static void complete(void** payloads) {
    float a[16][16], b[16][8];
    for (int lane = 0; lane < 32; ++lane) {
      const Mma& m = *static_cast<Mma*>(payloads[lane]);
      const int g = lane / 4, t = lane % 4;
      for (int i = 0; i < 4; ++i) {
        float* at = &a[g + i % 2 * 8][2 * t + i / 2 * 8];
        at[0] = low(m.a[i]), at[1] = high(m.a[i]);
      }
      for (int i = 0; i < 2; ++i) b[2 * t + 8 * i][g] = low(m.b[i]), b[2 * t + 8 * i + 1][g] = high(m.b[i]);
    }
    for (int lane = 0; lane < 32; ++lane) {
      float* d = static_cast<Mma*>(payloads[lane])->d;
      for (int i = 0; i < 4; ++i) {
        double sum = 0;
        for (int k = 0; k < 16; ++k) sum += double(a[lane / 4 + i / 2 * 8][k]) * double(b[k][lane % 4 * 2 + i % 2]);
        d[i] = float(double(d[i]) + sum);
      }
    }
  }
};

struct MmaS8 {
  int* d;
  const uint32_t *a, *b;

  static void complete(void** payloads) {
    int8_t a[16][32], b[32][8];
    for (int lane = 0; lane < 32; ++lane) {
      const MmaS8& m = *static_cast<MmaS8*>(payloads[lane]);
      const int g = lane / 4, t = lane % 4;
      for (int byte = 0; byte < 4; ++byte) {
        for (int i = 0; i < 4; ++i) a[g + i % 2 * 8][4 * t + i / 2 * 16 + byte] = int8_t(m.a[i] >> 8 * byte);
        for (int i = 0; i < 2; ++i) b[4 * t + 16 * i + byte][g] = int8_t(m.b[i] >> 8 * byte);
      }
    }
    for (int lane = 0; lane < 32; ++lane) {
      int* d = static_cast<MmaS8*>(payloads[lane])->d;
      for (int i = 0; i < 4; ++i)
        for (int k = 0; k < 32; ++k) d[i] += a[lane / 4 + i / 2 * 8][k] * b[k][lane % 4 * 2 + i % 2];
    }
  }
};

}  // namespace emulated

inline void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], L4_WHERE) {
  using Mma = emulated::Mma<emulated::Bf16>;
  Mma m{d, a, b};
  emulation::block().meet_warp(0xffffffffu, "mma_m16n8k16", &m, Mma::complete, where);
}
inline void mma_m16n8k16_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], L4_WHERE) {
  using Mma = emulated::Mma<emulated::F16>;
  Mma m{d, a, b};
  emulation::block().meet_warp(0xffffffffu, "mma_m16n8k16_f16", &m, Mma::complete, where);
}

inline void mma_m16n8k32_s8(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], L4_WHERE) {
  emulated::MmaS8 m{d, a, b};
  emulation::block().meet_warp(0xffffffffu, "mma_m16n8k32_s8", &m, emulated::MmaS8::complete, where);
}

}  // namespace l4::cuda
