// The ring of a grouped product: one thread brings weights and tokens, each kRowBytes of k a stage, by TMA with the 128-byte
// swizzle; two warpgroups multiply them. Blocks are persistent and walk the list of tiles.
//
// Clusters. Two blocks make neighbouring tiles of rows of the same tokens: each loads its weights and one half of the
// tokens, which the copy engine hands to both: a stage takes 32 KB from L2, not 48. A stage is loaded anew when the
// consumers of both blocks have left it.
#pragma once

#include "kernels/cuda/device/shared.h"
#include "kernels/cuda/matmul/grouped_tiles.h"
#include "kernels/cuda/ptx/cluster.h"
#include "kernels/cuda/ptx/pdl.h"
#include "kernels/cuda/ptx/setmaxnreg.h"
#include "kernels/cuda/ptx/tma.h"

namespace l4::cuda::grouped {

constexpr int kRowBytes = 128;  // of a row of weights or of a token, a stage

template <int kElementBytes_, int kMaxTokens_, int kBox_, int kStages_, int kCluster_, int kBand_>
struct Shape {
  static constexpr int kElementBytes = kElementBytes_, kTileK = kRowBytes / kElementBytes;
  static constexpr int kMaxTokens = kMaxTokens_, kBox = kBox_, kStages = kStages_;
  static constexpr int kCluster = kCluster_;  // blocks that share a tile of tokens
  static constexpr int kBand = kBand_;        // columns whose tokens L2 holds
  static constexpr uint32_t kWeightBytes = kTileRows * kRowBytes;
  static constexpr uint32_t kStageBytes = kWeightBytes + kMaxTokens * kRowBytes;
  static constexpr size_t kSharedBytes = size_t(kStages) * kStageBytes;
};
// More than kNarrowRows rows of a step. The tokens of a band are 10 MB at k = 5120.
template <int kElementBytes>
using WideShape = Shape<kElementBytes, 256, 64, 4, 2, 8 / kElementBytes>;
template <int kElementBytes>
using NarrowShape = Shape<kElementBytes, kNarrowTokens, 16, 8, 1, 8>;

// The maps of a product: weights [experts * n, k] in boxes of 128 rows, tokens [*, k] in boxes of kBox rows and, for
// what is left of a tile's width, of 16.
struct Maps {
  CUtensorMap weights, tokens, few_tokens;
};
struct BothMaps {
  Maps shared, experts;
};

template <class S>
struct Ring {
  unsigned char* data;
  Mbarrier *full, *empty;
  int stage = 0;
  uint32_t parity = 0;
  __device__ unsigned char* weights() const { return data + stage * S::kStageBytes; }
  __device__ unsigned char* tokens() const { return weights() + S::kWeightBytes; }
  __device__ void next() {
    if (++stage == S::kStages) stage = 0, parity ^= 1;
  }
};

// A consumer warp has left a stage: all blocks of the cluster hear of it, since each loads a part of its tokens.
template <class S>
__device__ void leave_stage(Mbarrier* empty, int lane) {
  if constexpr (S::kCluster == 1) {
    if (lane == 0) mbarrier_arrive(empty);
  } else {
    if (lane < S::kCluster) mbarrier_arrive_at(empty, uint32_t(lane));
  }
}

template <class S>
__device__ void produce(const BothMaps& both, const Work& w, const Tile& tile, int rank, Ring<S>& ring) {
  const Passes passes = passes_of(w, tile.group);
  // The tokens that this block loads, for all of the cluster.
  constexpr int kPart = S::kCluster * kTokenStep;
  const int part = (tile.width + kPart - 1) / kPart * kTokenStep;
  const int first = rank * part, end = min(first + part, tile.width);
  for (int step = tile.first_step; step < tile.first_step + tile.n_steps; ++step) {
    const bool shared = step < passes.shared;
    const int k = (shared ? step : step - passes.shared) * S::kTileK;
    const Maps& maps = shared ? both.shared : both.experts;
    mbarrier_wait(&ring.empty[ring.stage], ring.parity ^ 1);
    Mbarrier* full = &ring.full[ring.stage];
    mbarrier_arrive_expect_tx(full, S::kWeightBytes + uint32_t(tile.width) * kRowBytes);
    tensor_load(ring.weights(), &maps.weights, full, k, (shared ? 0 : tile.group * w.n_experts_rows) + tile.row);
    auto load_tokens = [&](const CUtensorMap& map, int i) {
      if constexpr (S::kCluster == 1)
        tensor_load(ring.tokens() + i * kRowBytes, &map, full, k, tile.entry + i);
      else
        tensor_load_to_blocks(ring.tokens() + i * kRowBytes, &map, full, (1 << S::kCluster) - 1, k, tile.entry + i);
    };
    int i = first;
    for (; i + S::kBox <= end; i += S::kBox) load_tokens(maps.tokens, i);
    for (; i < end; i += kTokenStep) load_tokens(maps.few_tokens, i);
    ring.next();
  }
}

// A kernel's whole course: blocks of kThreads, with the ring in dynamic shared memory. consume(tile, ring) is called by the
// threads of the consumers for each of the block's tiles, and takes what produce() has brought.
template <class S, class Consume>
__device__ void run_tiles(const BothMaps& both, const Work& w, const Consume& consume) {
  __shared__ Tiles tiles;
  __shared__ Mbarrier full[S::kStages], empty[S::kStages];
  Ring<S> ring{dynamic_shared<unsigned char>(), full, empty};
  const int rank = S::kCluster == 1 ? 0 : int(cluster_rank());
  if (threadIdx.x == 0) {
    for (int i = 0; i < S::kStages; ++i) {
      mbarrier_init(&full[i], 1);
      mbarrier_init(&empty[i], S::kCluster * kConsumers * 4);  // a consumer warp each
    }
    mbarrier_init_fence();
    for (const Maps* maps : {&both.shared, &both.experts})
      for (const CUtensorMap* map : {&maps->weights, &maps->tokens, &maps->few_tokens}) prefetch_tensor_map(map);
  }
  if constexpr (S::kCluster > 1) cluster_arrive();
  wait_for_predecessor();
  let_successor_start();
  list_tiles<S>(w, tiles);
  if constexpr (S::kCluster > 1) cluster_wait();
  auto each_tile = [&](auto&& body) {
    for (int i = int(blockIdx.x) / S::kCluster; i < tiles.first[w.n_experts + 1]; i += int(gridDim.x) / S::kCluster)
      body(tile_at<S>(w, tiles, i, rank));
  };
  if (threadIdx.x < 128) {
    give_registers<40>();
    if (threadIdx.x == 0) each_tile([&](const Tile& tile) { produce<S>(both, w, tile, rank, ring); });
  } else {
    take_registers<232>();
    each_tile([&](const Tile& tile) { consume(tile, ring); });
  }
  if constexpr (S::kCluster > 1) {  // the others may still arrive at our barriers
    cluster_arrive();
    cluster_wait();
  }
}

}  // namespace l4::cuda::grouped
