// The path that takes everything: any shape and alignment, float32 and bfloat16, rows gathered by expert.
#pragma once

#include "kernels/cuda/ops.h"

namespace l4::cuda {

// y[y_row(i)] = x[x_row(i)] W[e]^T (+ b), rounded to `round_to`, for every i of every group e, or, without groups, for
// every row and expert 0. With x_scale the input is round(x * x_scale[i]), rounded to x's type; where the input is quantised
// (LinearSpec::input) its codes are those of x, and x_scale multiplies the sums.
struct GenericGemm {
  const PackedWeight* w = nullptr;
  View x, y;  // [*, k], [*, n]
  DType round_to = DType::f32;
  const ExpertGroups* groups = nullptr;
  const int32_t* x_rows = nullptr;  // null: row i
  const int32_t* y_rows = nullptr;
  const float* x_scale = nullptr;
};
void generic_gemm(const OpContext&, const GenericGemm&);

// act_routed in the order of the groups.
void generic_ffn_up(const OpContext&, const FfnUpArgs&);
void generic_ffn_down(const OpContext&, const FfnDownArgs&, const View& y);

}  // namespace l4::cuda
