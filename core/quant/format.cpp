#include "quant/format.h"

#include <cmath>

#include "base/error.h"

namespace l4 {

namespace {
struct Row {
  const char* name;
  uint64_t bits;  // of one weight
};
constexpr Row kTable[] = {{"F32", 32}, {"BF16", 16}, {"FP8", 8}, {"INT4", 4}};
}  // namespace

const char* weight_format_name(WeightFormat format) {
  return kTable[size_t(format)].name;
}

uint64_t weight_bytes(WeightFormat format, int64_t n, int64_t k, int64_t group) {
  L4_CHECK(n >= 0 && k >= 0);
  uint64_t scales = 0;
  if (format == WeightFormat::fp8) scales = uint64_t(n) * sizeof(float);
  if (format == WeightFormat::int4) {
    L4_CHECK(group > 0 && k % group == 0, "groups of ", group, " of ", k, " columns");
    scales = uint64_t(n) * uint64_t(k / group) * sizeof(BFloat16);
  }
  return uint64_t(n) * uint64_t(k) * kTable[size_t(format)].bits / 8 + scales;
}

std::optional<WeightFormat> held_format(DType stored) {
  switch (stored) {
    case DType::f32:
      return WeightFormat::f32;
    case DType::bf16:
    case DType::f16:
      return WeightFormat::bf16;
    default:
      return std::nullopt;
  }
}

float f16_to_float(uint16_t bits) {
  uint32_t sign = uint32_t(bits & 0x8000) << 16, exponent = bits >> 10 & 0x1F, fraction = bits & 0x3FF;
  if (exponent == 0) return std::copysign(std::ldexp(float(fraction), -24), sign ? -1.0f : 1.0f);  // 0 and subnormals
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7F800000 | fraction << 13);             // Inf, NaN
  return std::bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
}

void convert_f16_to_bf16(std::span<const uint16_t> from, std::span<BFloat16> to) {
  L4_CHECK(from.size() == to.size());
  for (size_t i = 0; i < from.size(); ++i) to[i] = to_bf16(f16_to_float(from[i]));
}

}  // namespace l4
