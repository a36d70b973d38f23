// Rows of floats to the codes and scales that compressed-tensors checkpoints hold, with what is lost measured on the
// way.
//
// FP8 per channel: scale = bf16(max|w| / 448), or 1 for a row of zeros; code = E4M3 nearest to w / scale (beyond 448,
// which the scale's rounding may cause: 448). INT4 in groups: code = nearest of -8..7 to w / scale, ties to even. The
// scale is searched: of max|w| / d for d = 7, 7 1/3
// ... 12, rounded to BF16, that with the least sum of squared errors, the larger of two equal ones; then the scale that
// is best for its codes (sum wq / sum qq) is taken where it is better still. 1 for a group of zeros. Scales are never
// below 2^-126: a subnormal one would be zero on a GPU that flushes.
//
// The same bits on every CPU: sums are sixteen lanes wide, whatever the registers are.
#pragma once

#include <cstdint>
#include <span>

#include "tensor/dtype.h"

namespace l4 {

// What a quantisation lost; add() joins parts of one tensor, in one order for the same bits.
struct QuantError {
  int64_t n = 0;         // weights
  double squared = 0;    // sum of (w - code * scale)^2
  double reference = 0;  // sum of w^2
  float max_error = 0;   // largest |w - code * scale|
  float max_weight = 0;  // largest |w|

  void add(const QuantError& other);
  double mean_squared() const;
  double relative() const;  // root of squared / reference; 0 where all weights are 0
};

// The weights of a row must be finite: the first column where they are not, or -1.
int64_t find_not_finite(std::span<const float> row);

BFloat16 quantize_fp8_row(std::span<const float> row, std::span<uint8_t> codes, QuantError& error);

// Eight codes a word, the first in the lowest bits, each + 8. group: a multiple of 16 that divides the row.
constexpr int64_t kMaxInt4Group = 128;
void quantize_int4_row(std::span<const float> row, int64_t group, std::span<uint32_t> words, std::span<BFloat16> scales,
                       QuantError& error);

// The scale that quantize_int4_row() would search for a group of weights, were each squared error as important as said.
BFloat16 search_int4_scale(std::span<const float> weights, std::span<const float> importance);
// Codes + 8, a multiple of eight of them, to words.
void pack_int4(std::span<const uint32_t> codes, std::span<uint32_t> words);

// Stored weights as floats. dtype: bf16, f16 or f32; `from` need not be aligned to it.
void weights_to_float(const std::byte* from, DType dtype, std::span<float> to);

}  // namespace l4
