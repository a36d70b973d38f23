// Feed-forward stages of more rows than a decode step's: one grouped product on the matrix units a stage.
#pragma once

#include "kernels/cuda/matmul/dequantize.h"

namespace l4::cuda {

constexpr int64_t kGroupedExperts = 255;  // experts a rank may have here

// Activations in bfloat16, top_k 1 (or no experts), D and F multiples of 8, weights without bias: bfloat16, FP8 with their input
// quantised and D and F multiples of 16, or such as has_int4_kernel() says. Both activations in the order of the expert
// groups, whatever the formats.
void grouped_ffn_up(const OpContext&, const FfnUpArgs&);
void grouped_ffn_down(const OpContext&, const FfnDownArgs&, const View& y);
// The same with weights of which some or all are such as is_dequantizable() says. Those take up to `scratch_bytes`, or an
// expert's and the shared one's.
void dequantized_ffn_up(const OpContext&, const FfnUpArgs&, int64_t scratch_bytes = kDequantizedBytes);
void dequantized_ffn_down(const OpContext&, const FfnDownArgs&, const View& y, int64_t scratch_bytes = kDequantizedBytes);

// x [M, k] bfloat16, to be quantised, times FP8 weights without bias, k a multiple of 16 and n of 8; y bfloat16 or float32. By
// cuBLASLt where it has a kernel.
void fp8_linear(const OpContext&, const View& x, const PackedWeight& w, const View& y, DType round_to);

// The same of bfloat16, or of INT4 as has_int4_kernel() says, with bfloat16 rows as they are: k a multiple of 8, n
// even.
void grouped_linear(const OpContext&, const View& x, const PackedWeight& w, const View& y, DType round_to);

// How the tokens of a group are cut into tiles (columns of its product): as few as kMaxTokens allows, of even width, a
// multiple of 16. Pure; the device uses it with counts that only it knows.
struct TokenTiles {
  int n = 0, width = 0;
};
constexpr int kTokenStep = 16;
template <int kMaxTokens>
__host__ __device__ constexpr TokenTiles token_tiles(int count) {
  if (count <= 0) return {};
  const int fewest = (count + kMaxTokens - 1) / kMaxTokens;
  const int width = ((count + fewest - 1) / fewest + kTokenStep - 1) / kTokenStep * kTokenStep;
  return {(count + width - 1) / width, width};
}

// The order in which the tiles of a group are made: columns in bands of at most `band`, within a band row tile after
// row tile. The blocks that run at once share the band's tokens, which stay in L2 for as long as the band lasts, and
// each row tile of weights is asked for by neighbours, once a band.
struct TilePlace {
  int row, column;
};
__host__ __device__ constexpr TilePlace tile_place(int tile, int n_rows, int n_columns, int band) {
  const int n_bands = (n_columns + band - 1) / band, band_columns = (n_columns + n_bands - 1) / n_bands;
  const int first = tile / (band_columns * n_rows) * band_columns;
  const int width = n_columns - first < band_columns ? n_columns - first : band_columns;
  const int rest = tile - first * n_rows;
  return {rest / width, first + rest % width};
}

}  // namespace l4::cuda
