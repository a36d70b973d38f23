// Products of at most 16 rows: decode. The bytes of the weights are all that counts: 13.4 (H100) or 19.6 (H200) of them
// come to a multiprocessor each clock; all the work on them (one mma.sync per 512 and 8 rows) takes a quarter, at most
// a third of its issue slots. A call reads every row of its weights once, 2 n k bytes, and 4 n k flops for every 8
// rows.
//
// Units. A warp takes the weights in units of 2 KB: 16 kBlocks rows (the m16 of mma.m16n8k16; tokens are its n8) and
// kUnitK columns. A lane's four 16-byte loads are rows g, g + 8 (g = lane / 4) and columns 8 t.. (t = lane % 4), so
// each is 8 values of k at the places where the instruction wants k = 2t, 2t + 1, 2t + 8, 2t + 9, and again; the rows
// of x are loaded with the same permutation, which the sum does not see. No shuffle, no transposition.
//
// Bytes in flight. cp.async into a ring of kStages units a warp; every lane reads back what it wrote itself, so the
// ring needs no barrier, and it is filled before wait_for_predecessor(): 16 warps x 3 x 2 KB = 96 KB a multiprocessor,
// about 4 us of streaming on the whole device. 64 registers and 107 KB let two such kernels live on a multiprocessor at
// once. The successor is let in when the last unit has been asked for, not before: then its ring fills while this
// kernel waits for its last bytes, adds its parts and ends, the time in which the memory would be idle.
//
// Split (stream-K). All units of a phase, tile after tile, are cut into as many equal runs as there are blocks; the
// warps of a block take them in turn. At the end of a tile the warps' sums meet in shared memory. Where a tile is split
// among blocks, each puts its part in scratch and counts up; whoever finds all others there adds them, in order of k
// whatever the order of arrival. A block begins with the later part of a tile and ends with the first part of another:
// so the parts it needs were put there long ago, and it mostly finds them without waiting or storing its own.
//
// Phases. ffn_up has two: the shared expert (known before the route is), then the rows of every distinct chosen expert.
// ffn_down has one, in which a tile's k is the shared expert's F followed by that of every chosen expert. A token that
// did not choose an expert enters its products as zeros: all columns of n8 are there anyway.
//
// Roundings. Sums in float32, rounded once. The score is multiplied onto the float32 sums of gate and up, where the CPU
// rounds h * score to bfloat16 first: by linearity the same up to that rounding, of at most 2^-8 of each input, 0.16 %
// in the mean, which in a sum over k of random signs is 0.16 % of the output's own size: as large as the output's
// rounding.
//
// Not chosen: weights in registers instead of the ring (a ring position must be a constant there, so the end of a
// tile is unrolled with it, and 64 bytes a thread in flight leave no registers for a second kernel on the
// multiprocessor); a block's ring of cp.async.bulk (a copy a row of 128 to 512 bytes, and barriers, for nothing
// gained).
#include <algorithm>

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

enum class Mode { linear, up, down };
template <Mode mode>
constexpr int kPhases = mode == Mode::up ? 2 : 1;

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
  // stream-K
  float* parts = nullptr;  // [2 phases][blocks][2][kOutputs]
  uint32_t* counters = nullptr;
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

// ---- a block's share of a phase

// Of the tiles, as many as there are blocks and what is left over of whole rounds are cut into equal runs of units, a run
// a block (all tiles, where there are fewer than blocks); then block i takes whole tiles i, i + blocks, ... 32 bits are
// enough: the host checks that units times blocks are.
struct Phase {
  int n_tiles = 0, split_tiles = 0;
  uint32_t n_blocks = 0, total = 0;  // of the split tiles: blocks that have any, and all units
  int begin = 0, end = 0;            // this block's run

