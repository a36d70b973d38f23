// The loops of SimdKernels over simd.h; included once per instruction set.
#pragma once

#include "kernels/cpu/simd/kernels.h"
#include "kernels/cpu/simd/simd.h"

namespace {

using l4::cpu::kMaxRows;
using l4::cpu::kPanel;

// ---- matrix products ------------------------------------------------------------------------------------------------

struct WeightsF32 {
  using Element = float;
  L4_INLINE static void get(const float* w, F16& low, F16& high) {
    low = load(w);
    high = load(w + 16);
  }
};
struct WeightsBf16 {
  using Element = uint16_t;
  L4_INLINE static void get(const uint16_t* w, F16& low, F16& high) {
    I16 pairs = load_int(w);
    low = from_bits(shift_left<16>(pairs));
    high = from_bits(pairs & splat_int(0xFFFF0000u));
  }
};

template <class Weights, int rows, int panels>
void gemm_tile(const float* x, const typename Weights::Element* w, int64_t panel_stride, int64_t k, float* c,
               int64_t c_stride, bool first) {
  F16 low[panels][rows], high[panels][rows];
  for (int p = 0; p < panels; ++p)
    for (int m = 0; m < rows; ++m) low[p][m] = high[p][m] = splat(0.0f);
  for (int64_t i = 0; i < k; ++i) {
#pragma GCC unroll 4
    for (int p = 0; p < panels; ++p) {
      F16 w_low, w_high;
      Weights::get(w + p * panel_stride + i * kPanel, w_low, w_high);
#pragma GCC unroll 12
      for (int m = 0; m < rows; ++m) {
        F16 a = splat(x[i * rows + m]);
        low[p][m] = fma(a, w_low, low[p][m]);
        high[p][m] = fma(a, w_high, high[p][m]);
      }
    }
  }
  for (int p = 0; p < panels; ++p)
    for (int m = 0; m < rows; ++m) {
      float* to = c + p * c_stride + m * kPanel;
      store(to, first ? low[p][m] : load(to) + low[p][m]);
      store(to + 16, first ? high[p][m] : load(to + 16) + high[p][m]);
    }
}

// Few rows have few chains of additions: several panels at once keep the adders busy.
template <class Weights, int rows>
void gemm_rows(int n_panels, const float* x, const typename Weights::Element* w, int64_t panel_stride, int64_t k,
               float* c, int64_t c_stride, bool first) {
  constexpr int wide = rows == 1 ? 4 : rows <= 3 ? 2 : 1;
  int p = 0;
  for (; p + wide <= n_panels; p += wide)
    gemm_tile<Weights, rows, wide>(x, w + p * panel_stride, panel_stride, k, c + p * c_stride, c_stride, first);
  for (; p < n_panels; ++p)
    gemm_tile<Weights, rows, 1>(x, w + p * panel_stride, panel_stride, k, c + p * c_stride, c_stride, first);
}

template <class Weights>
void gemm(int rows, int n_panels, const float* x, const typename Weights::Element* w, int64_t panel_stride, int64_t k,
          float* c, int64_t c_stride, bool first) {
  switch (rows) {
#define L4_ROWS(n) \
  case n:          \
    return gemm_rows<Weights, n>(n_panels, x, w, panel_stride, k, c, c_stride, first);
    L4_ROWS(1)
    L4_ROWS(2)
    L4_ROWS(3)
    L4_ROWS(4)
    L4_ROWS(5)
    L4_ROWS(6)
    L4_ROWS(7)
    L4_ROWS(8)
    L4_ROWS(9)
    L4_ROWS(10)
    L4_ROWS(11)
    L4_ROWS(12)
#undef L4_ROWS
  }
}

// ---- quantised weights ----------------------------------------------------------------------------------------------

// The two columns of a pair as they lie in a bf16 panel. Both have nothing in the lower half of their float.
L4_INLINE void store_pairs(uint16_t* to, F16 low, F16 high) {
  I16 pairs = shift_right<16>(bits(low)) | bits(high);
  std::memcpy(to, &pairs, sizeof pairs);
}

void expand_fp8(const uint8_t* codes, int64_t rows, uint16_t* to) {
  for (int64_t i = 0; i < rows; ++i) {
    uint16_t pairs[16];
    std::memcpy(pairs, codes + i * kPanel, sizeof pairs);
    I16 both = widen(pairs);
    store_pairs(to + i * kPanel, fp8_values(both), fp8_values(shift_right<8>(both)));
  }
}

// A float of 2^23 has its units in its lowest bits: there go the four bits of code + 8.
L4_INLINE F16 int4_values(I16 codes) {
  return from_bits((codes & splat_int(15)) | splat_int(0x4B000000)) - splat(0x1p23f + 8);
}
void expand_int4(const uint8_t* codes, int64_t rows, uint16_t* to) {
  for (int64_t i = 0; i < rows; ++i) {
    I16 both = widen(codes + i * kPanel / 2);
    store_pairs(to + i * kPanel, int4_values(both), int4_values(shift_right<4>(both)));
  }
}

void add_scaled(int64_t rows, const float* from, const float* scale, float* to, bool first) {
  const F16 low = load(scale), high = load(scale + 16);
  for (int64_t m = 0; m < rows; ++m, from += kPanel, to += kPanel) {
    store(to, first ? load(from) * low : fma(load(from), low, load(to)));
    store(to + 16, first ? load(from + 16) * high : fma(load(from + 16), high, load(to + 16)));
  }
}

// ---- attention ------------------------------------------------------------------------------------------------------

// scores[r][j] = scale * q[r] . k[j] for 4 keys: 16 partial sums a pair, then one fixed tree of additions.
template <int rows>
void dot_tile(int width, const float* q, const float* k, float scale, float* scores, int64_t score_stride) {
  F16 s[rows][4];
  for (int r = 0; r < rows; ++r)
    for (int j = 0; j < 4; ++j) s[r][j] = splat(0.0f);
  for (int d = 0; d < width; d += 16) {
    F16 keys[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) keys[j] = load(k + j * width + d);
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r) {
      F16 a = load(q + r * width + d);
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) s[r][j] = fma(a, keys[j], s[r][j]);
    }
  }
  for (int r = 0; r < rows; ++r) {
    float* to = scores + r * score_stride;
    sum4(s[r][0], s[r][1], s[r][2], s[r][3], to);
    for (int j = 0; j < 4; ++j) to[j] *= scale;
  }
}

