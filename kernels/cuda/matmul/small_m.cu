// Products of at most 16 rows: decode. The bytes of the weights are all that counts: 13.4 (H100) or 19.6 (H200) of them
// come to a multiprocessor each clock; all the work on them (one mma.sync per 512 and 8 rows) takes a quarter, at most
// a third of its issue slots. A call reads every row of its weights once, 2 n k bytes, and 4 n k flops for every 8
// rows.
//
// Units. A warp takes the weights in units of 2 or 4 KB: 16 kBlocks rows (the m16 of mma.m16n8k16; tokens are its n8) and
// kUnitK columns. A lane's 16-byte loads are rows g, g + 8 (g = lane / 4) and columns 8 t.. (t = lane % 4), so each is 8
// values of k at the places where the instruction wants k = 2t, 2t + 1, 2t + 8, 2t + 9, and again; the rows of x are
// loaded with the same permutation, which the sum does not see. No shuffle, no transposition. x is loaded a unit ahead.
//
// Bytes in flight. cp.async into a ring of kStages units a warp; every lane reads back what it wrote itself, so the ring
// needs no barrier, and it is filled before wait_for_predecessor(): 16 warps x 6 x 2 KB = 192 KB a multiprocessor, 8 us of
// streaming on the whole device, while small kernels before this one work. One block a multiprocessor: two that met on
// one, with another left empty, took 1.4 times as long. 64 registers leave room for a small kernel's block beside it. The
// successor is let in when the last unit has been asked for.
//
// Items. Tiles of 16 kBlocks rows over all of k are the items of work (Work below). Equal shares do not end together: of
// 132 multiprocessors the slowest streams 5 % slower than the mean, and a block may start late. So blocks draw
// items, and know as many ahead as their rings ask for. Neighbouring tiles are read at the same time. At the end of a tile
// the warps' sums meet in shared memory. Where there are hardly more tiles than blocks, tiles are cut along k:
// each piece's part goes to scratch and is counted, and whoever finds all others there adds them in order of k. Bits
// depend neither on who did what nor on when.
//
// Phases. ffn_up has the shared expert's tiles first (known before the route is), then those of every distinct chosen
// expert. In ffn_down a tile's k is the shared expert's F followed by that of every chosen expert. A token that did not
// choose an expert enters its products as zeros: all columns of n8 are there anyway.
//
// Roundings. Sums in float32, rounded once. The score is multiplied onto the float32 sums of gate and up, where the CPU
// rounds h * score to bfloat16 first: by linearity the same up to that rounding, of at most 2^-8 of each input, 0.16 %
// in the mean, which in a sum over k of random signs is 0.16 % of the output's own size: as large as the output's
// rounding.
//
// Not chosen: weights in registers instead of the ring (a ring position must be a constant there, so the end of a tile is
// unrolled with it); a block's ring of cp.async.bulk (a copy a row of 128 to 512 bytes, and barriers, for nothing gained).
// Lost (NOTES.md has the figures): two blocks a multiprocessor; equal runs of units a block (stream-K) or equal numbers of
// tiles; every tile in pieces.
#include <algorithm>
#include <climits>

#include "kernels/cuda/device/math.h"
#include "kernels/cuda/device/shared.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/matmul/dispatch.h"
#include "kernels/cuda/matmul/silu.h"
#include "kernels/cuda/matmul/small_m.h"
#include "kernels/cuda/ptx/cp_async.h"
#include "kernels/cuda/ptx/load.h"
#include "kernels/cuda/ptx/mma.h"
#include "kernels/cuda/ptx/pdl.h"

