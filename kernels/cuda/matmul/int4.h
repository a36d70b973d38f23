// INT4 weights and bfloat16 input with more rows than small_m.cu takes: codes go to the matrix units from registers. The
// feed-forward stages: grouped.h.
#pragma once

#include "kernels/cuda/ops.h"
#include "kernels/cuda/weight_layout.h"

namespace l4::cuda {

constexpr int64_t kInt4Columns = kTransposed;  // k is a multiple of it
// Linears of more rows are dequantised first: the pass is little beside such a product, and cuBLASLt fills the device better
// with one matrix.
constexpr int64_t kInt4LinearRows = 512;

inline bool has_int4_kernel(const LinearSpec& spec) {
  return spec.format == WeightFormat::int4 && spec.input == InputFormat::as_is && spec.k % kInt4Columns == 0 &&
         (spec.group == 32 || spec.group == 64 || spec.group == 128);
}

// linear() with such weights, n even, no bias.
void int4_linear(const OpContext&, const View& x, const PackedWeight& w, const View& y, DType round_to);

}  // namespace l4::cuda
