// Made-up weights (ops/random_weights.h), straight into the layout that pack() gives.
#pragma once

#include <cuda_runtime.h>

#include "ops/op_args.h"

namespace l4::cuda {

// The slice's place in a packed weight, or in its bias; of INT4 the scales too. FP8 is made of rows, see measuring.cpp.
void fill_random_piece(cudaStream_t, const RandomSlice& slice, const PackedWeight& to);
void fill_random_bias_piece(cudaStream_t, const RandomSlice& slice, const PackedWeight& to);
// The slice's elements as BF16, row by row, whatever `at` says of a place.
void fill_random_rows(cudaStream_t, const RandomSlice& slice, void* to);
// Elements first, first + 1, ... of the tensor to a dense view of f32 or bf16.
void fill_random_view(cudaStream_t, const View& to, const RandomTensor& tensor, int64_t first);

}  // namespace l4::cuda