namespace l4::cuda {

namespace {
constexpr int kWarps = 16, kThreads = 32 * kWarps;
constexpr unsigned kAllLanes = 0xffffffffu;

constexpr int kQueue = 16;  // items of a block that are known, more than a ring asks for
enum class Mode { linear, up, down };

// How 16 bytes of a row of weights become operands. Another format is another of these.
struct Bf16Weights {
  static constexpr int kPerLoad = 8;  // values in 16 bytes
  // Operand a of the `i`-th of kPerLoad / 4 instructions: from 16 bytes of row g and of row g + 8, values 4 i.. .
  __device__ static void operand(const uint32_t (&low)[4], const uint32_t (&high)[4], int i, uint32_t (&a)[4]) {
    a[0] = low[2 * i], a[1] = high[2 * i], a[2] = low[2 * i + 1], a[3] = high[2 * i + 1];
  }
};

// kColumns: groups of 8 tokens; a unit is kBlocks groups of 16 rows by kSteps times 64 bytes of each.
template <class Weights_, int kColumns_, int kBlocks_, int kSteps_, int kStages_>
struct Variant {
  using Weights = Weights_;
  static constexpr int kColumns = kColumns_, kBlocks = kBlocks_, kSteps = kSteps_, kStages = kStages_;
  static_assert(kStages + 1 < kQueue);
  static constexpr int kTileRows = 16 * kBlocks, kTokens = 8 * kColumns;
  static constexpr int kPerLoad = Weights::kPerLoad, kStepK = 4 * kPerLoad, kUnitK = kSteps * kStepK;
  static constexpr int kLoads = 2 * kBlocks * kSteps;   // of a lane and unit, 16 bytes each
  static constexpr int kSums = 4 * kColumns * kBlocks;  // of a lane
  static constexpr int kOutputs = 32 * kSums;           // of a tile
};

struct Matrix {
  const unsigned char* w = nullptr;  // [n, k], of the first expert here
  int64_t k = 0, row_bytes = 0;
  int n = 0;
  int units = 0;  // along k
  int tiles = 0;  // of rows
};

struct Args {
  Matrix shared, routed;  // linear: shared alone
  const bf16 *x = nullptr, *x_routed = nullptr;
  int n_tokens = 0;
  // the route; n_slots 0: none
  const int32_t* expert = nullptr;
  const float* score = nullptr;
  int n_slots = 0, top_k = 1, first_expert = 0, n_experts = 0;
  // results
  const float* bias = nullptr;
  void *y = nullptr, *y_routed = nullptr;
  bool y_is_f32 = false, round = false;
  // items of work
  int pieces = 1;          // that a tile is cut into
  float* parts = nullptr;  // [tiles][pieces][kOutputs]
  uint32_t* arrived = nullptr;  // [tiles][kOutputs / 32], of the pieces; zero between launches
  uint32_t* ticket = nullptr;   // the next item that no block has yet; zero between launches
};

// ---- who chose what: the same in every block

template <int kTokens>
struct Chosen {
  int n;                                // distinct experts of this rank
  int16_t expert[kSmallMSlots];         // ascending
  int16_t slot[kSmallMSlots][kTokens];  // token's slot in act_routed; -1: it did not choose this one
};

// By one whole warp.
template <int kTokens>
__device__ void find_chosen(const Args& a, Chosen<kTokens>& chosen) {
  const int lane = int(threadIdx.x % 32);
  const int e = lane < a.n_slots ? __ldcg(a.expert + lane) - a.first_expert : -1;
  const bool here = e >= 0 && e < a.n_experts;
  for (int i = lane; i < kSmallMSlots * kTokens; i += 32) chosen.slot[i / kTokens][i % kTokens] = -1;
  bool first = here;
  for (int other = 0; other < 32; ++other) {
    const int theirs = __shfl_sync(kAllLanes, e, other);
    if (other < lane && theirs == e) first = false;
  }
  const unsigned firsts = __ballot_sync(kAllLanes, first);
  int rank = 0;  // distinct experts before mine
  for (int other = 0; other < 32; ++other) {
    const int theirs = __shfl_sync(kAllLanes, e, other);
    if ((firsts >> other & 1) && theirs < e) ++rank;
  }
  __syncwarp();
  if (first) chosen.expert[rank] = int16_t(e);
  if (here) chosen.slot[rank][lane / a.top_k] = int16_t(lane);
  if (lane == 0) chosen.n = __popc(firsts);
}

// ---- who does what

// Tiles of rows, those of the shared expert first, are cut along k into pieces: the items. Block i begins with items i,
// i + blocks, ..., as many as its ring asks for at once, and then takes the next that nobody has. What a block does
// changes from run to run, what an item and a tile's sum are does not.
struct Work {
  int n_tiles = 0, n_shared = 0;  // all tiles, those of the shared expert
  int units_a_tile = 1;           // along k
  int pieces = 1, rounds = 1;     // of a tile; a round is a unit for every warp, and the last has what is left over
  int ahead = 0;                  // items that a block must know behind the one at hand, for its ring
};

constexpr int kNone = INT_MAX;  // no tile

template <class V, Mode mode>
struct Kernel {
  const Args& a;
  const Chosen<V::kTokens>& chosen;
  Work& work;  // in shared memory, as the next
  int* queue;  // [kQueue] items that this block has drawn, by their turn
  const int lane = int(threadIdx.x % 32), warp = int(threadIdx.x / 32), g = lane / 4, t = lane % 4;
  uint4* ring;     // this lane's: [stage][kLoads], kThreads apart
  float* meeting;  // [kWarps][kOutputs]
  uint32_t drawn = 0;    // thread 0: a ticket that is on its way
  bool drawing = false;  // thread 0: there may be more

