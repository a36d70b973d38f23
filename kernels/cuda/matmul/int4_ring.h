// The ring of int4.cu: a stage has 256 columns of k, of which a row of codes is 128 bytes. One thread asks for each with
// three instructions: codes [128 rows][128 bytes] with the 128-byte swizzle, tokens [4][width][64 columns] with the same, and
// scales [8 tiles of 16 rows][groups][16].
#pragma once

#include "kernels/cuda/matmul/grouped_tiles.h"
#include "kernels/cuda/matmul/int4.h"
#include "kernels/cuda/ptx/tma.h"

namespace l4::cuda::grouped {

struct Int4Shape {
  static constexpr int kMaxTokens = kNarrowTokens, kCluster = 1, kBand = 8;
  static constexpr int kStages = 4, kTileK = int(kInt4Columns), kBoxK = 64;
  static constexpr uint32_t kCodeBytes = kTileRows * kTileK / 2;
  static constexpr uint32_t kTokenBytes = kTileK * 2;  // of one
  static constexpr uint32_t kMostScaleBytes = kTileRows * (kTileK / 32) * 2;
  static constexpr uint32_t kStageBytes = kCodeBytes + kMaxTokens * kTokenBytes + kMostScaleBytes;
  static constexpr size_t kSharedBytes = size_t(kStages) * kStageBytes;
};

// Of how many tokens there are boxes and instructions: 8, 16, 32, 48 and 64. A tile's is its width, or 8 where it has no more.
constexpr int kInt4Widths = 1 + Int4Shape::kMaxTokens / kTokenStep;
__host__ __device__ constexpr int int4_width(int which) {
  return which == 0 ? 8 : which * kTokenStep;
}
__device__ inline int which_width(const Tile& tile) {
  return tile.count <= 8 ? 0 : tile.width / kTokenStep;
}

struct Int4Maps {
  CUtensorMap codes, scales, tokens[kInt4Widths];
};
struct BothInt4Maps {
  Int4Maps shared, experts;
};

struct Int4Ring {
  unsigned char* data;
  Mbarrier *full, *empty;
  int stage = 0;
  uint32_t parity = 0;
  __device__ unsigned char* codes() const { return data + stage * Int4Shape::kStageBytes; }
  __device__ unsigned char* tokens() const { return codes() + Int4Shape::kCodeBytes; }
  __device__ unsigned char* scales() const { return tokens() + Int4Shape::kMaxTokens * Int4Shape::kTokenBytes; }
  __device__ void next() {
    if (++stage == Int4Shape::kStages) stage = 0, parity ^= 1;
  }
};

template <int kGroups>  // of a stage
__device__ void produce_int4(const BothInt4Maps& both, const Work& w, const Tile& tile, Int4Ring& ring) {
  using S = Int4Shape;
  constexpr uint32_t kScaleBytes = kTileRows * kGroups * 2;
  const Passes passes = passes_of(w, tile.group);
  const int which = which_width(tile);
  for (int step = tile.first_step; step < tile.first_step + tile.n_steps; ++step) {
    const bool shared = step < passes.shared;
    const int k = shared ? step : step - passes.shared;
    const int expert = shared ? 0 : tile.group, n = shared ? w.n_shared : w.n_experts_rows;
    const Int4Maps& maps = shared ? both.shared : both.experts;
    mbarrier_wait(&ring.empty[ring.stage], ring.parity ^ 1);
    Mbarrier* full = &ring.full[ring.stage];
    mbarrier_arrive_expect_tx(full, S::kCodeBytes + kScaleBytes + uint32_t(int4_width(which)) * S::kTokenBytes);
    tensor_load(ring.codes(), &maps.codes, full, k * S::kTileK / 2, expert * n + tile.row);
    tensor_load(ring.scales(), &maps.scales, full, k * kGroups * int(kScaleRows),
                expert * int(scale_tiles(n)) + tile.row / int(kScaleRows));
    tensor_load(ring.tokens(), &maps.tokens[which], full, 0, tile.entry, k * (S::kTileK / S::kBoxK));
    ring.next();
  }
}

}  // namespace l4::cuda::grouped
