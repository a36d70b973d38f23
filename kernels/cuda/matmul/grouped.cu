// Grouped products of the feed-forward stages: prefill, and decode of more than 16 rows.
//
// What is multiplied. Rows of h are first put in the order of their experts (arrange_kernel), since the copy engine
// takes tiles of neighbouring rows. In that order every stage is one launch over groups of rows, one for each expert.
// Up has one more group of all rows, for the shared expert (or the dense block): same shapes, no second launch, no
// tail. Down adds the shared expert's product to each expert's tile in the same accumulators, as if k were F_shared +
// F_experts: no sum in memory, every output written once, rounded once; rows without an expert here are a group of
// their own. With few rows, where weights are read for a handful of tokens each, reading the shared weights again for
// every expert would cost more than it saves: there the shared product is a launch of its own, k in as many parts as
// fill the SMs, that leaves float32 sums, to which the experts' launch adds.
//
// Tiles. 128 rows of weights (two warpgroups of consumers, 64 each: weights are the m64 of wgmma, tokens its n) by up
// to 256 tokens (Wide) or 64 (Narrow, for up to 512 rows, deeper ring): the width, any multiple of 16, is chosen for
// each group on the device (token_tiles). A producer thread brings 64 columns of k a stage by TMA with the 128-byte
// swizzle, 4 stages of 48 KB or 8 of 24 KB. Blocks are persistent and walk the list of tiles, which every block derives
// from the groups' begin[].
//
// Clusters (Wide). Two blocks make neighbouring tiles of rows of the same tokens: each loads its weights and one half
// of the tokens, which the copy engine hands to both: a stage takes 32 KB from L2, not 48. A stage is loaded anew when
// the consumers of both blocks have left it.
//
// Order of tiles. Blocks must keep in step, or those that share an operand read it at different times and it comes from
// memory more than once (four times, when widths of 192 and 256 ran side by side): groups are ordered by how long their
// tiles take, and within a group a band of a few columns runs down the rows (tile_place).
//
// Ends of tiles. Nothing is waited for there: what must be known of the tokens was asked for when the tile began, and
// the chains of 32 tokens (exponentials, divisions, shuffles) overlap. Conversions to bfloat16 go by pairs, one
// instruction of the ordinary units; one alone is a slow one.
//
// Limits. Wide: each k16 of a 64 x 256 tile takes 128 clocks of its quarter of the tensor cores and (64 + 256) * 32
// bytes of shared memory, 80 of 128 clocks. Narrow: bytes of weights; 16 KB of 24 KB a stage are weights, 192 KB are in
// flight.
//
// Roundings as the reference has them, but that the score is multiplied onto the float32 sums of gate and up, and that
// down rounds the sum of shared and routed once (see small_m.cu).
#include <algorithm>
#include <type_traits>

#include "kernels/cuda/device/math.h"
#include "kernels/cuda/device/shared.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/matmul/grouped.h"
#include "kernels/cuda/matmul/silu.h"
#include "kernels/cuda/ptx/cluster.h"
#include "kernels/cuda/ptx/pdl.h"
#include "kernels/cuda/ptx/setmaxnreg.h"
#include "kernels/cuda/ptx/tma.h"
#include "kernels/cuda/ptx/wgmma.h"
#include "kernels/cuda/tensor_map.h"