// acc[r][0 .. 16 parts) += sum over j of p[r][j] * v[j][...], keys in order.
template <int rows, int parts>
void weigh_tile(int n_keys, int width, const float* p, int64_t p_stride, const float* v, float* acc) {
  F16 sums[rows][parts];
  for (int r = 0; r < rows; ++r)
    for (int i = 0; i < parts; ++i) sums[r][i] = load(acc + r * width + 16 * i);
  for (int j = 0; j < n_keys; ++j) {
    F16 values[parts];
#pragma GCC unroll 4
    for (int i = 0; i < parts; ++i) values[i] = load(v + j * width + 16 * i);
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r) {
      F16 weight = splat(p[r * p_stride + j]);
#pragma GCC unroll 4
      for (int i = 0; i < parts; ++i) sums[r][i] = fma(weight, values[i], sums[r][i]);
    }
  }
  for (int r = 0; r < rows; ++r)
    for (int i = 0; i < parts; ++i) store(acc + r * width + 16 * i, sums[r][i]);
}

template <int rows>
void attend_rows(int n_keys, int width, const float* q, const float* k, const float* v, float scale, bool round_p,
                 float* scores, float* m, float* l, float* acc) {
  const int stride = (n_keys + 15) / 16 * 16;
  for (int j = 0; j < n_keys; j += 4) dot_tile<rows>(width, q, k + int64_t(j) * width, scale, scores + j, stride);
  for (int r = 0; r < rows; ++r) {
    float* s = scores + r * stride;
    for (int j = n_keys; j < stride; ++j) s[j] = -__builtin_inff();  // weight 0
    F16 best = load(s);
    for (int j = 16; j < stride; j += 16) best = max(best, load(s + j));
    float top = max_lane(best), old = m[r];
    if (!(top > old)) top = old;
    m[r] = top;
    F16 total = splat(0.0f);
    for (int j = 0; j < stride; j += 16) {
      F16 p = exp(load(s + j) - splat(top));
      total = total + p;
      store(s + j, round_p ? round_bf16(p) : p);
    }
    float shrink = 0;
    if (old > -__builtin_inff()) {
      float lanes[16];
      store(lanes, exp(splat(old - top)));
      shrink = lanes[0];
    }
    l[r] = l[r] * shrink + sum(total);
    for (int d = 0; d < width; d += 16) store(acc + r * width + d, load(acc + r * width + d) * splat(shrink));
  }
  int d = 0;
  constexpr int parts = rows == 1 ? 4 : 2;
  for (; d + 16 * parts <= width; d += 16 * parts)
    weigh_tile<rows, parts>(n_keys, width, scores, stride, v + d, acc + d);
  for (; d < width; d += 16) weigh_tile<rows, 1>(n_keys, width, scores, stride, v + d, acc + d);
}

