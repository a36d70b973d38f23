// The table of weight formats: how many bytes a linear's weight [N, K] takes. What prints plans, loads, converts and
// multiplies reads this table and nothing else.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "tensor/dtype.h"

namespace l4 {

// fp8: E4M3 codes and an F32 scale for each row of N. int4: codes -8..7, two in a byte, and a BF16 scale for each group of
// columns of a row. A weight is its code times its scale.
enum class WeightFormat : uint8_t { f32, bf16, fp8, int4 };

const char* weight_format_name(WeightFormat format);  // "F32", "BF16", "FP8", "INT4"
// Scales included. group: columns that share a scale; int4 only, and it divides k.
uint64_t weight_bytes(WeightFormat format, int64_t n, int64_t k, int64_t group = 0);
inline bool is_quantized(WeightFormat format) { return format == WeightFormat::fp8 || format == WeightFormat::int4; }

// What a product does with its input rows first. fp8_token: each row x becomes E4M3 codes of x / s with s = max|x| / 448, and
// the sums are multiplied by s (compressed-tensors' dynamic per-token activations). fp8_static: the same with one s for all.
enum class InputFormat : uint8_t { as_is, fp8_token, fp8_static };

// The format in which a tensor stored with `dtype` is held once loaded. F16 becomes BF16, rounded to nearest even,
// which is what transformers does with dtype=bfloat16; nothing for a type that is no unquantised weight.
std::optional<WeightFormat> held_format(DType stored);

// IEEE half precision, bit patterns in, exact values out.
float f16_to_float(uint16_t bits);
void convert_f16_to_bf16(std::span<const uint16_t> from, std::span<BFloat16> to);

}  // namespace l4