  // A piece of a tile: units [begin, end) of it. turn: the block's items are counted.
  struct Item {
    int turn, tile, piece, begin, end;
  };
  // Where a warp is in the block's items, of whose units it takes every kWarps-th.
  struct Place {
    int turn = -1, end = 0;
    int unit = 0;             // of the tile; not before `end`: to be settled
    int which = -1, row = 0;  // the chosen expert (-1: shared), the tile's first row in that matrix
    int u = 0;                // the unit along that matrix's k
  };
  Place fetched;  // to be fetched next
  Place loaded;   // whose x is to be loaded next
  uint32_t x[V::kSteps][V::kColumns][V::kPerLoad / 2];  // of the unit to be multiplied next

  // ---- walking

  // One thread. The tiles and the width of their k are set.
  __device__ void cut() const {
    work.rounds = max(1, work.units_a_tile / kWarps);
    work.pieces = min(a.pieces, work.rounds);
    const int least = work.rounds / work.pieces;
    work.ahead = (V::kStages + least - 1) / least;
  }
  __device__ int n_items() const { return work.n_tiles * work.pieces; }
  __device__ int n_given() const { return (work.ahead + 1) * int(gridDim.x); }  // without being drawn

  __device__ Item item(int turn) const {
    const int i = turn <= work.ahead ? int(blockIdx.x) + turn * int(gridDim.x) : queue[turn % kQueue];
    if (i >= n_items()) return {turn, kNone, 0, 0, 0};
    const int pieces = work.pieces, tile = i / pieces, piece = i - tile * pieces;
    return {turn, tile, piece, kWarps * (work.rounds * piece / pieces),
            piece + 1 == pieces ? work.units_a_tile : kWarps * (work.rounds * (piece + 1) / pieces)};
  }

  __device__ const Matrix& matrix(int which) const { return mode == Mode::linear || which < 0 ? a.shared : a.routed; }
  // Of a tile; in `down` a tile's rows are those of all its matrices.
  __device__ void locate(int tile, int& which, int& row) const {
    which = -1;
    row = tile * V::kTileRows;
    if (mode == Mode::up && tile >= work.n_shared) {
      tile -= work.n_shared;
      which = tile / a.routed.tiles;
      row = (tile - which * a.routed.tiles) * V::kTileRows;
    }
  }
  // Whether there is a unit at a place, which may have to be moved on to a later item, up to turn `last`.
  __device__ bool settle(Place& at, int last) const {
    while (at.unit >= at.end && at.turn < last) {
      const Item i = item(at.turn + 1);
      if (i.tile == kNone) return false;
      at.turn = i.turn, at.end = i.end, at.unit = i.begin + warp;
      locate(i.tile, at.which, at.row);
      at.u = at.unit;
    }
    if (at.unit >= at.end) return false;
    if constexpr (mode == Mode::down)
      while (at.u >= matrix(at.which).units) at.u -= matrix(at.which).units, ++at.which;
    return true;
  }
  __device__ static void advance(Place& at) {
    at.unit += kWarps;
    at.u += kWarps;
  }

