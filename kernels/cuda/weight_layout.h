// How a linear's rows, codes and scales lie in a packed weight of the CUDA backend. Used where weights are packed and where
// they, or gate and up side by side, are read; nothing else knows.
//
//   F32, BF16, FP8   [E][n][k]. FP8 has a float32 scale a row, [E][n].
//   INT4             [E][n][k / 8] words of eight codes, scales BF16 [E][n / 16][k / group][16], n rounded up to 16 (zeros), so
//                    that the scales of some groups of a tile of 16 rows are one run.
//
// Within the 32 words of 256 columns words are transposed: that of columns 32 b + 8 t .. + 7 (b < 8, t < 4) is the 8 t + b-th.
// So lane t of a matrix instruction (small_m.cu) has its codes of eight blocks of 32 columns in 32 neighbouring bytes. Where k
// is no multiple of 256 words stay in order; only generic kernels take such. Within a word, four bits each from the lowest:
// columns 0, 2, 4, 6, 1, 3, 5, 7, so that (word >> 4 i) & 0x000F000F has columns 2 i and 2 i + 1 in its halves. A code is kept
// as code + 8.
#pragma once

#include <cstdint>

#include "base/host_device.h"
#include "ops/op_args.h"

namespace l4::cuda {

constexpr int64_t kGateBlock = 8;  // rows of gate, then as many of up: a matrix instruction's thread owns rows g, g + 8

inline bool interleaves_gate_up(const LinearSpec& spec) {
  return spec.gated && spec.n / 2 % kGateBlock == 0;
}
// Where logical row n (gate: n < F, up: F + j) lies.
inline int64_t packed_row(const LinearSpec& spec, int64_t n) {
  if (!interleaves_gate_up(spec)) return n;
  const int64_t half = spec.n / 2, j = n % half;
  return j / kGateBlock * 2 * kGateBlock + (n < half ? 0 : kGateBlock) + j % kGateBlock;
}

// ---- int4

constexpr int64_t kScaleRows = 16;  // of a tile of scales

L4_HOST_DEVICE inline int64_t scale_tiles(int64_t n) {
  return (n + kScaleRows - 1) / kScaleRows;
}
// In the scales of one expert.
L4_HOST_DEVICE inline int64_t group_scale_at(int64_t row, int64_t group, int64_t n_groups) {
  return (row / kScaleRows * n_groups + group) * kScaleRows + row % kScaleRows;
}

constexpr int64_t kTransposed = 256;  // columns whose words are
// Where word w of a row of k columns lies in it.
L4_HOST_DEVICE inline int64_t word_at(int64_t w, int64_t k) {
  return k % kTransposed == 0 ? w / 32 * 32 + w % 4 * 8 + w % 32 / 4 : w;
}
// Of column 0..7 in its word.
L4_HOST_DEVICE inline int shift_of(int64_t column) {
  return int(4 * (column / 2 + column % 2 * 4));
}
// A word whose columns are in order, as checkpoints have them.
L4_HOST_DEVICE inline uint32_t packed_word(uint32_t in_order) {
  uint32_t out = 0;
  for (int column = 0; column < 8; ++column) out |= (in_order >> 4 * column & 15u) << shift_of(column);
  return out;
}

}  // namespace l4::cuda