namespace l4::cuda {

namespace {
constexpr int kTileRows = 128, kTileK = 64, kRowBytes = kTileK * 2;
constexpr int kConsumers = 2, kThreads = 128 * (1 + kConsumers);
constexpr int kMaxGroups = int(kGroupedExperts) + 1;
constexpr int64_t kNarrowRows = 512;  // of a step: up to here Narrow, and down in two launches
constexpr int kMaxParts = 4;          // of k in the first of the two
constexpr unsigned kAllLanes = 0xffffffffu;

template <int kMaxTokens_, int kBox_, int kStages_, int kCluster_, int kBand_>
struct Shape {
  static constexpr int kMaxTokens = kMaxTokens_, kBox = kBox_, kStages = kStages_;
  static constexpr int kCluster = kCluster_;  // blocks that share a tile of tokens
  static constexpr int kBand = kBand_;        // columns whose tokens L2 holds: 1024 tokens are 10 MB at k = 5120
  static constexpr uint32_t kWeightBytes = kTileRows * kRowBytes;
  static constexpr uint32_t kStageBytes = kWeightBytes + kMaxTokens * kRowBytes;
  static constexpr size_t kSharedBytes = size_t(kStages) * kStageBytes;
};
using Wide = Shape<256, 64, 4, 2, 4>;
using Narrow = Shape<64, 16, 8, 1, 8>;

// The maps of a product: weights [experts * n, k] in boxes of 128 rows, tokens [*, k] in boxes of kBox rows and, for
// what is left of a tile's width, of 16.
struct Maps {
  CUtensorMap weights, tokens, few_tokens;
};
struct BothMaps {
  Maps shared, experts;
};
struct Args {
  int n_shared = 0, n_experts_rows = 0;  // rows of a matrix
  int k_shared = 0, k_experts = 0;       // columns
  int n_experts = 0;                     // groups with weights of their own
  const int32_t* begin = nullptr;        // [n_experts + 1]
  int n_rows = 0;                        // of the step
  bool all_rows = false;                 // the last group is all rows, not those without an expert
  bool add_shared = false;               // experts' tiles take the shared product in
  // results
  const int32_t* rows = nullptr;                      // [n_rows] row of an entry; null: the same
  const float* scores = nullptr;                      // [entries]
  bf16 *shared_out = nullptr, *expert_out = nullptr;  // up: [entries, n / 2]; down: both y [n_rows, n]
  // down in two launches: the first leaves the shared product in n_parts sums [n_parts, n_rows, n], each over a part of
  // k, the second adds them to the experts' product (to nothing where a row has no expert: its tiles have no steps)
  float* sums = nullptr;
  int n_parts = 1;
  bool leaves_sums = false;
};

// ---- the list of tiles

__host__ __device__ constexpr int steps_of(int k) {
  return (k + kTileK - 1) / kTileK;
}
struct Passes {
  int shared, experts;  // steps of 64 columns with each
};
__device__ inline Passes passes_of(const Args& a, int group) {
  const bool last = group == a.n_experts;
  return {last || a.add_shared ? steps_of(a.k_shared) : 0, last ? 0 : steps_of(a.k_experts)};
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
__device__ void list_tiles(const Args& a, Tiles& tiles) {
  const int n_groups = a.n_experts + 1;
  for (int g = int(threadIdx.x); g < n_groups; g += kThreads) {
    const bool last = g == a.n_experts;
    const int begin = a.n_experts && !(last && a.all_rows) ? __ldcg(a.begin + g) : 0;
    const int count = (last ? a.n_rows : __ldcg(a.begin + g + 1)) - begin;
    const TokenTiles columns = token_tiles<S::kMaxTokens>(count);
    constexpr int kRows = S::kCluster * kTileRows;
    const int n_row_tiles = ((last ? a.n_shared : a.n_experts_rows) + kRows - 1) / kRows;
    const Passes passes = passes_of(a, g);
    const int n_parts = a.leaves_sums ? a.n_parts : 1;
    tiles.groups[g] = {begin, count, columns.n, columns.width, n_row_tiles, columns.n * n_row_tiles * n_parts};
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
__device__ Tile tile_at(const Args& a, const Tiles& tiles, int tile, int rank) {
  int low = 0, high = a.n_experts;  // the last place whose first tile is not after this one
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (tiles.first[middle] <= tile)
      low = middle;
    else
      high = middle - 1;
  }
  const Group& group = tiles.groups[tiles.order[low]];
  const int of_part = group.n_row_tiles * group.n_columns, n_parts = group.n_tiles / of_part;
  const int part = (tile - tiles.first[low]) / of_part;
  const TilePlace at = tile_place((tile - tiles.first[low]) % of_part, group.n_row_tiles, group.n_columns, S::kBand);
  const Passes passes = passes_of(a, tiles.order[low]);
  const int n_steps = passes.shared + passes.experts, first_step = n_steps * part / n_parts;
  const int before = at.column * group.width;
  return {.group = tiles.order[low],
          .row = (at.row * S::kCluster + rank) * kTileRows,
          .entry = group.entry + before,
          .count = min(group.width, group.count - before),
          .width = group.width,
          .first_step = first_step,
          .n_steps = n_steps * (part + 1) / n_parts - first_step,
          .part = part};
}

// ---- the ring

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
__device__ void produce(const BothMaps& both, const Args& a, const Tile& tile, int rank, Ring<S>& ring) {
  const Passes passes = passes_of(a, tile.group);
  // The tokens that this block loads, for all of the cluster.
  constexpr int kPart = S::kCluster * kTokenStep;
  const int part = (tile.width + kPart - 1) / kPart * kTokenStep;
  const int first = rank * part, end = min(first + part, tile.width);
  for (int step = tile.first_step; step < tile.first_step + tile.n_steps; ++step) {
    const bool shared = step < passes.shared;
    const int k = (shared ? step : step - passes.shared) * kTileK;
    const Maps& maps = shared ? both.shared : both.experts;
    mbarrier_wait(&ring.empty[ring.stage], ring.parity ^ 1);
    Mbarrier* full = &ring.full[ring.stage];
    mbarrier_arrive_expect_tx(full, S::kWeightBytes + uint32_t(tile.width) * kRowBytes);
    tensor_load(ring.weights(), &maps.weights, full, k, (shared ? 0 : tile.group * a.n_experts_rows) + tile.row);
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

// ---- what becomes of a tile

// A thread has two neighbouring tokens of a row; the thread 4 lanes on, of the next row, has the same. They swap, so
// that each has two rows of one token (the even row's thread of the first): one store of 4 bytes.
__device__ inline float2 two_rows_of_a_token(int odd, float token0, float token1) {
  const float other = __shfl_xor_sync(kAllLanes, odd ? token0 : token1, 4);
  return odd ? make_float2(other, token1) : make_float2(token0, other);
}

// What the end of a tile has to know of each of its tokens: its score (up) or its row (down). Lane l holds those of
// tokens l, l + 32, ...: asked for when a tile begins, so that nothing is waited for when it ends.
template <bool up, int kTokens>
struct OfTokens {
  using Value = std::conditional_t<up, float, int>;
  Value values[(kTokens + 31) / 32];
  __device__ OfTokens(const Args& a, const Tile& tile, int lane) {
#pragma unroll
    for (int i = 0; i < (kTokens + 31) / 32; ++i) {
      const int entry = tile.entry + min(lane + 32 * i, tile.count - 1);
      if constexpr (up)
        values[i] = tile.group == a.n_experts ? 1.0f : __ldcg(a.scores + entry);
      else
        values[i] = a.rows ? __ldcg(a.rows + entry) : entry;
    }
  }
  // Of token 8 j + i, where j is known when this is compiled. All lanes of a warp, with any i < 8.
  __device__ Value at(int j, int i) const {
    return __shfl_sync(kAllLanes, values[j / 4], 8 * (j % 4) + i);
  }
};

// Two at a time: one instruction (F2FP); one alone is a conversion (F2F) of a slower unit.
__device__ inline float2 round_pair(float x, float y) {
  return __bfloat1622float2(__floats2bfloat162_rn(x, y));
}

// d: rows row + g and row + g + 8 of the group's matrix. All threads of the consumers.
template <bool up, int kTokens>
__device__ void finish(const Args& a, const Tile& tile, int row, int lane, const OfTokens<up, kTokens>& of_tokens,
                       const float (&d)[kTokens / 2]) {
  const int g = lane / 4, t = lane % 4, odd = g % 2;
  const bool shared = tile.group == a.n_experts;
  const int n = shared ? a.n_shared : a.n_experts_rows;
  const int own = 2 * t + odd;             // of 8 tokens, the one that this thread stores
  constexpr int kTogether = kTokens / 64;  // eights of tokens whose long chains of instructions overlap
  if constexpr (up) {
    const int64_t stride = n / 2;
    const int f = row / 2 + g;
    const int n_stored = 2 * f < n ? tile.count : 0;
    bf16* out = (shared ? a.shared_out : a.expert_out) + (tile.entry + own) * stride + f - odd;
#pragma unroll
    for (int j = 0; j < kTokens / 8; ++j, out += 8 * stride) {
      if (j % kTogether == 0 && 8 * j >= tile.count) break;
      const float score0 = of_tokens.at(j, 2 * t), score1 = of_tokens.at(j, 2 * t + 1);
      const float2 gate = round_pair(d[4 * j] * score0, d[4 * j + 1] * score1);
      const float2 value = round_pair(d[4 * j + 2] * score0, d[4 * j + 3] * score1);
      const float2 act = round_pair(silu(gate.x), silu(gate.y));
      const float2 v = two_rows_of_a_token(odd, act.x * value.x, act.y * value.y);
      if (8 * j + own < n_stored) *reinterpret_cast<__nv_bfloat162*>(out) = __floats2bfloat162_rn(v.x, v.y);
    }
  } else {
    bf16* out = shared ? a.shared_out : a.expert_out;
    const int64_t sums_stride = int64_t(a.n_rows) * n;
#pragma unroll
    for (int j = 0; j < kTokens / 8; ++j) {
      if (j % kTogether == 0 && 8 * j >= tile.count) break;
      const int64_t first = int64_t(of_tokens.at(j, own)) * n + row + g - odd;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float2 v = two_rows_of_a_token(odd, d[4 * j + 2 * r], d[4 * j + 2 * r + 1]);
        const int64_t at = first + 8 * r;
        if (8 * j + own >= tile.count || row + 8 * r + g >= n) continue;
        if constexpr (kTokens == Narrow::kMaxTokens) {
          if (a.leaves_sums) {
            *reinterpret_cast<float2*>(a.sums + tile.part * sums_stride + at) = v;
            continue;
          }
          if (a.sums) {
#pragma unroll
            for (int part = 0; part < kMaxParts; ++part)
              if (part < a.n_parts) {
                const float2 sum = __ldcg(reinterpret_cast<const float2*>(a.sums + part * sums_stride + at));
                v.x += sum.x, v.y += sum.y;
              }
          }
        }
        *reinterpret_cast<__nv_bfloat162*>(out + at) = __floats2bfloat162_rn(v.x, v.y);
      }
    }
  }
}

// d += weights tokens of `n_steps` stages, kN tokens wide.
template <int kN, class S>
__device__ void multiply(int n_steps, int consumer, int lane, Ring<S>& ring, float (&d)[S::kMaxTokens / 2]) {
  auto& sums = reinterpret_cast<float(&)[kN / 2]>(d);
  Mbarrier* done = nullptr;  // the stage that the group of instructions before the newest reads
  for (int step = 0; step < n_steps; ++step) {
    mbarrier_wait(&ring.full[ring.stage], ring.parity);
    const uint64_t weights = matrix_descriptor(ring.weights() + consumer * (kTileRows / kConsumers) * kRowBytes,
                                               Swizzle::bytes128, 0, 8 * kRowBytes);
    const uint64_t tokens = matrix_descriptor(ring.tokens(), Swizzle::bytes128, 0, 8 * kRowBytes);
    wgmma_hold(d);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < kTileK / 16; ++k)
      wgmma<kN>(sums, advance_descriptor(weights, 32 * k), advance_descriptor(tokens, 32 * k), true);
    wgmma_commit();
    wgmma_wait<1>();
    if (done) leave_stage<S>(done, lane);
    done = &ring.empty[ring.stage];
    ring.next();
  }
  wgmma_wait<0>();
  wgmma_hold(d);
  if (done) leave_stage<S>(done, lane);
}
// The same with a width that only the device knows.
template <int kN, class S>
__device__ void multiply_any(int width, int n_steps, int consumer, int lane, Ring<S>& ring,
                             float (&d)[S::kMaxTokens / 2]) {
  if (width == kN)
    multiply<kN>(n_steps, consumer, lane, ring, d);
  else if constexpr (kN > kTokenStep)
    multiply_any<kN - kTokenStep>(width, n_steps, consumer, lane, ring, d);
}

template <class S, bool up>
__device__ void consume(const Args& a, const Tile& tile, Ring<S>& ring) {
  const int consumer = int(threadIdx.x) / 128 - 1, warp = int(threadIdx.x) / 32 % 4, lane = int(threadIdx.x) % 32;
  const OfTokens<up, S::kMaxTokens> of_tokens(a, tile, lane);
  float d[S::kMaxTokens / 2];
#pragma unroll
  for (int i = 0; i < S::kMaxTokens / 2; ++i) d[i] = 0;
  multiply_any<S::kMaxTokens>(tile.width, tile.n_steps, consumer, lane, ring, d);
  finish(a, tile, tile.row + consumer * (kTileRows / kConsumers) + 16 * warp, lane, of_tokens, d);
}

template <class S, bool up>
__global__ void __launch_bounds__(kThreads, 1)
    grouped_kernel(const __grid_constant__ BothMaps both, const __grid_constant__ Args a) {
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
  list_tiles<S>(a, tiles);
  if constexpr (S::kCluster > 1) cluster_wait();
  auto each_tile = [&](auto&& body) {
    for (int i = int(blockIdx.x) / S::kCluster; i < tiles.first[a.n_experts + 1]; i += int(gridDim.x) / S::kCluster)
      body(tile_at<S>(a, tiles, i, rank));
  };
  if (threadIdx.x < 128) {
    give_registers<40>();
    if (threadIdx.x == 0) each_tile([&](const Tile& tile) { produce<S>(both, a, tile, rank, ring); });
  } else {
    take_registers<232>();
    each_tile([&](const Tile& tile) { consume<S, up>(a, tile, ring); });
  }
  if constexpr (S::kCluster > 1) {  // the others may still arrive at our barriers
    cluster_arrive();
    cluster_wait();
  }
}

// ---- rows in the order of their experts

constexpr int kArrangeThreads = 128;

// Block i: entry i's row number, the rows without an expert here after all others, and (unless h is null) a copy of h's
// row. 2 D bytes read and written a row.
__global__ void __launch_bounds__(kArrangeThreads)
    arrange_kernel(const int32_t* expert, int n_rows, int first_expert, int n_experts, const int32_t* begin,
                   const int32_t* routed_rows, int32_t* rows, const bf16* h, bf16* arranged, int64_t d) {
  wait_for_predecessor();
  let_successor_start();
  __shared__ int found, before[kArrangeThreads];
  const int entry = int(blockIdx.x), n_routed = begin[n_experts];
  int row;
  if (entry < n_routed) {
    row = routed_rows[entry];
  } else {  // the (entry - n_routed)-th of those whose expert is elsewhere
    const int run = (n_rows + kArrangeThreads - 1) / kArrangeThreads;
    const int first = min(int(threadIdx.x) * run, n_rows), end = min(first + run, n_rows);
    auto elsewhere = [&](int i) { return expert[i] < first_expert || expert[i] >= first_expert + n_experts; };
    int n = 0;
    for (int i = first; i < end; ++i) n += elsewhere(i);
    before[threadIdx.x] = n;
    __syncthreads();
    int at = n_routed;
    for (int i = 0; i < int(threadIdx.x); ++i) at += before[i];
    for (int i = first; i < end; ++i)
      if (elsewhere(i) && at++ == entry) found = i;
    __syncthreads();
    row = found;
  }
  if (threadIdx.x == 0) rows[entry] = row;
  if (!h) return;
  const uint4* from = reinterpret_cast<const uint4*>(h + int64_t(row) * d);
  uint4* to = reinterpret_cast<uint4*>(arranged + int64_t(entry) * d);
  for (int64_t i = threadIdx.x; i < d / 8; i += kArrangeThreads) to[i] = from[i];
}

// ---- host

CUtensorMap weight_map(const PackedWeight& w) {
  const LinearSpec& s = w.spec;
  return tensor_map(w.data.data(), DType::bf16, {{s.k, s.n * s.n_experts}}, {{s.k * 2}}, {{kTileK, kTileRows}},
                    Swizzle::bytes128);
}
CUtensorMap token_map(const void* x, int64_t n_rows, int64_t k, int box) {
  return tensor_map(x, DType::bf16, {{k, n_rows}}, {{k * 2}}, {{kTileK, box}}, Swizzle::bytes128);
}

template <bool up>
void start(const OpContext& ctx, const Args& a, const PackedWeight& shared, const PackedWeight* experts,
           const void* shared_tokens, const void* expert_tokens) {
  auto start_shape = [&](auto shape) {
    using S = decltype(shape);
    auto maps = [&](const PackedWeight& w, const void* tokens) {
      return Maps{weight_map(w), token_map(tokens, a.n_rows, w.spec.k, S::kBox),
                  token_map(tokens, a.n_rows, w.spec.k, kTokenStep)};
    };
    const Maps of_shared = maps(shared, shared_tokens);
    launch({.grid = unsigned(std::max(ctx.gpu.n_sms / S::kCluster, 1) * S::kCluster),
            .block = kThreads,
            .shared_bytes = S::kSharedBytes,
            .stream = ctx.gpu.stream,
            .programmatic = true,
            .cluster = S::kCluster},
           grouped_kernel<S, up>, BothMaps{of_shared, experts ? maps(*experts, expert_tokens) : of_shared}, a);
  };
  if (a.n_rows <= kNarrowRows)
    start_shape(Narrow{});
  else
    start_shape(Wide{});
}

Args matrices(const PackedWeight& shared, const PackedWeight* experts, int64_t n_rows) {
  Args a;
  a.n_rows = int(n_rows);
  a.n_shared = int(shared.spec.n);
  a.k_shared = int(shared.spec.k);
  a.all_rows = true;
  if (!experts) return a;
  a.n_experts = int(experts->spec.n_experts);
  a.n_experts_rows = int(experts->spec.n);
  a.k_experts = int(experts->spec.k);
  return a;
}

// The rows' order, and with h a copy of it in that order.
struct Arranged {
  ExpertGroups groups;
  int32_t* rows = nullptr;  // [T]
  bf16* h = nullptr;
};
Arranged arrange(Scratch& scratch, const OpContext& ctx, const Route& route, int64_t first_expert, int64_t n_experts,
                 const View& h) {
  Arranged r;
  const int64_t n_rows = route.expert.elements(), d = h ? h.cols() : 0;
  r.rows = scratch.take_array<int32_t>(n_rows);
  if (h) r.h = scratch.take_array<bf16>(n_rows * d);
  r.groups = group_by_expert(scratch, ctx, route, first_expert, n_experts);
  if (ctx.measuring()) return r;
  launch({.grid = unsigned(n_rows), .block = kArrangeThreads, .stream = ctx.gpu.stream, .programmatic = true},
         arrange_kernel, route.expert.i32(), int(n_rows), int(first_expert), int(n_experts), r.groups.begin,
         r.groups.rows, r.rows, h ? data<bf16>(h) : nullptr, r.h, d);
  return r;
}
}  // namespace

void grouped_ffn_up(const OpContext& ctx, const FfnUpArgs& args) {
  Scratch scratch(ctx.work);
  Args a = matrices(*args.shared, args.experts, args.h.rows());
  const void* x = args.h.data;
  if (args.experts) {
    const Arranged r = arrange(scratch, ctx, args.route, args.first_expert, a.n_experts, args.h);
    a.begin = r.groups.begin;
    a.scores = r.groups.scores;
    a.expert_out = data<bf16>(args.act_routed);
    x = r.h;
  }
  if (ctx.measuring()) return;
  a.shared_out = data<bf16>(args.act_shared);
  start<true>(ctx, a, *args.shared, args.experts, x, x);
}

// The parts of k in which the shared expert's down product fills the SMs best.
int parts_of_shared(const Args& a, int n_sms) {
  const int n_tiles = (a.n_shared + kTileRows - 1) / kTileRows * token_tiles<Narrow::kMaxTokens>(a.n_rows).n;
  auto time = [&](int parts) { return double((n_tiles * parts + n_sms - 1) / n_sms) / parts; };
  int best = 1;
  for (int parts = 2; parts <= std::min(kMaxParts, steps_of(a.k_shared)); ++parts)
    if (time(parts) < 0.95 * time(best)) best = parts;  // each writes sums
  return best;
}

void grouped_ffn_down(const OpContext& ctx, const FfnDownArgs& args, const View& y) {
  Scratch scratch(ctx.work);
  Args a = matrices(*args.shared, args.experts, y.rows());
  if (!ctx.measuring()) a.shared_out = a.expert_out = data<bf16>(y);
  if (args.experts) {
    const Arranged r = arrange(scratch, ctx, args.route, args.first_expert, a.n_experts, View{});
    a.rows = r.rows;
    a.begin = r.groups.begin;
    a.all_rows = false;
    a.add_shared = true;
  }
  const int n_parts = a.n_rows <= kNarrowRows ? parts_of_shared(a, ctx.gpu.n_sms) : 1;
  const bool two_launches = a.n_rows <= kNarrowRows && (args.experts || n_parts > 1);
  if (two_launches) a.sums = scratch.take_array<float>(n_parts * y.elements());
  if (ctx.measuring()) return;
  if (two_launches) {
    a.n_parts = n_parts;
    Args shared_alone = a;
    shared_alone.n_experts = 0;
    shared_alone.all_rows = true;
    shared_alone.leaves_sums = true;
    start<false>(ctx, shared_alone, *args.shared, nullptr, args.act_shared.data, nullptr);
    a.k_shared = 0;
  }
  start<false>(ctx, a, *args.shared, args.experts, args.act_shared.data, args.experts ? args.act_routed.data : nullptr);
}

}  // namespace l4::cuda
