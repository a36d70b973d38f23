// What the two roles of small_m.cu share: variants, arguments, who chose which expert, items of work and their places.
#pragma once

#include <climits>

#include <cuda.h>

#include "kernels/cuda/device/math.h"
#include "kernels/cuda/matmul/small_m.h"
#include "kernels/cuda/matmul/small_m_weights.h"
#include "kernels/cuda/peer_links.h"
#include "kernels/cuda/ptx/mbarrier.h"

namespace l4::cuda::small_m {

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kSlabBytes = 128;  // of a row
enum class Mode { linear, up, down };

// Groups of 8 tokens, rows of a tile, slabs of a stage, stages of the ring.
template <class Weights_, int kColumns_, int kTileRows_, int kSlabs_, int kStages_, int kWarps_ = 8>
struct Variant {
  using Weights = Weights_;
  static constexpr int kColumns = kColumns_, kTileRows = kTileRows_, kSlabs = kSlabs_, kStages = kStages_;
  static constexpr int kWarps = kWarps_, kThreads = 32 * (kWarps + 1);  // that multiply; one more fetches
  static constexpr int kTokens = 8 * kColumns, kPerLoad = Weights::kPerLoad;
  static constexpr int kSlabK = kSlabBytes / 16 * kPerLoad, kStageK = kSlabs * kSlabK;
  static constexpr int kStageBytes = kSlabs * kTileRows * kSlabBytes;
  static constexpr int kInFlight = (64 << 10) / kStageBytes;  // stages asked for and not there: 8.6 MB in all
  // A warp has kUnits slabs of a stage, or shares one with others, each of which has kBlocks of its blocks of 16 rows.
  static constexpr int kUnits = kWarps < kSlabs ? kSlabs / kWarps : 1, kSharing = kWarps < kSlabs ? 1 : kWarps / kSlabs;
  static constexpr int kXWords = kPerLoad;  // of a lane, slab and token: pairs of numbers of two chunks' columns
  static constexpr int kTileBlocks = kTileRows / 16, kBlocks = kTileBlocks / kSharing;
  static constexpr int kParts = kColumns * kTileBlocks;  // of a tile's outputs: 16 rows by 8 tokens, 4 of each lane
  static constexpr int kOwnParts = kColumns * kBlocks;   // of a warp
  static constexpr int kAdded = kWarps / kSharing;       // warps that have sums of a part
  // Of sums on their way from a tile's warps to the one that adds them. With two of two parts there would be no room
  // for a ring beside attention (small_m_kernel.h); items of INT4 are short, and not attention's.
  static constexpr int kBuffers = kParts == 1 || (Weights::kGroups && !Weights::kOne) ? 2 : 1;
  static constexpr size_t kMeetingBytes = size_t(kBuffers) * kAdded * kParts * 32 * sizeof(float4);
};

struct Matrix {
  int64_t k = 0;
  int n = 0;
  int stages = 0;                      // along k
  int tiles = 0;                       // of rows
  const float* row_scales = nullptr;   // FP8: [E][n]
  const bf16* group_scales = nullptr;  // INT4: [E][n / 16][groups][16]
  int groups = 0;                      // of a row
};

struct Args {
  CUtensorMap shared_map, routed_map;  // linear: shared alone; the experts' rows one after another
  Matrix shared, routed;
  const bf16 *x = nullptr,
             *x_routed = nullptr;         // [rows, k]; x_routed: of the experts, by token in `up`, by slot in `down`
  float x_scale = 0, x_routed_scale = 0;  // FP8: of all rows; 0: of each row its own, which every block finds
  int n_tokens = 0;
  // the route; n_slots 0: none
  const int32_t* expert = nullptr;
  const float* score = nullptr;
  int n_slots = 0, top_k = 1, first_expert = 0, n_experts = 0;
  // results
  const float* bias = nullptr;
  void *y = nullptr, *y_routed = nullptr;
  bool y_is_f32 = false, round = false;
  PeerLinks peers;                  // of more than one rank: y is sent to them, and not stored
  const uint32_t* ready = nullptr;  // of each row of x, when it is there; null: when the predecessor has ended
  int ring = 0;                     // stages
  int stage_bytes = 0;              // codes, then INT4's scales: [kTileBlocks][groups of a stage][16]
  int group = 0;                    // INT4: columns; 32, 64 or 128
  // items of work
  int pieces = 1;               // that a tile is cut into
  float4* parts = nullptr;      // [tiles][pieces][kParts][32]
  uint32_t* arrived = nullptr;  // [tiles][kParts], of the pieces; zero between launches
  uint32_t* ticket = nullptr;   // the next item that no block has yet; zero between launches
};

// Args::x_scale of a weight.
inline float input_scale(const LinearSpec& spec) {
  return spec.input == InputFormat::fp8_static ? spec.input_scale : 0;
}
// Whether small_m_one.h takes it: one token, one choice, of at most kMostX columns, in `down` with those of its expert.
constexpr int64_t kMostX = 16 << 10;
bool is_one(Mode, const Args&, const PackedWeight& shared, const PackedWeight* routed);

void start_bf16(const OpContext&, Mode, const Args&, const PackedWeight& shared, const PackedWeight* routed);
void start_fp8(const OpContext&, Mode, const Args&, const PackedWeight& shared, const PackedWeight* routed);
void start_int4(const OpContext&, Mode, const Args&, const PackedWeight& shared, const PackedWeight* routed);

// ---- who chose what: the same in every block

template <int kTokens>
struct Chosen {
  int n;                                // distinct experts of this rank
  int16_t expert[kSmallMSlots];         // ascending
  int16_t slot[kSmallMSlots][kTokens];  // token's slot in act_routed; -1: it did not choose this one
  int16_t first_slot[kSmallMSlots];     // of those that chose it
};

// The expert of this lane's slot.
__device__ inline int choice(const Args& a) {
  const int lane = int(threadIdx.x % 32);
  return lane < a.n_slots ? __ldcg(a.expert + lane) - a.first_expert : -1;
}
// By one whole warp. e: choice()
template <int kTokens>
__device__ void find_chosen(const Args& a, int e, Chosen<kTokens>& chosen) {
  const int lane = int(threadIdx.x % 32);
  const bool here = e >= 0 && e < a.n_experts;
  for (int i = lane; i < a.n_slots * kTokens; i += 32) chosen.slot[i / kTokens][i % kTokens] = -1;
  bool first = here;
  for (int other = 0; other < a.n_slots; ++other) {
    const int theirs = __shfl_sync(kAllLanes, e, other);
    if (other < lane && theirs == e) first = false;
  }
  const unsigned firsts = __ballot_sync(kAllLanes, first);
  int rank = 0;  // distinct experts before mine
  for (int other = 0; other < a.n_slots; ++other) {
    const int theirs = __shfl_sync(kAllLanes, e, other);
    if ((firsts >> other & 1) && theirs < e) ++rank;
  }
  __syncwarp();
  if (first) chosen.expert[rank] = int16_t(e), chosen.first_slot[rank] = int16_t(lane);
  if (here) chosen.slot[rank][lane / a.top_k] = int16_t(lane);
  if (lane == 0) chosen.n = __popc(firsts);
  __syncwarp();
}

// ---- who does what

// Tiles of rows, those of the shared expert first, are cut along k into pieces: the items. Block i begins with items i,
// i + blocks, ..., as many as fill its ring, and then takes the next that nobody has. What a block does changes from
// run to run, what an item and a tile's sum are does not.
struct Work {
  int n_tiles;  // all tiles
  int stages;   // of a tile, along k
  int pieces;   // of a tile
  int turns;    // items of a block that it need not draw
};

constexpr int kNone = INT_MAX;  // no item

template <class V>
struct Shared {
  Mbarrier full[V::kStages], empty[V::kStages];  // the ring: one fetches, kWarps read
  int item[V::kStages];                          // that a stage is of; kNone: the end
  Mbarrier handed[V::kBuffers],
      taken[V::kBuffers];  // sums: kWarps hand them over, one warp a part takes them; by lanes
  Mbarrier routed;         // up: `chosen` is there
  Work work;
  Chosen<V::kTokens> chosen;
  union {
    uint32_t touched[32 * V::kWarps];        // nobody reads it: where touch() puts what it loads
    float largest[V::kWarps][kSmallMSlots];  // of a row of x, by the warps that look for it
  };
  float x_scale[2][kSmallMSlots];  // of the rows of x and of x_routed
};

// A piece of a tile: stages [begin, end) of it.
struct Item {
  int tile, piece, begin, end;
};
__device__ inline Item item(const Work& work, int i) {
  if (work.pieces == 1) return {i, 0, 0, work.stages};
  const int tile = i / work.pieces, piece = i - tile * work.pieces;
  return {tile, piece, work.stages * piece / work.pieces, work.stages * (piece + 1) / work.pieces};
}

// A stage's weights and x: of the shared expert (which -1) or of a chosen one, and the stage along that matrix's k.
struct Place {
  int which, stage;
};
template <Mode mode>
__device__ Place place(const Args& a, int tile, int stage) {
  if (mode == Mode::up && tile >= a.shared.tiles) return {(tile - a.shared.tiles) / a.routed.tiles, stage};
  if (mode == Mode::down && stage >= a.shared.stages) {
    stage -= a.shared.stages;
    return {stage / a.routed.stages, stage % a.routed.stages};
  }
  return {-1, stage};
}
// The tile's first row in its matrix; in `down` a tile's rows are those of all its matrices.
template <class V, Mode mode>
__device__ int first_row(const Args& a, int tile, int which) {
  if (mode == Mode::up && which >= 0) tile -= a.shared.tiles + which * a.routed.tiles;
  return tile * V::kTileRows;
}

// Where one is in the ring.
struct Turn {
  int stage = 0;
  uint32_t parity = 0;
  __device__ void next(int ring) {
    if (++stage == ring) stage = 0, parity ^= 1;
  }
};

}  // namespace l4::cuda::small_m
