// The ring of int4.cu: a stage has 256 columns of k, of which a row of codes is 128 bytes. One thread asks for each with
// three instructions: codes [128 rows][128 bytes] with the 128-byte swizzle, tokens [4][width][64 columns] with the same, and
// scales [8 tiles of 16 rows][groups][16].
//
// The narrower a tile, the more stages there are: 8 for 16 tokens, 4 for 64, so that as much as possible of the weights is
// under way. Where tiles become of another width (they are ordered by it: a few times a launch) the ring runs empty first.
#pragma once

#include "kernels/cuda/matmul/grouped_tiles.h"
#include "kernels/cuda/matmul/int4.h"
#include "kernels/cuda/ptx/tma.h"

namespace l4::cuda::grouped {

struct Int4Shape {
  static constexpr int kMaxTokens = kNarrowTokens, kCluster = 1, kBand = 8;
  static constexpr int kTileK = int(kInt4Columns), kBoxK = 64;
  static constexpr uint32_t kCodeBytes = kTileRows * kTileK / 2;
  static constexpr uint32_t kTokenBytes = kTileK * 2;  // of one
  static constexpr int kMostStages = 8;
  static constexpr uint32_t kRingBytes = 205 << 10;  // 4 stages of 64 tokens, 5 of 48, 6 of 32 (groups of 128)
};
constexpr uint32_t int4_scale_bytes(int groups) {  // groups: of a stage
  return uint32_t(kTileRows * groups * 2);
}

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

template <int kGroups>  // of a stage
struct Int4Ring {
  using S = Int4Shape;
  static constexpr uint32_t kScaleBytes = int4_scale_bytes(kGroups);
  unsigned char* data;
  Mbarrier *full, *empty;  // [kMostStages]
  int width = 0, n_stages = 0, stage = 0;
  uint32_t stage_bytes = 0, parities = 0;  // a bit for each stage

  __device__ unsigned char* codes() const { return data + uint32_t(stage) * stage_bytes; }
  __device__ unsigned char* tokens() const { return codes() + S::kCodeBytes; }
  __device__ unsigned char* scales() const { return codes() + stage_bytes - kScalePlace; }
  __device__ uint32_t parity_of(int i) const { return parities >> i & 1; }
  __device__ uint32_t parity() const { return parity_of(stage); }
  __device__ void next() {
    parities ^= 1u << stage;
    if (++stage == n_stages) stage = 0;
  }
  __device__ void set_width(int w) {
    width = w, stage = 0;
    stage_bytes = S::kCodeBytes + uint32_t(w) * S::kTokenBytes + kScalePlace;
    n_stages = min(int(S::kRingBytes / stage_bytes), S::kMostStages);
  }

 private:
  static constexpr uint32_t kScalePlace = kScaleBytes < 1024 ? 1024 : kScaleBytes;  // what follows begins at a multiple
};

template <int kGroups>
__device__ void produce_int4(const BothInt4Maps& both, const Work& w, const Tile& tile, Int4Ring<kGroups>& ring) {
  using S = Int4Shape;
  if (tile.width != ring.width) {
    for (int i = 0; i < ring.n_stages; ++i) mbarrier_wait(&ring.empty[i], ring.parity_of(i) ^ 1);
    ring.set_width(tile.width);
  }
  const Passes passes = passes_of(w, tile.group);
  const int which = which_width(tile);
  for (int step = tile.first_step; step < tile.first_step + tile.n_steps; ++step) {
    const bool shared = step < passes.shared;
    const int k = shared ? step : step - passes.shared;
    const int expert = shared ? 0 : tile.group, n = shared ? w.n_shared : w.n_experts_rows;
    const Int4Maps& maps = shared ? both.shared : both.experts;
    mbarrier_wait(&ring.empty[ring.stage], ring.parity() ^ 1);
    Mbarrier* full = &ring.full[ring.stage];
    mbarrier_arrive_expect_tx(full, S::kCodeBytes + ring.kScaleBytes + uint32_t(int4_width(which)) * S::kTokenBytes);
    tensor_load(ring.codes(), &maps.codes, full, k * S::kTileK / 2, expert * n + tile.row);
    tensor_load(ring.scales(), &maps.scales, full, k * kGroups * int(kScaleRows),
                expert * int(scale_tiles(n)) + tile.row / int(kScaleRows));
    tensor_load(ring.tokens(), &maps.tokens[which], full, 0, tile.entry, k * (S::kTileK / S::kBoxK));
    ring.next();
  }
}

}  // namespace l4::cuda::grouped
