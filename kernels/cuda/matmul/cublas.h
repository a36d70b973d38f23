// Dense products of many rows, through cuBLASLt.
#pragma once

#include "kernels/cuda/ops.h"

namespace l4::cuda {

// bfloat16 x and weights, an even k, y bfloat16 or f32. The algorithm of a shape is asked for
// once.
void cublas_linear(const OpContext&, const View& x, const PackedWeight& w, const View& y, DType round_to);

}  // namespace l4::cuda