  __device__ void split(int tiles, int units_a_tile) {
    const int grid = int(gridDim.x), rest = tiles % grid;
    n_tiles = tiles;
    split_tiles = tiles < grid ? tiles : rest ? grid + rest : 0;
    total = uint32_t(split_tiles * units_a_tile);
    n_blocks = min(gridDim.x, total);
    begin = first_of(blockIdx.x);
    end = first_of(blockIdx.x + 1);
  }
  __device__ int first_of(uint32_t block) const { return int(block >= n_blocks ? total : total * block / n_blocks); }
  __device__ int block_of(int unit) const { return int((uint32_t(unit + 1) * n_blocks - 1) / total); }
};

// Units [begin, end) of a tile, which are this block's.
struct Segment {
  int phase, tile, begin, end;
};

template <class V, Mode mode>
struct Kernel {
  const Args& a;
  const Chosen<V::kTokens>& chosen;
  const Phase* phases;  // in shared memory
  const int lane = int(threadIdx.x % 32), warp = int(threadIdx.x / 32), g = lane / 4, t = lane % 4;
  int units_a_tile = 1;  // the same in all phases
  uint4* ring;           // this lane's: [stage][kLoads], kThreads apart
  float* meeting;        // [kWarps][kOutputs]

  // Where a warp is in the block's units, of which it takes every kWarps-th.
  struct Place {
    Segment segment{};
    int unit = 0;             // of the segment's tile
    int which = -1, row = 0;  // its chosen expert (-1: shared), the tile's first row in that matrix
    int u = 0;                // the unit along that matrix's k
  };
  Place fetched;  // to be fetched next
  Place loaded;   // whose x is to be loaded next
  uint32_t x[V::kSteps][V::kColumns][V::kPerLoad / 2];  // of the unit to be multiplied next

  // ---- walking

  __device__ const Phase& phase(int p) const { return phases[mode == Mode::up ? p : 0]; }
  __device__ bool valid(const Segment& s) const { return s.tile < phase(s.phase).n_tiles; }
  __device__ Segment first_segment(int p) const {
    const Phase& f = phase(p);
    if (f.begin == f.end) return whole_tile(p, f.split_tiles + int(blockIdx.x));
    const int tile = f.begin / units_a_tile, first = tile * units_a_tile;
    return {p, tile, f.begin - first, min(units_a_tile, f.end - first)};
  }
  __device__ Segment next_segment(const Segment& s) const {
    const Phase& f = phase(s.phase);
    const int first = (s.tile + 1) * units_a_tile;
    if (s.tile >= f.split_tiles) return whole_tile(s.phase, s.tile + int(gridDim.x));
    if (first >= f.end) return whole_tile(s.phase, f.split_tiles + int(blockIdx.x));
    return {s.phase, s.tile + 1, 0, min(units_a_tile, f.end - first)};
  }
  // Behind the last tile the next phase begins.
  __device__ Segment whole_tile(int p, int tile) const {
    if (mode == Mode::up && p == 0 && tile >= phase(0).n_tiles) return first_segment(1);
    return {p, tile, 0, units_a_tile};
  }

  __device__ const Matrix& matrix(int which) const { return mode == Mode::linear || which < 0 ? a.shared : a.routed; }
  // Of a tile; in `down` a tile's rows are those of all its matrices.
  __device__ void locate(int p, int tile, int& which, int& row) const {
    which = -1;
    row = tile * V::kTileRows;
    if (mode == Mode::up && p == 1) {
      const int tiles = (a.routed.n + V::kTileRows - 1) / V::kTileRows;
      which = tile / tiles;
      row = (tile - which * tiles) * V::kTileRows;
    }
  }
  // Puts a place whose unit may lie behind its segment where it belongs.
  __device__ void settle(Place& at, bool new_segment) const {
    while (at.unit >= at.segment.end && valid(at.segment)) {
      at.unit -= at.segment.end;
      at.segment = next_segment(at.segment);
      at.unit += at.segment.begin;
      new_segment = true;
    }
    if (!valid(at.segment)) return;
    if (new_segment) {
      locate(at.segment.phase, at.segment.tile, at.which, at.row);
      at.u = at.unit;
    }
    if constexpr (mode == Mode::down)
      while (at.u >= matrix(at.which).units) at.u -= matrix(at.which).units, ++at.which;
  }
  __device__ void enter(Place& at, int p, int unit) const {
    at.segment = first_segment(p);
    at.unit = at.segment.begin + unit;
    settle(at, true);
  }
  __device__ void advance(Place& at) const {
    at.unit += kWarps;
    at.u += kWarps;
    settle(at, false);
  }