  // Starts the copy of the next unit, if there is one, into `stage`; a group of copies in any case. turn: of the item
  // at hand.
  __device__ bool fetch(int stage, int turn) {
    const bool any = settle(fetched, turn + work.ahead);
    if (any) {
      const Matrix& m = matrix(fetched.which);
      const unsigned char* w =
          m.w + (fetched.which < 0 ? 0 : int64_t(chosen.expert[fetched.which]) * m.n * m.row_bytes);
#pragma unroll
      for (int i = 0; i < V::kLoads; ++i) {  // [block][step][row g, row g + 8]
        const int r = fetched.row + g + 8 * (i % 2) + i / (2 * V::kSteps) * 16;
        const int step = fetched.u * V::kSteps + i / 2 % V::kSteps;
        const bool inside = r < m.n && step * V::kStepK + t * V::kPerLoad < m.k;
        cp_async_or_zero<16>(ring + (stage * V::kLoads + i) * kThreads,
                             w + (inside ? r * m.row_bytes + step * 64 + t * 16 : 0), inside);
      }
      advance(fetched);
    }
    cp_async_commit();
    return any;
  }

  // The x of the unit at `loaded`: kPerLoad values at a time of the shared expert's input or of a chosen expert's.
  __device__ void load_x(int turn) {
    const bool any = settle(loaded, turn + work.ahead);
    const int64_t k = matrix(loaded.which).k;
#pragma unroll
    for (int c = 0; c < V::kColumns; ++c) {
      const int token = 8 * c + g;
      const bf16* from = a.x;
      int row = any && token < a.n_tokens ? token : -1;
      if (mode != Mode::linear && row >= 0 && loaded.which >= 0) {
        const int slot = chosen.slot[loaded.which][token];
        if (mode == Mode::down) from = a.x_routed;
        if (mode == Mode::down || slot < 0) row = slot;
      }
#pragma unroll
      for (int s = 0; s < V::kSteps; ++s) {
        const int64_t at = int64_t(loaded.u * V::kSteps + s) * V::kStepK + t * V::kPerLoad;
        const bool inside = row >= 0 && at < k;
#pragma unroll
        for (int i = 0; i < V::kPerLoad / 8; ++i)
          words(inside ? *reinterpret_cast<const uint4*>(from + row * k + at + 8 * i) : uint4{}, &x[s][c][4 * i]);
      }
    }
    if (any) advance(loaded);
  }
  __device__ static void words(const uint4& v, uint32_t* to) {
    to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
  }

  __device__ void multiply(float (&sums)[V::kBlocks][V::kColumns][4], int stage, int turn) {
    uint32_t now[V::kSteps][V::kColumns][V::kPerLoad / 2];
#pragma unroll
    for (int i = 0; i < V::kSteps * V::kColumns * V::kPerLoad / 2; ++i) (&now[0][0][0])[i] = (&x[0][0][0])[i];
    load_x(turn);  // arrives while the next unit is waited for
    cp_async_wait<V::kStages - 1>();
#pragma unroll
    for (int b = 0; b < V::kBlocks; ++b)
#pragma unroll
      for (int s = 0; s < V::kSteps; ++s) {
        const int i = 2 * (b * V::kSteps + s);
        uint32_t low[4], high[4];
        words(ring[(stage * V::kLoads + i) * kThreads], low);
        words(ring[(stage * V::kLoads + i + 1) * kThreads], high);
#pragma unroll
        for (int q = 0; q < V::kPerLoad / 4; ++q) {
          uint32_t w[4];
          V::Weights::operand(low, high, q, w);
#pragma unroll
          for (int c = 0; c < V::kColumns; ++c) mma_m16n8k16(sums[b][c], w, {now[s][c][2 * q], now[s][c][2 * q + 1]});
        }
      }
  }

  // ---- the end of a tile

