// Dense products of many rows, through cuBLASLt.
#pragma once

#include "kernels/cuda/matmul/quantise.h"

namespace l4::cuda {

// bfloat16 x and weights, an even k, y bfloat16 or f32. The algorithm of a shape is asked for
// once.
void cublas_linear(const OpContext&, const View& x, const PackedWeight& w, const View& y, DType round_to);
// The same of FP8 rows and weights, k and n multiples of 16, no bias. Whether the library has a kernel for products scaled by
// row and column (12.9 and later, on Hopper); false when measuring.
bool cublas_fp8_linear(const OpContext&, const QuantisedRows& x, int64_t n_rows, const PackedWeight& w, const View& y,
                       DType round_to);

}  // namespace l4::cuda
