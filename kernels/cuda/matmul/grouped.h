// Feed-forward stages of more rows than a decode step's: one grouped product on the matrix units a stage.
#pragma once

#include "kernels/cuda/ops.h"

namespace l4::cuda {

constexpr int64_t kGroupedExperts = 255;  // experts a rank may have here

// bfloat16, D and F multiples of 8, top_k 1 (or no experts). Both activations in the order of the expert groups.
void grouped_ffn_up(const OpContext&, const FfnUpArgs&);
void grouped_ffn_down(const OpContext&, const FfnDownArgs&, const View& y);

// How the tokens of a group are cut into tiles: as few as kMaxTokens allows, of even width, a width that the matrix
// instruction has. Pure; the device uses it with counts that only it knows.
struct TokenTiles {
  int n = 0, width = 0;
};
template <int kMaxTokens>
__host__ __device__ constexpr TokenTiles token_tiles(int count) {
  if (count <= 0) return {};
  constexpr int kBox = kMaxTokens / 4;  // 16 of 64, 64 of 256
  const int fewest = (count + kMaxTokens - 1) / kMaxTokens;
  int width = ((count + fewest - 1) / fewest + kBox - 1) / kBox * kBox;
  if (kMaxTokens == 64 && width == 48) width = 64;
  return {(count + width - 1) / width, width};
}

// The order in which tiles are made: columns (token tiles of all groups) in blocks of kBlock, within a block row tile
// after row tile: the blocks that run at once share few rows of weights and few tokens, which stay in L2.
struct TilePlace {
  int row, column;
};
__host__ __device__ constexpr TilePlace tile_place(int tile, int n_rows, int n_columns) {
  constexpr int kBlock = 8;
  const int block = tile / (kBlock * n_rows), first = block * kBlock;
  const int width = n_columns - first < kBlock ? n_columns - first : kBlock;
  const int rest = tile - first * n_rows;
  return {rest / width, first + rest % width};
}

}  // namespace l4::cuda