  // v: output `o` of a tile, complete. By whole warps.
  __device__ void store(int tile, int o, float v) const {
    const int of_lane = o % 128 / 4, i = o % 4, column = o / 128 % V::kColumns, block = o / (128 * V::kColumns);
    const int token = 8 * column + 2 * (of_lane % 4) + i % 2;
    int row, which;
    locate(tile, which, row);
    const Matrix& m = matrix(which);
    row += 16 * block + of_lane / 4 + (i >= 2 ? 8 : 0);
    if constexpr (mode == Mode::up) {
      // Rows g and g + 8 are a gate and its up; the threads that hold them are two apart.
      int slot = token < a.n_tokens ? token : -1;
      if (which >= 0 && slot >= 0) {
        slot = chosen.slot[which][token];
        if (slot >= 0) v *= a.score[slot];
      }
      const float up = __shfl_down_sync(kAllLanes, v, 2);
      if (i >= 2 || slot < 0 || row >= m.n) return;
      const int64_t f = m.n / 2, j = row / 16 * 8 + row % 8;
      bf16* act = static_cast<bf16*>(which < 0 ? a.y : a.y_routed);
      act[slot * f + j] = rounded<bf16>(round_to<bf16>(silu(round_to<bf16>(v))) * round_to<bf16>(up));
    } else {
      if (token >= a.n_tokens || row >= m.n) return;
      if (a.bias) v += a.bias[row];
      const int64_t at = int64_t(token) * m.n + row;
      if (a.y_is_f32)
        static_cast<float*>(a.y)[at] = a.round ? round_to<bf16>(v) : v;
      else
        static_cast<bf16*>(a.y)[at] = rounded<bf16>(v);
    }
  }

  // This block's part of output o of a tile of several pieces. True, in the whole warp, where v has become the sum of all
  // parts, in their order whoever comes last.
  __device__ bool add_parts(const Item& i, int o, float& v) const {
    const int n_parts = work.pieces;
    float* parts = a.parts + int64_t(i.tile) * n_parts * V::kOutputs + o;
    uint32_t* counter = a.arrived + i.tile * (V::kOutputs / 32) + o / 32;
    uint32_t arrived = 0;
    if (lane == 0) arrived = load_acquire_gpu(counter);
    arrived = __shfl_sync(kAllLanes, arrived, 0);
    if (int(arrived) != n_parts - 1) {
      __stcg(parts + i.piece * V::kOutputs, v);
      __syncwarp();  // with the release that follows: the whole warp's parts are there for who sees the count
      if (lane == 0) arrived = fetch_add_gpu(counter, 1);
      arrived = __shfl_sync(kAllLanes, arrived, 0);
      if (int(arrived) != n_parts - 1) return false;
    }
    __syncwarp();
    if (lane == 0) *counter = 0;
    float sum = 0;
    for (int p = 0; p < n_parts; ++p) sum += p == i.piece ? v : __ldcg(parts + p * V::kOutputs);
    v = sum;
    return true;
  }

  // Thread 0: the ticket asked for an item ago becomes an item of the block, for all to see behind the next barrier. A
  // block draws until it draws one too many, so the last ticket of all is known; its owner makes the count zero again.
  __device__ void take_ticket(int turn) {
    const int i = n_given() + int(drawn), n = n_items();
    queue[turn % kQueue] = i;
    drawing = i < n;
    if (i == n + int(gridDim.x) - 1) *a.ticket = 0;
  }

  // All threads. The work of the sums' end goes round among the warps.
  __device__ void end_item(const float (&sums)[V::kBlocks][V::kColumns][4], const Item& i) {
    __syncthreads();  // the item before has been read
#pragma unroll
    for (int b = 0; b < V::kBlocks; ++b)
#pragma unroll
      for (int c = 0; c < V::kColumns; ++c)
        *reinterpret_cast<float4*>(meeting + warp * V::kOutputs + (b * V::kColumns + c) * 128 + 4 * lane) =
            make_float4(sums[b][c][0], sums[b][c][1], sums[b][c][2], sums[b][c][3]);
    if (drawing) take_ticket(i.turn + 1 + work.ahead);
    __syncthreads();
    if (drawing) drawn = fetch_add_relaxed_gpu(a.ticket, 1);
    constexpr int kTurns = kThreads / V::kOutputs;
    const int o = int(threadIdx.x) - i.turn % kTurns * V::kOutputs;
    if (o < 0 || o >= V::kOutputs) return;
    float v = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) v += meeting[w * V::kOutputs + o];
    if (work.pieces == 1 || add_parts(i, o, v)) store(i.tile, o, v);
  }

