// Products of INT4 weights and bfloat16 input with more rows than a few: the codes go to the matrix units from registers.
#pragma once

#include "kernels/cuda/ops.h"
#include "kernels/cuda/weight_layout.h"

namespace l4::cuda {

constexpr int64_t kInt4Columns = kTransposed;  // k is a multiple of it
// Rows up to which it is expected to be faster than dequantising first: a pass over Scout's layer is 1.7 ms, and its tiles of
// 64 tokens lose 1 us a row against those of 256.
constexpr int64_t kInt4FfnRows = 2048, kInt4LinearRows = 512;

inline bool has_int4_groups(const LinearSpec& spec) {
  return spec.format == WeightFormat::int4 && spec.input == InputFormat::as_is &&
         (spec.group == 32 || spec.group == 64 || spec.group == 128);
}

// bfloat16 x and y, n even, no bias.
void int4_linear(const OpContext&, const View& x, const PackedWeight& w, const View& y);
// Weights with groups of one size, top_k 1 (or no experts). Both activations in the order of the expert groups.
void int4_ffn_up(const OpContext&, const FfnUpArgs&);
void int4_ffn_down(const OpContext&, const FfnDownArgs&, const View& y);

}  // namespace l4::cuda