  // Starts the copy of the next unit into `stage`; a group of copies whether there is one or not.
  __device__ void fetch(int stage) {
    if (valid(fetched.segment)) {
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
  }

  // The x of the unit at `loaded`: kPerLoad values at a time of the shared expert's input or of a chosen expert's.
  __device__ void load_x() {
    const bool any = valid(loaded.segment);
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

  __device__ void multiply(float (&sums)[V::kBlocks][V::kColumns][4], int stage) {
    uint32_t now[V::kSteps][V::kColumns][V::kPerLoad / 2];
#pragma unroll
    for (int i = 0; i < V::kSteps * V::kColumns * V::kPerLoad / 2; ++i) (&now[0][0][0])[i] = (&x[0][0][0])[i];
    load_x();  // arrives while the next unit is waited for
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

  // v: output `o` of tile `of_tile`, complete. By whole warps.
  __device__ void store(int p, int of_tile, int o, float v) const {
    const int of_lane = o % 128 / 4, i = o % 4, column = o / 128 % V::kColumns, block = o / (128 * V::kColumns);
    const int token = 8 * column + 2 * (of_lane % 4) + i % 2;
    int row, which;
    locate(p, of_tile, which, row);
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

  // This block's part of output o of a split tile. True, in the whole warp, where v has become the sum of all parts.
  __device__ bool add_parts(int p, const Phase& f, int of_tile, int o, float& v) const {
    const int first = f.block_of(of_tile * units_a_tile), mine = int(blockIdx.x) - first;
    const int n_parts = f.block_of((of_tile + 1) * units_a_tile - 1) - first + 1;
    // A block has at most one tile that began before it and one that ends after it.
    auto part_of = [&](int i) {
      return a.parts + ((int64_t(p) * gridDim.x + first + i) * 2 + (i == 0)) * V::kOutputs + o;
    };
    uint32_t* counter = a.counters + (p * int(gridDim.x) + first) * (V::kOutputs / 32) + o / 32;
    uint32_t arrived = 0;
    if (lane == 0) arrived = load_acquire_gpu(counter);
    arrived = __shfl_sync(kAllLanes, arrived, 0);
    if (int(arrived) != n_parts - 1) {
      __stcg(part_of(mine), v);
      __syncwarp();  // with the release that follows: the whole warp's parts are there for who sees the count
      if (lane == 0) arrived = fetch_add_gpu(counter, 1);
      arrived = __shfl_sync(kAllLanes, arrived, 0);
      if (int(arrived) != n_parts - 1) return false;
    }
    __syncwarp();
    if (lane == 0) *counter = 0;
    float sum = 0;
    for (int i = 0; i < n_parts; ++i) sum += i == mine ? v : __ldcg(part_of(i));
    v = sum;
    return true;
  }

  // All threads. turn: tiles this block has ended before; the work goes round among the warps.
  __device__ void end_tile(const float (&sums)[V::kBlocks][V::kColumns][4], int p, const Phase& f, int of_tile,
                           bool whole, int turn) {
    __syncthreads();  // the tile before has been read
#pragma unroll
    for (int b = 0; b < V::kBlocks; ++b)
#pragma unroll
      for (int c = 0; c < V::kColumns; ++c)
        *reinterpret_cast<float4*>(meeting + warp * V::kOutputs + (b * V::kColumns + c) * 128 + 4 * lane) =
            make_float4(sums[b][c][0], sums[b][c][1], sums[b][c][2], sums[b][c][3]);
    __syncthreads();
    constexpr int kTurns = kThreads / V::kOutputs;
    const int o = int(threadIdx.x) - turn % kTurns * V::kOutputs;
    if (o < 0 || o >= V::kOutputs) return;
    float v = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) v += meeting[w * V::kOutputs + o];
    if (whole || add_parts(p, f, of_tile, o, v)) store(p, of_tile, o, v);
  }

  __device__ void run(int stages_filled) {
    for (int i = stages_filled; i < V::kStages; ++i) fetch(i);
    enter(loaded, 0, warp);
    load_x();
    int stage = 0, turn = 0;
    Segment s = first_segment(0);
    for (int unit = s.begin + warp; valid(s); ++turn) {
      float sums[V::kBlocks][V::kColumns][4] = {};
      for (; unit < s.end; unit += kWarps) {
        multiply(sums, stage);
        fetch(stage);
        if (!valid(fetched.segment)) let_successor_start();
        stage = stage + 1 == V::kStages ? 0 : stage + 1;
      }
      end_tile(sums, s.phase, phase(s.phase), s.tile, s.begin == 0 && s.end == units_a_tile, turn);
      unit -= s.end;
      s = next_segment(s);
      unit += s.begin;
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
  __shared__ Phase phases[kPhases<mode>];
  uint4* ring = dynamic_shared<uint4>();
  Kernel<V, mode> kernel{a, chosen, phases};
  kernel.ring = ring + threadIdx.x;
  kernel.meeting = reinterpret_cast<float*>(ring + V::kStages * V::kLoads * kThreads);
  const int tiles = (a.shared.n + V::kTileRows - 1) / V::kTileRows;
  kernel.units_a_tile = a.shared.units;
  if constexpr (mode == Mode::down) {  // the route was complete before the kernel before this one passed its wait (ops.h)
    if (threadIdx.x < 32) find_chosen(a, chosen);
    __syncthreads();
    kernel.units_a_tile += chosen.n * a.routed.units;
  }
  if (threadIdx.x < kPhases<mode>) phases[threadIdx.x].split(threadIdx.x == 0 ? tiles : 0, kernel.units_a_tile);
  __syncthreads();
  kernel.enter(kernel.fetched, 0, kernel.warp);
  int filled = 0;
  for (; filled < V::kStages && (mode != Mode::up || kernel.valid(kernel.fetched.segment)); ++filled) kernel.fetch(filled);
  wait_for_predecessor();
  if constexpr (mode == Mode::up) {
    if (threadIdx.x < 32) find_chosen(a, chosen);
    __syncthreads();  // and nobody looks at the second phase any more
    if (threadIdx.x == 0)
      phases[1].split(chosen.n * ((a.routed.n + V::kTileRows - 1) / V::kTileRows), kernel.units_a_tile);
    __syncthreads();
    // Of the second phase nothing was known: its walk begins now, with the turn that the first one ended with.
    if (kernel.fetched.segment.phase == 1) kernel.enter(kernel.fetched, 1, kernel.fetched.unit);
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
          .units = int((spec.k + V::kUnitK - 1) / V::kUnitK)};
}

template <class V, Mode mode>
void start(const OpContext& ctx, Args a, const PackedWeight& shared, const PackedWeight* routed) {
  Scratch scratch(ctx.work);
  a.parts = scratch.take_array<float>(int64_t(2) * ctx.gpu.n_sms * 2 * V::kOutputs);
  if (ctx.measuring()) return;
  a.shared = matrix<V>(shared);
  if (routed) a.routed = matrix<V>(*routed);
  a.counters = ctx.gpu.counters;
  L4_CHECK(2 * ctx.gpu.n_sms * (V::kOutputs / 32) <= Gpu::kCounters, ctx.gpu.n_sms, " multiprocessors");
  auto units = [](const Matrix& m) { return int64_t(m.units) * ((m.n + V::kTileRows - 1) / V::kTileRows); };
  L4_CHECK((units(a.shared) + a.n_slots * units(a.routed)) * ctx.gpu.n_sms < int64_t(1) << 32, shared.spec.name,
           ": more units than 32 bits count");
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