  __device__ void run(int stages_filled) {
    for (int i = stages_filled; i < V::kStages; ++i) fetch(i, 0);
    load_x(0);
    drawing = threadIdx.x == 0 && n_items() > n_given();
    if (drawing) drawn = fetch_add_relaxed_gpu(a.ticket, 1);
    int stage = 0;
    for (Item i = item(0); i.tile != kNone; i = item(i.turn + 1)) {
      float sums[V::kBlocks][V::kColumns][4] = {};
      for (int unit = i.begin + warp; unit < i.end; unit += kWarps) {
        multiply(sums, stage, i.turn);
        if (!fetch(stage, i.turn)) let_successor_start();
        stage = stage + 1 == V::kStages ? 0 : stage + 1;
      }
      end_item(sums, i);
    }
    cp_async_wait<0>();  // the last groups, which are empty
  }
};

template <class V, Mode mode>
constexpr size_t shared_bytes() {
  return size_t(V::kStages) * V::kLoads * kThreads * sizeof(uint4) + size_t(kWarps) * V::kOutputs * sizeof(float);
}

template <class V, Mode mode>
__global__ void __launch_bounds__(kThreads, V::kColumns == 1 ? 2 : 1) small_m_kernel(const __grid_constant__ Args a) {
  __shared__ Chosen<V::kTokens> chosen;
  __shared__ Work work;
  __shared__ int queue[kQueue];
  uint4* ring = dynamic_shared<uint4>();
  Kernel<V, mode> kernel{a, chosen, work, queue};
  kernel.ring = ring + threadIdx.x;
  kernel.meeting = reinterpret_cast<float*>(ring + V::kStages * V::kLoads * kThreads);
  if constexpr (mode == Mode::down) {  // the route was complete before the kernel before this one passed its wait (ops.h)
    if (threadIdx.x < 32) find_chosen(a, chosen);
    __syncthreads();
  }
  if (threadIdx.x < kQueue) queue[threadIdx.x] = kNone;  // where nothing is drawn
  if (threadIdx.x == 0) {
    work.n_tiles = work.n_shared = a.shared.tiles;
    work.units_a_tile = a.shared.units + (mode == Mode::down ? chosen.n * a.routed.units : 0);
    kernel.cut();
  }
  __syncthreads();
  int filled = 0;
  while (filled < V::kStages && (kernel.settle(kernel.fetched, work.ahead) || mode != Mode::up)) kernel.fetch(filled++, 0);
  wait_for_predecessor();
  if constexpr (mode == Mode::up) {
    if (threadIdx.x < 32) find_chosen(a, chosen);
    __syncthreads();  // and nobody looks at the number of tiles meanwhile
    if (threadIdx.x == 0) work.n_tiles += chosen.n * a.routed.tiles;
    __syncthreads();
  }
  kernel.run(filled);
}

// ---- host

// More than half of an SM's shared memory each: two blocks on one SM would leave another without any.
using Few = Variant<Bf16Weights, 1, 1, 2, 6>;    // 1..4 tokens: units of 16 x 64
using Eight = Variant<Bf16Weights, 1, 2, 2, 3>;  // 5..8: 32 x 64, which halves the reads of x
using Sixteen = Variant<Bf16Weights, 2, 2, 2, 2>;

template <class V>
Matrix matrix(const PackedWeight& w) {
  const LinearSpec& spec = w.spec;
  return {.w = static_cast<const unsigned char*>(w.data.data()),
          .k = spec.k,
          .row_bytes = spec.k * 16 / V::kPerLoad,
          .n = int(spec.n),
          .units = int((spec.k + V::kUnitK - 1) / V::kUnitK),
          .tiles = int((spec.n + V::kTileRows - 1) / V::kTileRows)};
}

template <class V, Mode mode>
void start(const OpContext& ctx, Args a, const PackedWeight& shared, const PackedWeight* routed) {
  // Tiles are cut only where there are hardly as many as blocks: a piece's end costs a fence and a trip to L2 in every
  // warp. (Cut into 8 or 16 items a block, O, QKV and down took a third longer, and a step 5 and 22 %.)
  constexpr int64_t kItemsABlock = 2;
  a.shared = matrix<V>(shared);
  if (routed) a.routed = matrix<V>(*routed);
  // At most: how many experts are chosen is known on the device.
  const int64_t chosen = routed ? std::min(a.n_slots, a.n_experts) : 0;
  const int64_t tiles = a.shared.tiles + (mode == Mode::up ? chosen * a.routed.tiles : 0);
  const int64_t units = a.shared.units + (mode == Mode::down ? chosen * a.routed.units : 0);
  const int64_t items = kItemsABlock * ctx.gpu.n_sms;
  a.pieces = int(std::clamp<int64_t>((items + tiles / 2) / tiles, 1, std::max<int64_t>(units / kWarps, 1)));
  Scratch scratch(ctx.work);
  if (a.pieces > 1) a.parts = scratch.take_array<float>(tiles * a.pieces * V::kOutputs);
  if (ctx.measuring()) return;
  a.ticket = ctx.gpu.counters;
  a.arrived = ctx.gpu.counters + 1;
  L4_CHECK(a.pieces == 1 || 1 + tiles * (V::kOutputs / 32) <= Gpu::kCounters, tiles, " tiles");
  L4_CHECK(tiles * a.pieces < INT_MAX / 2, shared.spec.name, ": ", tiles, " tiles");
  launch({.grid = unsigned(ctx.gpu.n_sms),
          .block = kThreads,
          .shared_bytes = shared_bytes<V, mode>(),
          .stream = ctx.gpu.stream,
          .programmatic = true},
         small_m_kernel<V, mode>, a);
}

template <Mode mode>
void start(const OpContext& ctx, const Args& a, const PackedWeight& shared, const PackedWeight* routed) {
  if (a.n_tokens <= 4)
    start<Few, mode>(ctx, a, shared, routed);
  else if (a.n_tokens <= 8)
    start<Eight, mode>(ctx, a, shared, routed);
  else
    start<Sixteen, mode>(ctx, a, shared, routed);
}

void take_route(Args& a, const Route& route, int64_t first_expert, const PackedWeight& experts) {
  a.expert = route.expert.i32();
  a.score = route.score.f32();
  a.n_slots = int(a.n_tokens * route.top_k);
  a.top_k = int(route.top_k);
  a.first_expert = int(first_expert);
  a.n_experts = int(experts.spec.n_experts);
}
}  // namespace

