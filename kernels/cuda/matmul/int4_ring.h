// What int4.cu multiplies, on its way to shared memory: two rings, one of codes and their scales, one of tokens, each with a
// thread that fills it. So codes, which come from memory, are asked for as far ahead as they have room, whatever room the
// tokens take, which come from L2.
//
// A stage of codes has 256 columns of k: [128 rows][128 bytes] with the 128-byte swizzle, and scales [8 tiles of 16 rows]
// [groups][16]. A stage of tokens has kTokenK of those columns: [kTokenK / 64][width][64], with the same swizzle.
//
// Narrow: a stage of tokens is one instruction, of a box as high as the tile is wide. Wide: clusters of two as in
// grouped_ring.h, each block brings half of the tokens for both.
#pragma once

#include "kernels/cuda/matmul/grouped_ring.h"
#include "kernels/cuda/matmul/int4.h"

namespace l4::cuda::grouped {

template <int kMaxTokens_, int kTokenK_, int kCodeStages_, int kTokenStages_, int kCluster_, int kBand_>
struct Int4Shape {
  static constexpr int kMaxTokens = kMaxTokens_, kTokenK = kTokenK_;
  static constexpr int kCodeStages = kCodeStages_, kTokenStages = kTokenStages_;
  static constexpr int kCluster = kCluster_, kBand = kBand_;
  static constexpr int kTileK = int(kInt4Columns), kBoxK = 64;
  static constexpr uint32_t kCodeBytes = kTileRows * kTileK / 2;
  static constexpr uint32_t kCodeStageBytes = kCodeBytes + kTileRows * (kTileK / 32) * 2;  // groups of 32 have most scales
  static constexpr uint32_t kTokenStageBytes = kMaxTokens * kTokenK * 2;
  static constexpr uint32_t kCodeRingBytes = kCodeStages * kCodeStageBytes;
  static constexpr size_t kSharedBytes = size_t(kCodeRingBytes) + kTokenStages * kTokenStageBytes;
};
using NarrowInt4 = Int4Shape<kNarrowTokens, 256, 6, 3, 1, 8>;
using WideInt4 = Int4Shape<256, 64, 3, 5, 2, 4>;

// Tokens that instructions take: 8 (Narrow only), or multiples of 16, by number.
__host__ __device__ constexpr int int4_width(int which) {
  return which == 0 ? 8 : which * kTokenStep;
}
template <class S>
__device__ int which_width(const Tile& tile) {
  return S::kCluster == 1 && tile.count <= 8 ? 0 : tile.width / kTokenStep;
}

// tokens: Narrow, boxes of each width; Wide, of 64 and of 16.
struct Int4Maps {
  CUtensorMap codes, scales, tokens[1 + kNarrowTokens / kTokenStep];
};
struct BothInt4Maps {
  Int4Maps shared, experts;
};

template <int kStages>
struct Slots {
  Mbarrier *full, *empty;
  int stage = 0;
  uint32_t parity = 0;
  __device__ void next() {
    if (++stage == kStages) stage = 0, parity ^= 1;
  }
};
template <class S>
struct Int4Rings {
  unsigned char* data;
  Slots<S::kCodeStages> codes;
  Slots<S::kTokenStages> tokens;
  __device__ unsigned char* code_stage() const { return data + uint32_t(codes.stage) * S::kCodeStageBytes; }
  __device__ unsigned char* scale_stage() const { return code_stage() + S::kCodeBytes; }
  __device__ unsigned char* token_stage() const {
    return data + S::kCodeRingBytes + uint32_t(tokens.stage) * S::kTokenStageBytes;
  }
};

// groups: of a stage. By one thread.
template <class S>
__device__ void produce_codes(const BothInt4Maps& both, const Work& w, int groups, const Tile& tile,
                              Int4Rings<S>& rings) {
  const Passes passes = passes_of(w, tile.group);
  auto& slots = rings.codes;
  for (int step = tile.first_step; step < tile.first_step + tile.n_steps; ++step, slots.next()) {
    const bool shared = step < passes.shared;
    const int k = shared ? step : step - passes.shared;
    const int expert = shared ? 0 : tile.group, n = shared ? w.n_shared : w.n_experts_rows;
    const Int4Maps& maps = shared ? both.shared : both.experts;
    mbarrier_wait(&slots.empty[slots.stage], slots.parity ^ 1);
    Mbarrier* full = &slots.full[slots.stage];
    mbarrier_arrive_expect_tx(full, S::kCodeBytes + uint32_t(kTileRows * 2 * groups));
    tensor_load(rings.code_stage(), &maps.codes, full, k * S::kTileK / 2, expert * n + tile.row);
    tensor_load(rings.scale_stage(), &maps.scales, full, k * groups * int(kScaleRows),
                expert * int(scale_tiles(n)) + tile.row / int(kScaleRows));
  }
}

// By one thread.
template <class S>
__device__ void produce_tokens(const BothInt4Maps& both, const Work& w, const Tile& tile, int rank,
                               Int4Rings<S>& rings) {
  constexpr int kEach = S::kTileK / S::kTokenK;  // stages of tokens, of a stage of codes
  const Passes passes = passes_of(w, tile.group);
  const int which = which_width<S>(tile);
  auto& slots = rings.tokens;
  for (int step = tile.first_step * kEach; step < (tile.first_step + tile.n_steps) * kEach; ++step, slots.next()) {
    const bool shared = step < passes.shared * kEach;
    const int k = shared ? step : step - passes.shared * kEach;
    const Int4Maps& maps = shared ? both.shared : both.experts;
    mbarrier_wait(&slots.empty[slots.stage], slots.parity ^ 1);
    Mbarrier* full = &slots.full[slots.stage];
    mbarrier_arrive_expect_tx(full, uint32_t(int4_width(which)) * S::kTokenK * 2);
    unsigned char* to = rings.token_stage();
    if constexpr (S::kCluster == 1) {
      tensor_load(to, &maps.tokens[which], full, 0, tile.entry, k * (S::kTokenK / S::kBoxK));
    } else {
      static_assert(S::kTokenK == S::kBoxK);
      constexpr int kPart = S::kCluster * kTokenStep, kBox = 64;
      const int part = (tile.width + kPart - 1) / kPart * kTokenStep;
      int i = rank * part;
      const int end = min(i + part, tile.width);
      auto load = [&](const CUtensorMap& map) {
        tensor_load_to_blocks(to + i * kRowBytes, &map, full, (1 << S::kCluster) - 1, k * S::kBoxK, tile.entry + i);
      };
      for (; i + kBox <= end; i += kBox) load(maps.tokens[0]);
      for (; i < end; i += kTokenStep) load(maps.tokens[1]);
    }
  }
}

}  // namespace l4::cuda::grouped