void attend(int rows, int n_keys, int width, const float* q, const float* k, const float* v, float scale, bool round_p,
            float* scores, float* m, float* l, float* acc) {
  auto some = [&](auto kernel, int n) {
    kernel(n_keys, width, q, k, v, scale, round_p, scores, m, l, acc);
    q += n * width, acc += n * width, m += n, l += n, rows -= n;
  };
  while (rows >= 4) some(attend_rows<4>, 4);
  if (rows == 3) some(attend_rows<3>, 3);
  if (rows == 2) some(attend_rows<2>, 2);
  if (rows == 1) some(attend_rows<1>, 1);
}

// ---- elementwise ----------------------------------------------------------------------------------------------------

void widen_bf16(const uint16_t* from, float* to, int64_t n) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) store(to + i, load_bf16(from + i));
  for (; i < n; ++i) {
    uint32_t u = uint32_t(from[i]) << 16;
    std::memcpy(to + i, &u, sizeof u);
  }
}

void widen_fp8(const uint8_t* from, float scale, float* to, int64_t n) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) store(to + i, fp8_values(widen(from + i)) * splat(scale));
  if (i < n) {
    uint8_t rest[16] = {};
    float wide[16];
    std::memcpy(rest, from + i, size_t(n - i));
    store(wide, fp8_values(widen(rest)) * splat(scale));
    std::memcpy(to + i, wide, size_t(n - i) * sizeof(float));
  }
}

// to[i] = f(from[i]) for any n; the lanes of the last, short vector that are not used hold zeros.
template <class Function>
L4_INLINE void map_array(const float* from, float* to, int64_t n, Function f) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) store(to + i, f(load(from + i)));
  if (i < n) {
    float rest[16] = {};
    std::memcpy(rest, from + i, size_t(n - i) * sizeof(float));
    store(rest, f(load(rest)));
    std::memcpy(to + i, rest, size_t(n - i) * sizeof(float));
  }
}
void exp_array(const float* from, float* to, int64_t n) {
  map_array(
      from, to, n, [](F16 x) __attribute__((always_inline)) { return exp(x); });
}
void silu_array(const float* from, float* to, int64_t n) {
  map_array(
      from, to, n, [](F16 z) __attribute__((always_inline)) { return z / (splat(1.0f) + exp(splat(0.0f) - z)); });
}

constexpr l4::cpu::SimdKernels table(const char* name) {
  return {name,       gemm<WeightsF32>, gemm<WeightsBf16>, expand_fp8, expand_int4, add_scaled,
          attend,     widen_bf16,       widen_fp8,         silu_array, exp_array};
}

}  // namespace