void small_m_linear(const OpContext& ctx, const View& x, const PackedWeight& w, const View& y, DType round_to) {
  Args a;
  a.x = data<bf16>(x);
  a.n_tokens = int(x.elements() / w.spec.k);
  if (w.spec.bias) a.bias = static_cast<const float*>(w.bias.data());
  a.y_is_f32 = y.dtype == DType::f32;
  a.y = a.y_is_f32 ? static_cast<void*>(data<float>(y)) : data<bf16>(y);
  a.round = round_to == DType::bf16;
  start<Mode::linear>(ctx, a, w, nullptr);
}

void small_m_ffn_up(const OpContext& ctx, const FfnUpArgs& args) {
  Args a;
  a.x = data<bf16>(args.h);
  a.n_tokens = int(args.h.rows());
  a.y = data<bf16>(args.act_shared);
  if (args.experts) {
    a.y_routed = data<bf16>(args.act_routed);
    take_route(a, args.route, args.first_expert, *args.experts);
  }
  start<Mode::up>(ctx, a, *args.shared, args.experts);
}

void small_m_ffn_down(const OpContext& ctx, const FfnDownArgs& args, const View& y) {
  Args a;
  a.x = data<bf16>(args.act_shared);
  a.n_tokens = int(y.rows());
  a.y = data<bf16>(y);
  if (args.experts) {
    a.x_routed = data<bf16>(args.act_routed);
    take_route(a, args.route, args.first_expert, *args.experts);
  }
  start<Mode::down>(ctx, a, *args.shared, args.experts);
}

}  // namespace l4::cuda
