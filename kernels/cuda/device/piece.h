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

// Rounds to the type it stores.
template <class A, int n>
__device__ inline void store(A* to, const float (&v)[n]) {
  if constexpr (n == 8 && sizeof(A) == 2) {
    *reinterpret_cast<uint4*>(to) =
        make_uint4(narrow(v[0], v[1]), narrow(v[2], v[3]), narrow(v[4], v[5]), narrow(v[6], v[7]));
  } else {
#pragma unroll
    for (int i = 0; i < n; ++i) to[i] = rounded<A>(v[i]);
  }
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
