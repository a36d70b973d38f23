// Placeholder of the table of weight formats; see quant/format.cpp.
#pragma once
#include <cstdint>
namespace l4 {
enum class WeightFormat : uint8_t { f32, bf16 };
}
