// The formats of small_m.cu's weights: how 16 bytes of a row become operands of a matrix instruction, and how x is
// loaded and becomes the other. A lane has chunks 2 t and 2 t + 1 of a slab's rows (t = lane % 4), with FP8 and BF16
// neighbouring columns, with INT4 eight of every 32 (weight_layout.h); of x the same columns, so nothing is moved
// between lanes.
#pragma once

#include "kernels/cuda/device/fp8_input.h"
#include "kernels/cuda/device/math.h"
#include "kernels/cuda/matmul/int4_codes.h"
#include "kernels/cuda/ptx/fp8.h"
#include "kernels/cuda/ptx/mma.h"
#include "quant/format.h"

namespace l4::cuda::small_m {

// Scales of a lane's token: x is divided by `scale` to become codes.
struct XScale {
  float scale = 1, inverse = 1;
  // 1 / scale is infinite below 2^-128; what is divided by that is 0 or the largest code all the same.
  __device__ static XScale of(float scale) { return {scale, fminf(1.0f / scale, 3.4e38f)}; }
};

// What formats without scales and groups have in common.
struct PlainX {
  static constexpr bool kOne = false;  // of one token, whose operands are made beforehand (small_m_one.h)
  static constexpr int kXSlab = 0;     // bytes of them
  static constexpr bool kCodes =
      false;  // x is divided by its token's scale, and becomes codes; rows of weights have scales
  static constexpr bool kGroups = false;  // sums of a group of columns are multiplied by its scale
  static constexpr bool kAhead = false;   // x of a whole stage is loaded while the stage before is multiplied
  // Operand b: of two words of x.
  __device__ static void of_x(const uint32_t* loaded, const XScale&, uint32_t (&x)[2]) {
    x[0] = loaded[0], x[1] = loaded[1];
  }
  __device__ static void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    mma_m16n8k16(d, a, b);
  }
};

struct Bf16Weights : PlainX {
  static constexpr bool kAhead = true;
  static constexpr int kPerLoad = 8;             // numbers in 16 bytes
  static constexpr int kXLane = 16, kXStep = 8;  // columns from a lane t to the next, and from a load of 16 bytes of x
  // Operand a of the i-th of kPerLoad / 4 instructions: from 16 bytes of row g and of row g + 8.
  __device__ static void operand(const uint32_t (&low)[4], const uint32_t (&high)[4], int i, uint32_t (&a)[4]) {
    a[0] = low[2 * i], a[1] = high[2 * i], a[2] = low[2 * i + 1], a[3] = high[2 * i + 1];
  }
};

// Codes are exact in f16, and their products in float32. x is rounded to codes by every warp that uses it, so that no
// kernel has to do it before this one.
struct Fp8Weights : PlainX {
  static constexpr int kPerLoad = 16;
  static constexpr int kXLane = 32, kXStep = 8;
  static constexpr bool kCodes = true;
  __device__ static void operand(const uint32_t (&low)[4], const uint32_t (&high)[4], int i, uint32_t (&a)[4]) {
    halves_of_fp8(low[i], a[0], a[2]);
    halves_of_fp8(high[i], a[1], a[3]);
  }
  // value / scale, rounded once as a division is.
  __device__ static float quotient(float value, const XScale& s) {
    return corrected_quotient(value * s.inverse, value, s.scale, s.inverse);
  }
  __device__ static void of_x(const uint32_t* loaded, const XScale& s, uint32_t (&x)[2]) {
#pragma unroll
    for (int i = 0; i < 2; ++i)
      x[i] = halves_of_nearest_fp8(quotient(__uint_as_float(loaded[i] << 16), s),
                                   quotient(__uint_as_float(loaded[i] & 0xFFFF0000u), s));
  }
  __device__ static void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    mma_m16n8k16_f16(d, a, b);
  }
};

struct Int4Weights : PlainX {
  static constexpr int kPerLoad = 32;
  static constexpr int kXLane = 8, kXStep = 32;
  static constexpr bool kGroups = true;
  __device__ static void operand(const uint32_t (&low)[4], const uint32_t (&high)[4], int i, uint32_t (&a)[4]) {
    const int first = 2 * (i % 2);
    a[0] = int4_codes(low[i / 2], first), a[1] = int4_codes(high[i / 2], first);
    a[2] = int4_codes(low[i / 2], first + 1), a[3] = int4_codes(high[i / 2], first + 1);
  }
};

}  // namespace l4::cuda::small_m
