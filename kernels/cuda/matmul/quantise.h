// Activations as FP8 codes and the scales that they were divided by: what products of FP8 weights read where the input
// is quantised too (InputFormat::fp8_token, fp8_static).
#pragma once

#include "kernels/cuda/ops.h"

namespace l4::cuda {

// What a matrix's input is divided by: all rows by one number, or (0) each by its own, max|x| / 448 (quant/fp8.h:
// fp8_scale).
inline float one_code_scale(const LinearSpec& spec) {
  return spec.input == InputFormat::fp8_static ? spec.input_scale : 0;
}

constexpr int64_t kCodesTogether = 16;  // columns are a multiple of it

// Row-major [M, k] codes and M scales, in device memory; null when measuring.
struct QuantisedRows {
  uint8_t* codes = nullptr;
  float* scales = nullptr;
};
QuantisedRows take_quantised_rows(Scratch& scratch, int64_t n_rows, int64_t k);
// x [M, k] bfloat16 as input of w, k a multiple of kCodesTogether. rows: null, or [M] row numbers of x.
QuantisedRows quantise(Scratch& scratch, const OpContext&, const View& x, const LinearSpec& w,
                       const int32_t* rows = nullptr);

}  // namespace l4::cuda
