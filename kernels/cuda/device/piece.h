// A piece: a few neighbouring elements of a row, read and written at once. 8 elements (16 bytes of bfloat16) on the
// fast paths, 1 wherever a width is no multiple of 8.
#pragma once

#include <cstring>
#include <initializer_list>
#include <type_traits>

#include "kernels/cuda/device/math.h"

namespace l4::cuda {

template <int n>
__device__ inline void load(const float* from, float (&v)[n]) {
  if constexpr (n % 4 == 0) {
#pragma unroll
    for (int i = 0; i < n; i += 4) {
      const float4 part = *reinterpret_cast<const float4*>(from + i);
      v[i] = part.x, v[i + 1] = part.y, v[i + 2] = part.z, v[i + 3] = part.w;
    }
  } else {
#pragma unroll
    for (int i = 0; i < n; ++i) v[i] = from[i];
  }
}
// Two bfloat16 lie in a word, the first in its lower half; a bfloat16 is the upper half of a float.
__device__ inline void widen(uint32_t word, float& low, float& high) {
  low = __uint_as_float(word << 16);
  high = __uint_as_float(word & 0xffff0000u);
}
__device__ inline uint32_t narrow(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  uint32_t word;
  memcpy(&word, &pair, sizeof word);
  return word;
}
__device__ inline void widen(const uint4& from, float (&v)[8]) {
  widen(from.x, v[0], v[1]), widen(from.y, v[2], v[3]), widen(from.z, v[4], v[5]), widen(from.w, v[6], v[7]);
}
template <int n>
__device__ inline void load(const bf16* from, float (&v)[n]) {
  if constexpr (n == 8) {
    widen(*reinterpret_cast<const uint4*>(from), v);
  } else {
#pragma unroll
    for (int i = 0; i < n; ++i) v[i] = get(from[i]);
  }
}

__device__ inline uint4 narrow(const float (&v)[8]) {
  return make_uint4(narrow(v[0], v[1]), narrow(v[2], v[3]), narrow(v[4], v[5]), narrow(v[6], v[7]));
}

// Rounds to the type it stores.
template <class A, int n>
__device__ inline void store(A* to, const float (&v)[n]) {
  if constexpr (n == 8 && sizeof(A) == 2) {
    *reinterpret_cast<uint4*>(to) = narrow(v);
  } else {
#pragma unroll
    for (int i = 0; i < n; ++i) to[i] = rounded<A>(v[i]);
  }
}

// A piece as it lies in memory (8 bfloat16 are 4 registers), where n is 8 for bfloat16 or 1: with_pieces().
template <class A, int n>
struct Piece {
  using Stored = std::conditional_t<n == 8, uint4, A>;
  Stored stored;

  __device__ static Piece at(const A* from) { return {*reinterpret_cast<const Stored*>(from)}; }
  __device__ static Piece of(const float (&v)[n]) {
    if constexpr (n == 8)
      return {narrow(v)};
    else
      return {rounded<A>(v[0])};
  }
  __device__ void get_to(float (&v)[n]) const {
    if constexpr (n == 8)
      widen(stored, v);
    else
      v[0] = get(stored);
  }
  __device__ void put(A* to) const { *reinterpret_cast<Stored*>(to) = stored; }
};

// Element by element, rounded to A. Two bfloat16 at once give the bits of float32 arithmetic that is rounded then: the
// product is exact there (above 2^-126), and for the sum 24 bits are enough (2 * 8 + 2 are) for a second rounding to
// change nothing.
namespace pairs {
template <class Operation>
__device__ inline uint32_t each(uint32_t a, uint32_t b, Operation operation) {
  __nv_bfloat162 pair_a, pair_b;
  memcpy(&pair_a, &a, sizeof a), memcpy(&pair_b, &b, sizeof b);
  const __nv_bfloat162 pair = operation(pair_a, pair_b);
  memcpy(&a, &pair, sizeof a);
  return a;
}
template <class Operation>
__device__ inline uint4 each(const uint4& a, const uint4& b, Operation operation) {
  return {each(a.x, b.x, operation), each(a.y, b.y, operation), each(a.z, b.z, operation), each(a.w, b.w, operation)};
}
}  // namespace pairs
template <class A, int n>
__device__ inline Piece<A, n> operator+(const Piece<A, n>& a, const Piece<A, n>& b) {
  if constexpr (n == 8)
    return {pairs::each(a.stored, b.stored, [](__nv_bfloat162 v, __nv_bfloat162 w) { return __hadd2_rn(v, w); })};
  else
    return {rounded<A>(get(a.stored) + get(b.stored))};
}
template <class A, int n>
__device__ inline Piece<A, n> operator*(const Piece<A, n>& a, const Piece<A, n>& b) {
  if constexpr (n == 8)
    return {pairs::each(a.stored, b.stored, [](__nv_bfloat162 v, __nv_bfloat162 w) { return __hmul2_rn(v, w); })};
  else
    return {rounded<A>(get(a.stored) * get(b.stored))};
}

// Calls body(A{}, n) on the host, n an integral_constant: 8 for bfloat16 where `width`, the length of a run that a
// piece must not leave, and the addresses allow it, else 1.
template <class Body>
void with_pieces(DType dtype, int64_t width, std::initializer_list<View> views, Body&& body) {
  bool wide = dtype == DType::bf16 && width % 8 == 0;
  for (const View& v : views) wide = wide && reinterpret_cast<uintptr_t>(v.data) % 16 == 0;
  if (wide)
    body(bf16{}, std::integral_constant<int, 8>{});
  else
    with_activation(dtype, [&](auto a) { body(a, std::integral_constant<int, 1>{}); });
}

}  // namespace l4::cuda
