// The table of weight formats: how many bytes a linear's weight [N, K] takes. What prints plans, loads, converts and
// multiplies reads this table and nothing else.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "tensor/dtype.h"

namespace l4 {

enum class WeightFormat : uint8_t { f32, bf16 };

const char* weight_format_name(WeightFormat format);  // "F32", "BF16"
uint64_t weight_bytes(WeightFormat format, int64_t n, int64_t k);

// The format in which a tensor stored with `dtype` is held once loaded. F16 becomes BF16, rounded to nearest even,
// which is what transformers does with dtype=bfloat16; nothing for a type that is no unquantised weight.
std::optional<WeightFormat> held_format(DType stored);

// IEEE half precision, bit patterns in, exact values out.
float f16_to_float(uint16_t bits);
void convert_f16_to_bf16(std::span<const uint16_t> from, std::span<BFloat16> to);

}  // namespace l4
