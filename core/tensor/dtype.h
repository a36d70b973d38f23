// Element types of tensors, and bfloat16 arithmetic on the host.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace l4 {

enum class DType : uint8_t { f32, bf16, f16, f64, i8, u8, i16, i32, i64, boolean, f8_e4m3, f8_e5m2, u16, u32, u64 };

size_t dtype_bytes(DType dtype);
const char* dtype_name(DType dtype);                                 // "BF16": safetensors' spelling
std::optional<DType> dtype_from_name(std::string_view safetensors);  // nothing for an unknown one

// bfloat16: the upper half of a float. Rounded to nearest, ties to even; NaN stays NaN.
struct BFloat16 {
  uint16_t bits;
};
inline float to_float(BFloat16 value) {
  return std::bit_cast<float>(uint32_t(value.bits) << 16);
}
inline BFloat16 to_bf16(float value) {
  uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7FFFFFFF) > 0x7F800000) return {uint16_t((bits >> 16) | 0x0040)};
  return {uint16_t((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16)};
}
inline float round_bf16(float value) {
  return to_float(to_bf16(value));
}

}  // namespace l4
