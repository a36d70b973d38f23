// Activations are float32 or bfloat16: reading one as float, rounding one, and choosing the loop for a tensor's type.
#pragma once

#include <cstdint>

#include "base/thread_pool.h"
#include "tensor/arena.h"

namespace l4::cpu {

inline float get(float value) {
  return value;
}
inline float get(BFloat16 value) {
  return to_float(value);
}
// to_bf16 without a branch, so that loops over it become vector code.
inline BFloat16 branchless_bf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16, nan = (bits >> 16) | 0x0040;
  return {uint16_t((bits & 0x7FFFFFFF) > 0x7F800000 ? nan : nearest)};
}
template <class A>
A rounded(float value) {  // to A: the point where the reference rounds
  if constexpr (std::is_same_v<A, float>)
    return value;
  else
    return branchless_bf16(value);
}
template <class A>
float round_to(float value) {
  return get(rounded<A>(value));
}

// Calls body(A{}) with the activation type of `dtype`.
template <class Body>
void with_activation(DType dtype, Body&& body) {
  if (dtype == DType::f32)
    body(float{});
  else if (dtype == DType::bf16)
    body(BFloat16{});
  else
    L4_CHECK(false, "activations are F32 or BF16, not ", dtype_name(dtype));
}

template <class A>
A* data(const View& v) {
  return v.as<A>(std::is_same_v<A, float> ? DType::f32 : DType::bf16);
}

// What an operation works with. On a measuring arena operations take their scratch and return.
struct OpContext {
  ThreadPool& pool;
  Arena& work;
  bool measuring() const { return work.measuring(); }
};

// Rows a thread should get at least, for loops that cost about one nanosecond an element.
inline int64_t row_grain(int64_t row_elements) {
  constexpr int64_t kElements = 8192;
  return row_elements >= kElements ? 1 : kElements / (row_elements > 0 ? row_elements : 1);
}

}  // namespace l4::cpu
