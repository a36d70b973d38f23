// Sixteen floats at a time, for the few loops where it matters: AVX-512, AVX2 + FMA, or plain loops the compiler may
// vectorise (any other CPU). Lane by lane the same operations in the same order, so AVX-512 and AVX2 give the same bits;
// without FMA products are rounded before they are added.
//
// Include only from kernels_*.cpp, which are compiled with their own instruction set. Everything here is in an unnamed
// namespace and nothing else with inline code is included: the linker must not keep an AVX-512 copy of a shared function.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX2__) || defined(__AVX512F__)
#if defined(__GNUC__) && !defined(__clang__)
// gcc 12 takes the deliberately undefined registers of its own AVX-512 header for mistakes (gcc PR 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#endif

#define L4_INLINE inline __attribute__((always_inline))

// clang-format off

namespace {

#if defined(__AVX512F__) && defined(__AVX512BW__)

struct F16 {
  __m512 v;
};
struct I16 {
  __m512i v;
};
L4_INLINE F16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
L4_INLINE void store(float* p, F16 a) { _mm512_storeu_ps(p, a.v); }
L4_INLINE F16 splat(float a) { return {_mm512_set1_ps(a)}; }
L4_INLINE I16 load_int(const void* p) { return {_mm512_loadu_si512(p)}; }
L4_INLINE I16 splat_int(uint32_t a) { return {_mm512_set1_epi32(int(a))}; }
L4_INLINE I16 widen(const uint16_t* p) {
  return {_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
L4_INLINE I16 widen(const uint8_t* p) {
  return {_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
L4_INLINE F16 fma(F16 a, F16 b, F16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
L4_INLINE F16 operator+(F16 a, F16 b) { return {_mm512_add_ps(a.v, b.v)}; }
L4_INLINE F16 operator-(F16 a, F16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
L4_INLINE F16 operator*(F16 a, F16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
L4_INLINE F16 operator/(F16 a, F16 b) { return {_mm512_div_ps(a.v, b.v)}; }
L4_INLINE F16 max(F16 a, F16 b) { return {_mm512_max_ps(a.v, b.v)}; }
L4_INLINE F16 min(F16 a, F16 b) { return {_mm512_min_ps(a.v, b.v)}; }
L4_INLINE F16 round_even(F16 a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
L4_INLINE I16 to_int(F16 a) { return {_mm512_cvtps_epi32(a.v)}; }
L4_INLINE I16 bits(F16 a) { return {_mm512_castps_si512(a.v)}; }
L4_INLINE F16 from_bits(I16 a) { return {_mm512_castsi512_ps(a.v)}; }
L4_INLINE I16 operator+(I16 a, I16 b) { return {_mm512_add_epi32(a.v, b.v)}; }
L4_INLINE I16 operator&(I16 a, I16 b) { return {_mm512_and_si512(a.v, b.v)}; }
L4_INLINE I16 operator|(I16 a, I16 b) { return {_mm512_or_si512(a.v, b.v)}; }
template <int n>
L4_INLINE I16 shift_left(I16 a) { return {_mm512_slli_epi32(a.v, n)}; }
template <int n>
L4_INLINE I16 shift_right(I16 a) { return {_mm512_srli_epi32(a.v, n)}; }
// a < b ? yes : no
L4_INLINE F16 select_less(F16 a, F16 b, F16 yes, F16 no) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), no.v, yes.v)};
}
// Lanes 0-7 and 8-15 added, then halves again: the one order in which lanes are ever summed.
L4_INLINE __m256 fold(F16 a) {
  __m256 hi = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(a.v), 1));
  return _mm256_add_ps(_mm512_castps512_ps256(a.v), hi);
}
L4_INLINE __m256 fold_max(F16 a) {
  __m256 hi = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(a.v), 1));
  return _mm256_max_ps(_mm512_castps512_ps256(a.v), hi);
}

#elif defined(__AVX2__) && defined(__FMA__)

struct F16 {
  __m256 a, b;
};
struct I16 {
  __m256i a, b;
};
L4_INLINE F16 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
L4_INLINE void store(float* p, F16 x) {
  _mm256_storeu_ps(p, x.a);
  _mm256_storeu_ps(p + 8, x.b);
}
L4_INLINE F16 splat(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
L4_INLINE I16 load_int(const void* p) {
  const __m256i* q = static_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(q), _mm256_loadu_si256(q + 1)};
}
L4_INLINE I16 splat_int(uint32_t x) { return {_mm256_set1_epi32(int(x)), _mm256_set1_epi32(int(x))}; }
L4_INLINE I16 widen(const uint16_t* p) {
  const __m128i* q = reinterpret_cast<const __m128i*>(p);
  return {_mm256_cvtepu16_epi32(_mm_loadu_si128(q)), _mm256_cvtepu16_epi32(_mm_loadu_si128(q + 1))};
}
L4_INLINE I16 widen(const uint8_t* p) {
  const __m128i q = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_cvtepu8_epi32(q), _mm256_cvtepu8_epi32(_mm_srli_si128(q, 8))};
}
L4_INLINE F16 fma(F16 x, F16 y, F16 z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
L4_INLINE F16 operator+(F16 x, F16 y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
L4_INLINE F16 operator-(F16 x, F16 y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
L4_INLINE F16 operator*(F16 x, F16 y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
L4_INLINE F16 operator/(F16 x, F16 y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
L4_INLINE F16 max(F16 x, F16 y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
L4_INLINE F16 min(F16 x, F16 y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
L4_INLINE F16 round_even(F16 x) {
  constexpr int kMode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(x.a, kMode), _mm256_round_ps(x.b, kMode)};
}
L4_INLINE I16 to_int(F16 x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
L4_INLINE I16 bits(F16 x) { return {_mm256_castps_si256(x.a), _mm256_castps_si256(x.b)}; }
L4_INLINE F16 from_bits(I16 x) { return {_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b)}; }
L4_INLINE I16 operator+(I16 x, I16 y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
L4_INLINE I16 operator&(I16 x, I16 y) { return {_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b)}; }
L4_INLINE I16 operator|(I16 x, I16 y) { return {_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)}; }
template <int n>
L4_INLINE I16 shift_left(I16 x) { return {_mm256_slli_epi32(x.a, n), _mm256_slli_epi32(x.b, n)}; }
template <int n>
L4_INLINE I16 shift_right(I16 x) { return {_mm256_srli_epi32(x.a, n), _mm256_srli_epi32(x.b, n)}; }
L4_INLINE F16 select_less(F16 x, F16 y, F16 yes, F16 no) {
  return {_mm256_blendv_ps(no.a, yes.a, _mm256_cmp_ps(x.a, y.a, _CMP_LT_OQ)),
          _mm256_blendv_ps(no.b, yes.b, _mm256_cmp_ps(x.b, y.b, _CMP_LT_OQ))};
}
L4_INLINE __m256 fold(F16 x) { return _mm256_add_ps(x.a, x.b); }
L4_INLINE __m256 fold_max(F16 x) { return _mm256_max_ps(x.a, x.b); }

#else

struct F16 {
  float v[16];
};
struct I16 {
  uint32_t v[16];
};
L4_INLINE F16 load(const float* p) { F16 r; std::memcpy(r.v, p, sizeof r.v); return r; }
L4_INLINE void store(float* p, F16 a) { std::memcpy(p, a.v, sizeof a.v); }
template <class Lane>
L4_INLINE F16 lanes(Lane lane) { F16 r; for (int i = 0; i < 16; ++i) r.v[i] = lane(i); return r; }
template <class Lane>
L4_INLINE I16 int_lanes(Lane lane) { I16 r; for (int i = 0; i < 16; ++i) r.v[i] = lane(i); return r; }
L4_INLINE F16 splat(float a) { return lanes([=](int) { return a; }); }
L4_INLINE I16 load_int(const void* p) { I16 r; std::memcpy(r.v, p, sizeof r.v); return r; }
L4_INLINE I16 splat_int(uint32_t a) { return int_lanes([=](int) { return a; }); }
L4_INLINE I16 widen(const uint16_t* p) { return int_lanes([=](int i) { return uint32_t(p[i]); }); }
L4_INLINE I16 widen(const uint8_t* p) { return int_lanes([=](int i) { return uint32_t(p[i]); }); }
L4_INLINE F16 fma(const F16& a, const F16& b, const F16& c) {
#if defined(__FP_FAST_FMAF)
  return lanes([&](int i) { return __builtin_fmaf(a.v[i], b.v[i], c.v[i]); });
#else
  return lanes([&](int i) { return a.v[i] * b.v[i] + c.v[i]; });
#endif
}
L4_INLINE F16 operator+(const F16& a, const F16& b) { return lanes([&](int i) { return a.v[i] + b.v[i]; }); }
L4_INLINE F16 operator-(const F16& a, const F16& b) { return lanes([&](int i) { return a.v[i] - b.v[i]; }); }
L4_INLINE F16 operator*(const F16& a, const F16& b) { return lanes([&](int i) { return a.v[i] * b.v[i]; }); }
L4_INLINE F16 operator/(const F16& a, const F16& b) { return lanes([&](int i) { return a.v[i] / b.v[i]; }); }
L4_INLINE F16 max(const F16& a, const F16& b) { return lanes([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; }); }
L4_INLINE F16 min(const F16& a, const F16& b) { return lanes([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; }); }
L4_INLINE F16 round_even(const F16& a) {  // |a| < 2^22
  return lanes([&](int i) { return (a.v[i] + 12582912.0f) - 12582912.0f; });
}
L4_INLINE I16 to_int(const F16& a) { return int_lanes([&](int i) { return a.v[i] == a.v[i] ? uint32_t(int32_t(a.v[i])) : 0u; }); }
L4_INLINE I16 bits(const F16& a) { I16 r; std::memcpy(r.v, a.v, sizeof r.v); return r; }
L4_INLINE F16 from_bits(const I16& a) { F16 r; std::memcpy(r.v, a.v, sizeof r.v); return r; }
L4_INLINE I16 operator+(const I16& a, const I16& b) { return int_lanes([&](int i) { return a.v[i] + b.v[i]; }); }
L4_INLINE I16 operator&(const I16& a, const I16& b) { return int_lanes([&](int i) { return a.v[i] & b.v[i]; }); }
L4_INLINE I16 operator|(const I16& a, const I16& b) { return int_lanes([&](int i) { return a.v[i] | b.v[i]; }); }
template <int n>
L4_INLINE I16 shift_left(const I16& a) { return int_lanes([&](int i) { return a.v[i] << n; }); }
template <int n>
L4_INLINE I16 shift_right(const I16& a) { return int_lanes([&](int i) { return a.v[i] >> n; }); }
L4_INLINE F16 select_less(const F16& a, const F16& b, const F16& yes, const F16& no) {
  return lanes([&](int i) { return a.v[i] < b.v[i] ? yes.v[i] : no.v[i]; });
}

#endif

#if defined(__AVX2__)
L4_INLINE float sum(F16 x) {
  __m256 a = fold(x);
  __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  b = _mm_add_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}
L4_INLINE float max_lane(F16 x) {
  __m256 a = fold_max(x);
  __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  b = _mm_max_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_max_ss(b, _mm_movehdup_ps(b)));
}
// out[i] = sum(x_i): four sums for the shuffles of about two, in the same order of additions as sum().
L4_INLINE void sum4(F16 x0, F16 x1, F16 x2, F16 x3, float* out) {
  __m256 a0 = fold(x0), a1 = fold(x1), a2 = fold(x2), a3 = fold(x3);
  __m128 b0 = _mm_add_ps(_mm256_castps256_ps128(a0), _mm256_extractf128_ps(a0, 1));
  __m128 b1 = _mm_add_ps(_mm256_castps256_ps128(a1), _mm256_extractf128_ps(a1, 1));
  __m128 b2 = _mm_add_ps(_mm256_castps256_ps128(a2), _mm256_extractf128_ps(a2, 1));
  __m128 b3 = _mm_add_ps(_mm256_castps256_ps128(a3), _mm256_extractf128_ps(a3, 1));
  __m128 t0 = _mm_unpacklo_ps(b0, b1), t1 = _mm_unpackhi_ps(b0, b1);
  __m128 t2 = _mm_unpacklo_ps(b2, b3), t3 = _mm_unpackhi_ps(b2, b3);
  // t0 = b0[0] b1[0] b0[1] b1[1], t1 = b0[2] b1[2] b0[3] b1[3]: t0 + t1 has lanes 0+2 and 1+3 of both.
  __m128 u0 = _mm_add_ps(t0, t1), u1 = _mm_add_ps(t2, t3);
  _mm_storeu_ps(out, _mm_add_ps(_mm_movelh_ps(u0, u1), _mm_movehl_ps(u1, u0)));
}
#else
L4_INLINE float sum(const F16& x) {
  float a[16];
  std::memcpy(a, x.v, sizeof a);
  for (int half = 8; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) a[i] += a[i + half];
  return a[0];
}
L4_INLINE float max_lane(const F16& x) {
  float best = x.v[0];
  for (int i = 1; i < 16; ++i) best = x.v[i] > best ? x.v[i] : best;
  return best;
}
L4_INLINE void sum4(const F16& x0, const F16& x1, const F16& x2, const F16& x3, float* out) {
  out[0] = sum(x0), out[1] = sum(x1), out[2] = sum(x2), out[3] = sum(x3);
}
#endif

// bfloat16 in the upper half of each lane. Rounding is to nearest even; the NaNs that arithmetic makes stay NaN.
L4_INLINE F16 load_bf16(const uint16_t* p) { return from_bits(shift_left<16>(widen(p))); }
L4_INLINE F16 round_bf16(F16 a) {
  I16 u = bits(a);
  I16 odd = shift_right<16>(u) & splat_int(1);
  return from_bits((u + splat_int(0x7FFF) + odd) & splat_int(0xFFFF0000u));
}

// E4M3 (quant/fp8.h), in the lowest 8 bits of each lane. The bits of exponent and fraction, with float's bias for E4M3's, are a normal float: the value,
// but for subnormals 2^-7 (1 + f / 8) instead of 2^-9 f. Subnormal floats would be slow. The code above 448 is NaN.
L4_INLINE F16 fp8_values(I16 u) {
  F16 v = from_bits(shift_left<20>(u & splat_int(0x7F)) + splat_int(120u << 23));
  F16 small = (v - splat(0x1p-7f)) + (v - splat(0x1p-7f));
  v = select_less(v, splat(0x1p-6f), small, v);
  v = select_less(splat(448.0f), v, splat(__builtin_nanf("")), v);
  return from_bits(bits(v) | shift_left<24>(u & splat_int(0x80)));
}

// e^x, at most 1 ulp off for results that are normal numbers; 0 below, infinity above. x = n ln 2 + r with ln 2 in two
// parts (Cody and Waite), |r| <= ln 2 / 2, then e^r by its Taylor polynomial of degree 7 (remainder below 6e-9).
L4_INLINE F16 exp(F16 x) {
  const F16 lowest = splat(-87.33654f), highest = splat(88.72283f);
  F16 y = min(highest, max(lowest, x));  // in this order NaN stays NaN
  F16 n = round_even(y * splat(1.44269504f));
  F16 r = fma(n, splat(-0.693359375f), y);
  r = fma(n, splat(2.12194440e-4f), r);
  F16 p = splat(1.0f / 5040);
  p = fma(p, r, splat(1.0f / 720));
  p = fma(p, r, splat(1.0f / 120));
  p = fma(p, r, splat(1.0f / 24));
  p = fma(p, r, splat(1.0f / 6));
  p = fma(p, r, splat(0.5f));
  p = fma(p, r, splat(1.0f));
  p = fma(p, r, splat(1.0f));
  // 2^n in two factors: n reaches 128, which one float exponent cannot hold.
  F16 half = round_even(n * splat(0.5f) - splat(0.25f));
  F16 scale_a = from_bits(shift_left<23>(to_int(half) + splat_int(127)));
  F16 scale_b = from_bits(shift_left<23>(to_int(n - half) + splat_int(127)));
  F16 result = p * scale_a * scale_b;
  result = select_less(x, lowest, splat(0.0f), result);
  return select_less(highest, x, splat(__builtin_inff()), result);
}

}  // namespace
