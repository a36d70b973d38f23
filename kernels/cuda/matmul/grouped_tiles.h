// The list of tiles of a grouped product, which every block of a launch derives from the groups' begin[]. Which type the
// operands have, and how they come to shared memory, is not known here.
//
// A group is the rows of one expert; the last group is all rows (its matrix is the shared expert's or a dense one), or
// those without an expert. Its columns are tokens, its rows those of weights, its tiles kTileRows rows by up to
// S::kMaxTokens tokens; S has the shape of a kernel: kMaxTokens, kCluster (blocks that make neighbouring tiles of rows of
// the same tokens), kBand (columns that a band has at most).
//
// Order of tiles. Blocks must keep in step, or those that share an operand read it at different times and it comes from
// memory more than once (four times, when widths of 192 and 256 ran side by side): groups are ordered by how long their
// tiles take, and within a group a band of a few columns runs down the rows (tile_place).
#pragma once

#include "kernels/cuda/matmul/grouped.h"

namespace l4::cuda::grouped {

constexpr int kTileRows = 128;
constexpr int kConsumers = 2, kThreads = 128 * (1 + kConsumers);  // warpgroups: one produces, each other has 64 rows
constexpr int kConsumerRows = kTileRows / kConsumers;
constexpr int kMaxGroups = int(kGroupedExperts) + 1;
constexpr int64_t kNarrowRows = 512;  // of a step: up to here narrow tiles, and down in two launches
constexpr int kNarrowTokens = 64;     // of a tile
constexpr int kMaxSums = 4;           // parts of k in the first of the two launches

// What there is to multiply. A step is a stage of the ring: some columns of k.
struct Work {
  int n_shared = 0, n_experts_rows = 0;   // rows of a matrix
  int shared_steps = 0, expert_steps = 0;
  int n_experts = 0;                      // groups with weights of their own
  const int32_t* begin = nullptr;         // [n_experts + 1]
  int n_rows = 0;                         // of the step
  bool all_rows = false;                  // the last group is all rows, not those without an expert
  bool add_shared = false;                // experts' tiles take the shared product in
  int n_parts = 1;                        // of k, each a tile of its own
};

struct Passes {
  int shared, experts;  // steps with each
};
__device__ inline Passes passes_of(const Work& w, int group) {
  const bool last = group == w.n_experts;
  return {last || w.add_shared ? w.shared_steps : 0, last ? 0 : w.expert_steps};
}

struct Group {
  int entry, count;      // tokens [entry, entry + count)
  int n_columns, width;  // how they are cut
  int n_row_tiles;
  int n_tiles;  // each part of k is a tile
};
// The list of tiles, a tile of each block of a cluster: those of a group follow one another. The groups of the longest
// tiles (width times steps) come first, so that the tiles which run at once take equally long and blocks keep in step.
struct Tiles {
  Group groups[kMaxGroups];
  int length[kMaxGroups];     // of a group's tiles
  int order[kMaxGroups];      // groups, the longest first
  int first[kMaxGroups + 1];  // tile of order[i]
};
struct Tile {
  int group, row;           // rows [row, row + 128) of the group's matrix
  int entry, count, width;  // tokens [entry, entry + count)
  int first_step, n_steps;  // of the group's
  int part;
};

// By the whole block.
template <class S>
__device__ void list_tiles(const Work& w, Tiles& tiles) {
  const int n_groups = w.n_experts + 1;
  for (int g = int(threadIdx.x); g < n_groups; g += kThreads) {
    const bool last = g == w.n_experts;
    const int begin = w.n_experts && !(last && w.all_rows) ? __ldcg(w.begin + g) : 0;
    const int count = (last ? w.n_rows : __ldcg(w.begin + g + 1)) - begin;
    const TokenTiles columns = token_tiles<S::kMaxTokens>(count);
    constexpr int kRows = S::kCluster * kTileRows;
    const int n_row_tiles = ((last ? w.n_shared : w.n_experts_rows) + kRows - 1) / kRows;
    const Passes passes = passes_of(w, g);
    tiles.groups[g] = {begin, count, columns.n, columns.width, n_row_tiles, columns.n * n_row_tiles * w.n_parts};
    tiles.length[g] = columns.width * (passes.shared + passes.experts);
  }
  __syncthreads();
  for (int g = int(threadIdx.x); g < n_groups; g += kThreads) {
    int place = 0, first = 0;
    for (int other = 0; other < n_groups; ++other) {
      const int longer = tiles.length[other] - tiles.length[g];
      if (longer > 0 || (longer == 0 && other < g)) ++place, first += tiles.groups[other].n_tiles;
    }
    tiles.order[place] = g;
    tiles.first[place] = first;
    if (place == n_groups - 1) tiles.first[n_groups] = first + tiles.groups[g].n_tiles;
  }
  __syncthreads();
}

// The tile of block `rank` of the cluster. Where the number of row tiles is odd, the second block's last one lies past
// the matrix (or in the next expert's): it takes part all the same, and finish() keeps nothing of it.
template <class S>
__device__ Tile tile_at(const Work& w, const Tiles& tiles, int tile, int rank) {
  int low = 0, high = w.n_experts;  // the last place whose first tile is not after this one
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (tiles.first[middle] <= tile)
      low = middle;
    else
      high = middle - 1;
  }
  const Group& group = tiles.groups[tiles.order[low]];
  const int of_part = group.n_row_tiles * group.n_columns;
  const int part = (tile - tiles.first[low]) / of_part;
  const TilePlace at = tile_place((tile - tiles.first[low]) % of_part, group.n_row_tiles, group.n_columns, S::kBand);
  const Passes passes = passes_of(w, tiles.order[low]);
  const int n_steps = passes.shared + passes.experts, first_step = n_steps * part / w.n_parts;
  const int before = at.column * group.width;
  return {.group = tiles.order[low],
          .row = (at.row * S::kCluster + rank) * kTileRows,
          .entry = group.entry + before,
          .count = min(group.width, group.count - before),
          .width = group.width,
          .first_step = first_step,
          .n_steps = n_steps * (part + 1) / w.n_parts - first_step,
          .part = part};
}

}  // namespace l4::cuda::grouped
