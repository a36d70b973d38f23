// Products of at most 16 rows: decode. The bytes of the weights are all that counts: 13.4 (H100) or 19.6 (H200) of them
// come to a multiprocessor each clock. A call reads every row of its weights once, 2 n k bytes, and 4 n k flops for every
// 8 rows.
//
// Two roles. One warp fetches, with the copy engine: stages of 32 KB, 16 or 32 rows of the weights by 1024 or 512 columns, into
// a ring that is filled before wait_for_predecessor(): 192 KB a multiprocessor, 6 to 8 us of streaming on the whole device,
// while small kernels before this one work. Eight warps multiply, each an eighth of every stage, 120 instructions for 4 KB;
// what they wait for (x, each other at the end of a tile) does not hold up the fetching, as long as the ring lasts.
//
// Operands. A stage lies in slabs of 128 bytes of every row, swizzled. A warp has two slabs of 16 rows (the m16 of
// mma.m16n8k16; tokens are its n8), or one of 32. A lane's 16-byte loads are rows g, g + 8 (g = lane / 4) and chunks 2 t,
// 2 t + 1 (t = lane % 4), each 8 values of k at the places where the instruction wants k = 2t, 2t + 1, 2t + 8, 2t + 9, and
// again; x is loaded with the same permutation, which the sum does not see. Eight lanes of two rows so meet eight different
// chunks: no shuffle, no transposition, no bank twice. x comes through L1, a stage ahead.
//
// Items. Tiles of 16 or 32 rows over all of k are the items of work. Equal shares do not end together: of 132 multiprocessors
// the slowest streams 5 % slower than the mean, and a block may start late. So blocks draw items (Work below). Neighbouring
// tiles are read at the same time. At the end of a tile the warps' sums meet in shared memory, and one warp after another
// adds them, while the others go on. Where there are hardly more tiles than blocks, tiles are cut along k: each piece's part
// goes to scratch and is counted, and whoever finds all others there adds them in order of k. Bits depend neither on who did
// what nor on when.
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
// One block a multiprocessor: two that met on one, with another left empty, took 1.4 times as long. The successor is let in
// when the last stage has been asked for. What is to be summed over ranks is sent to them at the end of each tile.
//
// Not chosen: weights in registers instead of the ring (a ring position must be a constant there, so the end of a tile is
// unrolled with it). Lost (NOTES.md has the figures): every warp its own ring by cp.async, which kept 16 warps busy with
// addresses; two blocks a multiprocessor; equal runs of units a block (stream-K) or equal numbers of tiles; every tile in
// pieces; tiles of 8 rows; weights to L2 when the ring is full.
#include <algorithm>
#include <climits>

#include "kernels/cuda/device/math.h"
#include "kernels/cuda/device/peer.h"
#include "kernels/cuda/device/piece.h"
#include "kernels/cuda/device/shared.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/matmul/dispatch.h"
#include "kernels/cuda/matmul/silu.h"
#include "kernels/cuda/matmul/small_m.h"
#include "kernels/cuda/ptx/barrier.h"
#include "kernels/cuda/ptx/load.h"
#include "kernels/cuda/ptx/mma.h"
#include "kernels/cuda/ptx/pdl.h"
#include "kernels/cuda/ptx/tma.h"
#include "kernels/cuda/tensor_map.h"

namespace l4::cuda {

namespace {
constexpr int kWarps = 8;  // that multiply; one more fetches
constexpr int kThreads = 32 * (kWarps + 1);
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kSlabBytes = 128;  // of a row
constexpr int kBuffers = 2;                        // of sums on their way from a tile's warps to the one that adds them
constexpr int kQueue = 16;                         // items of a block that are known: more than fit a ring
constexpr int kInFlight = 2;                       // stages that have been asked for and are not there: 8.6 MB in all
enum class Mode { linear, up, down };

// How 16 bytes of a row of weights become operands. Another format is another of these.
struct Bf16Weights {
  static constexpr int kPerLoad = 8;  // values in 16 bytes
  // Operand a of the `i`-th of kPerLoad / 4 instructions: from 16 bytes of row g and of row g + 8, values 4 i.. .
  __device__ static void operand(const uint32_t (&low)[4], const uint32_t (&high)[4], int i, uint32_t (&a)[4]) {
    a[0] = low[2 * i], a[1] = high[2 * i], a[2] = low[2 * i + 1], a[3] = high[2 * i + 1];
  }
};

// Groups of 8 tokens, rows of a tile, slabs of a stage, stages of the ring.
template <class Weights_, int kColumns_, int kTileRows_, int kSlabs_, int kStages_>
struct Variant {
  using Weights = Weights_;
  static constexpr int kColumns = kColumns_, kTileRows = kTileRows_, kSlabs = kSlabs_, kStages = kStages_;
  static_assert(kStages + 2 < kQueue);
  static constexpr int kTokens = 8 * kColumns, kPerLoad = Weights::kPerLoad;
  static constexpr int kSlabK = kSlabBytes / 16 * kPerLoad, kStageK = kSlabs * kSlabK;
  static constexpr int kStageBytes = kSlabs * kTileRows * kSlabBytes;
  static constexpr int kUnits = kSlabs / kWarps;  // slabs of a warp and stage
  static constexpr int kBlocks = kTileRows / 16;         // of rows
  static constexpr int kParts = kColumns * kBlocks;      // of a tile's outputs: 16 rows by 8 tokens, 4 of each lane
  static constexpr size_t kMeetingBytes = size_t(kBuffers) * kWarps * kParts * 32 * sizeof(float4);
};

struct Matrix {
  int64_t k = 0;
  int n = 0;
  int stages = 0;  // along k
  int tiles = 0;   // of rows
};

struct Args {
  CUtensorMap shared_map, routed_map;  // linear: shared alone; the experts' rows one after another
  Matrix shared, routed;
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
  PeerLinks peers;  // of more than one rank: y is sent to them, and not stored
  const uint32_t* ready = nullptr;  // of each row of x, when it is there; null: when the predecessor has ended
  int ring = 0;  // stages
  // items of work
  int pieces = 1;               // that a tile is cut into
  float4* parts = nullptr;      // [tiles][pieces][kParts][32]
  uint32_t* arrived = nullptr;  // [tiles][kParts], of the pieces; zero between launches
  uint32_t* ticket = nullptr;   // the next item that no block has yet; zero between launches
};

// ---- who chose what: the same in every block

template <int kTokens>
struct Chosen {
  int n;                                // distinct experts of this rank
  int16_t expert[kSmallMSlots];         // ascending
  int16_t slot[kSmallMSlots][kTokens];  // token's slot in act_routed; -1: it did not choose this one
};

// The expert of this lane's slot.
__device__ int choice(const Args& a) {
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
  if (first) chosen.expert[rank] = int16_t(e);
  if (here) chosen.slot[rank][lane / a.top_k] = int16_t(lane);
  if (lane == 0) chosen.n = __popc(firsts);
  __syncwarp();
}

// ---- who does what

// Tiles of rows, those of the shared expert first, are cut along k into pieces: the items. Block i begins with items i,
// i + blocks, ..., as many as fill its ring, and then takes the next that nobody has. What a block does changes from run to
// run, what an item and a tile's sum are does not.
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
  Mbarrier handed[kBuffers], taken[kBuffers];    // sums: kWarps hand them over, one warp a part takes them
  int queue[kQueue];                             // the block's items, by their turn
  Work work;
  Chosen<V::kTokens> chosen;
  uint32_t touched[32 * kWarps];                 // nobody reads it: where touch() puts what it loads
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

// ---- the thread that fetches

template <class V, Mode mode>
struct Fetcher {
  const Args& a;
  Shared<V>& s;
  unsigned char* ring;
  const uint64_t read_once = cache_evict_first();  // code, activations and pages stay in L2
  Turn at, in_flight;    // the next stage to ask for; the oldest that may not be there
  int fetched = 0;       // stages, in all
  int turn = 0;          // of the item at hand, or of the next
  Item now{};            // its stages from now.begin on are still to be fetched
  bool open = false, ended = false, asked = false;
  uint32_t drawn = 0;    // a ticket that may be on its way

  __device__ int n_given() const { return s.work.turns * int(gridDim.x); }
  __device__ int n_items() const { return s.work.n_tiles * s.work.pieces; }
  __device__ void ask() {
    asked = true;
    drawn = fetch_add_relaxed_gpu(a.ticket, 1);
  }
  __device__ int index() {
    if (turn < s.work.turns) return int(blockIdx.x) + turn * int(gridDim.x);
    if (!asked) ask();
    return n_given() + int(drawn);
  }

  // How much of the work is known. The shared expert's part is before the route; n_items() counts no more then.
  enum class Known { shared, all };

  // Fetches until `most` stages have been asked for, or what is known is at its end. may_draw: who drew from the same tickets
  // before has ended.
  __device__ void until(int most, Known known, bool may_draw) {
    while (!ended && fetched < most) {
      if (open && now.begin == now.end) open = false, ++turn;
      if (!open) {
        const bool draw = turn >= s.work.turns;
        if (draw && !may_draw) return;
        const int n = n_items(), i = draw && n <= n_given() ? kNone : index();
        if (i >= n && mode == Mode::up && known == Known::shared) return;  // it may be a chosen expert's
        asked = false;
        if (i >= n) return end(draw && i == n + int(gridDim.x) - 1, may_draw);
        now = item(s.work, i);
        if (mode == Mode::down && known == Known::shared) now.end = INT_MAX;  // not known yet
        open = true;
        s.queue[turn % kQueue] = i;
        if (may_draw && turn + 1 >= s.work.turns && n_given() < n) ask();
      }
      if (mode == Mode::down && known == Known::shared && now.begin >= a.shared.stages) return;
      fetch();
      ++now.begin;
    }
  }

  // A late kernel: launch.h.
  __device__ static void let_in() {
    wait_for_predecessor();  // again, or where x was there before that one's end
    let_successor_start();
  }

 private:
  __device__ void fetch() {
    if (fetched >= kInFlight) {
      mbarrier_wait(&s.full[in_flight.stage], in_flight.parity);
      in_flight.next(a.ring);
    }
    mbarrier_wait(&s.empty[at.stage], at.parity ^ 1);
    const Place p = place<mode>(a, now.tile, now.begin);
    const bool routed = mode != Mode::linear && p.which >= 0;
    const int row = first_row<V, mode>(a, now.tile, p.which) + (routed ? s.chosen.expert[p.which] * a.routed.n : 0);
    mbarrier_arrive_expect_tx(&s.full[at.stage], V::kStageBytes);
    tensor_load_hint(ring + at.stage * V::kStageBytes, routed ? &a.routed_map : &a.shared_map, &s.full[at.stage],
                     read_once, 0, row, p.stage * V::kSlabs);
    at.next(a.ring);
    ++fetched;
  }
  // A block draws until it draws one too many, so the last ticket of all is known; its owner makes the count zero again.
  __device__ void end(bool last_ticket, bool let) {
    ended = true;
    if (last_ticket) *a.ticket = 0;
    if (let) let_in();
    mbarrier_wait(&s.empty[at.stage], at.parity ^ 1);
    s.queue[turn % kQueue] = kNone;
    mbarrier_arrive(&s.full[at.stage]);
  }
};

// ---- the warps that multiply

template <class V, Mode mode>
struct Multiplier {
  const Args& a;
  Shared<V>& s;
  const unsigned char* ring;
  float4* meeting;  // [kBuffers][kWarps][kParts][32]
  const int lane = int(threadIdx.x % 32), warp = int(threadIdx.x / 32), g = lane / 4, t = lane % 4;
  Turn at;

  using X = uint32_t[V::kUnits][2][V::kColumns][V::kPerLoad / 2];  // of chunks 2 t and 2 t + 1 of each slab

  // Where this lane's x of a stage lies, by columns: k that is left from there on, none where there is no token.
  struct From {
    const bf16* x[V::kColumns];
    int left[V::kColumns];
    int until;  // the stage of the tile with which another matrix begins
  };
  __device__ void find_x(From& f, int tile, int stage) const {
    const Place p = place<mode>(a, tile, stage);
    const bool routed = mode != Mode::linear && p.which >= 0;
    const int k = int(routed ? a.routed.k : a.shared.k);
    const int first = p.stage * V::kStageK + warp * V::kSlabK + 2 * t * V::kPerLoad;
    f.until = mode != Mode::down ? INT_MAX : stage - p.stage + (routed ? a.routed : a.shared).stages;
#pragma unroll
    for (int c = 0; c < V::kColumns; ++c) {
      const int token = 8 * c + g;
      const bf16* x = a.x;
      int row = token < a.n_tokens ? token : -1;
      if (routed && row >= 0) {
        const int slot = s.chosen.slot[p.which][token];
        if (mode == Mode::down) x = a.x_routed;
        if (mode == Mode::down || slot < 0) row = slot;
      }
      f.x[c] = x + int64_t(row) * k + first;
      f.left[c] = row < 0 ? 0 : k - first;
    }
  }
  // kPerLoad values at a time, and on to the next stage.
  __device__ void load_x(X& x, From& f) const {
#pragma unroll
    for (int c = 0; c < V::kColumns; ++c) {
#pragma unroll
      for (int u = 0; u < V::kUnits; ++u) {
        constexpr int kNext = kWarps * V::kSlabK;
        const bool inside = f.left[c] > u * kNext;
#pragma unroll
        for (int l = 0; l < 2 * V::kPerLoad / 8; ++l)
          words(inside ? *reinterpret_cast<const uint4*>(f.x[c] + u * kNext + 8 * l) : uint4{},
                &x[u][l * 8 / V::kPerLoad][c][l * 4 % (V::kPerLoad / 2)]);
      }
      f.x[c] += V::kStageK;
      f.left[c] -= V::kStageK;
    }
  }
  __device__ static void words(const uint4& v, uint32_t* to) {
    to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
  }

  // Units have sums of their own: a chain of products is half as long.
  using Sums = float[V::kUnits][V::kBlocks][V::kColumns][4];

  __device__ void multiply(Sums& sums, const X& x) const {
#pragma unroll
    for (int u = 0; u < V::kUnits; ++u) {
      const unsigned char* slab =
          ring + at.stage * V::kStageBytes + ((warp + u * kWarps) * V::kTileRows + g) * kSlabBytes;
#pragma unroll
      for (int b = 0; b < V::kBlocks; ++b)
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const unsigned char* chunk = slab + 16 * b * kSlabBytes + ((2 * t + j) ^ g) * 16;  // Swizzle::bytes128
          uint32_t low[4], high[4];
          words(*reinterpret_cast<const uint4*>(chunk), low);
          words(*reinterpret_cast<const uint4*>(chunk + 8 * kSlabBytes), high);
#pragma unroll
          for (int q = 0; q < V::kPerLoad / 4; ++q) {
            uint32_t w[4];
            V::Weights::operand(low, high, q, w);
#pragma unroll
            for (int c = 0; c < V::kColumns; ++c)
              mma_m16n8k16(sums[u][b][c], w, {x[u][j][c][2 * q], x[u][j][c][2 * q + 1]});
          }
        }
    }
  }

  // ---- the end of a tile

  // By a whole warp: v[0], v[1] are row g of 16 with tokens 2 t, 2 t + 1, v[2], v[3] row g + 8.
  __device__ void store(int tile, int part, float (&v)[4]) const {
    const int which = place<mode>(a, tile, 0).which;
    const Matrix& m = mode == Mode::up && which >= 0 ? a.routed : a.shared;
    const int row = first_row<V, mode>(a, tile, which) + 16 * (part / V::kColumns) + g;
    if (mode != Mode::up && a.bias) {
      for (int i = 0; i < 4; ++i)
        if (row + i / 2 * 8 < m.n) v[i] += a.bias[row + i / 2 * 8];
    }
    if (mode != Mode::up && a.peers.size > 1) return send(part, row, v);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int token = 8 * (part % V::kColumns) + 2 * t + i;
      if (token >= a.n_tokens) return;
      if constexpr (mode == Mode::up) {  // rows g and g + 8 are a gate and its up
        const int slot = which < 0 ? token : s.chosen.slot[which][token];
        if (slot < 0 || row >= m.n) continue;
        const float score = which < 0 ? 1.0f : a.score[slot];
        const int64_t f = m.n / 2, j = row / 16 * 8 + row % 8;
        bf16* act = static_cast<bf16*>(which < 0 ? a.y : a.y_routed);
        act[slot * f + j] =
            rounded<bf16>(round_to<bf16>(silu(round_to<bf16>(v[i] * score))) * round_to<bf16>(v[i + 2] * score));
      } else {
        write(token, row, v[i]);
        write(token, row + 8, v[i + 2]);
      }
    }
  }
  __device__ void write(int token, int row, float v) const {
    if (row >= a.shared.n) return;
    const int64_t to = int64_t(token) * a.shared.n + row;
    if (a.y_is_f32)
      static_cast<float*>(a.y)[to] = a.round ? round_to<bf16>(v) : v;
    else
      static_cast<bf16*>(a.y)[to] = rounded<bf16>(v);
  }

  // To the other ranks' inboxes of the sum that comes next, two rows a word: so their parts are there when it begins, or
  // nearly. The exchange before it has ended: it is older than this kernel's predecessor, or that itself.
  __device__ void send(int part, int row, const float (&v)[4]) const {
    PeerExchange peers(a.peers);
    float next[4];  // row + 1
#pragma unroll
    for (int i = 0; i < 4; ++i) next[i] = __shfl_down_sync(kAllLanes, v[i], 4);
    if (g % 2) return;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int token = 8 * (part % V::kColumns) + 2 * t + i % 2, first = row + i / 2 * 8;
      if (token < a.n_tokens && first < a.shared.n)
        peers.push_to_all((int64_t(token) * a.shared.n + first) / 2, narrow(v[i], next[i]));
    }
  }

  __device__ static void add(float (&v)[4], const float4& w) {
    v[0] += w.x, v[1] += w.y, v[2] += w.z, v[3] += w.w;
  }

  // This block's sums of a part of a tile of several pieces. True, in the whole warp, where v has become the sum of all
  // pieces', in their order whoever comes last.
  __device__ bool add_pieces(const Item& i, int part, float (&v)[4]) const {
    const int n = s.work.pieces;
    float4* parts = a.parts + (int64_t(i.tile) * n * V::kParts + part) * 32 + lane;
    uint32_t* counter = a.arrived + i.tile * V::kParts + part;
    __stcg(parts + i.piece * V::kParts * 32, make_float4(v[0], v[1], v[2], v[3]));
    __syncwarp();  // with the release that follows: the whole warp's are there for who sees the count
    uint32_t arrived = 0;
    if (lane == 0) arrived = fetch_add_gpu(counter, 1);
    arrived = __shfl_sync(kAllLanes, arrived, 0);
    if (int(arrived) != n - 1) return false;
    if (lane == 0) *counter = 0;
    for (float& sum : v) sum = 0;
    for (int p = 0; p < n; ++p) add(v, __ldcg(parts + p * V::kParts * 32));
    return true;
  }

  // Hands the warp's sums over. Each part's are added by another warp each time.
  __device__ void end_item(const Sums& sums, const Item& i, int turn) {
    const int buffer = turn % kBuffers;
    const uint32_t parity = turn / kBuffers % 2;
    mbarrier_wait(&s.taken[buffer], parity ^ 1);
    float4* from = meeting + buffer * kWarps * V::kParts * 32 + lane;
#pragma unroll
    for (int p = 0; p < V::kParts; ++p) {
      float v[4] = {};
#pragma unroll
      for (int u = 0; u < V::kUnits; ++u)
#pragma unroll
        for (int j = 0; j < 4; ++j) v[j] += sums[u][p / V::kColumns][p % V::kColumns][j];
      from[(warp * V::kParts + p) * 32] = make_float4(v[0], v[1], v[2], v[3]);
    }
    __syncwarp();
    if (lane == 0) mbarrier_arrive(&s.handed[buffer]);
    const int part = (warp + kWarps - turn * V::kParts % kWarps) % kWarps;
    if (part >= V::kParts) return;
    mbarrier_wait(&s.handed[buffer], parity);
    float v[4] = {};
#pragma unroll
    for (int w = 0; w < kWarps; ++w) add(v, from[(w * V::kParts + part) * 32]);
    __syncwarp();
    if (lane == 0) mbarrier_arrive(&s.taken[buffer]);
    if (s.work.pieces == 1 || add_pieces(i, part, v)) store(i.tile, part, v);
  }

  __device__ void run() {
    for (int turn = 0;; ++turn) {
      mbarrier_wait(&s.full[at.stage], at.parity);
      const int index = s.queue[turn % kQueue];
      if (index == kNone) return;
      const Item i = item(s.work, index);
      Sums sums = {};
      X x, next;
      From from;
      find_x(from, i.tile, i.begin);
      load_x(next, from);
#pragma unroll 2
      for (int stage = i.begin; stage < i.end; ++stage) {
#pragma unroll
        for (int w = 0; w < int(sizeof(X) / sizeof(uint32_t)); ++w) (&x[0][0][0][0])[w] = (&next[0][0][0][0])[w];
        if (stage + 1 < i.end) {
          if (stage + 1 == from.until) find_x(from, i.tile, stage + 1);
          load_x(next, from);
        }
        if (stage > i.begin) mbarrier_wait(&s.full[at.stage], at.parity);
        multiply(sums, x);
        __syncwarp();
        if (lane == 0) mbarrier_arrive(&s.empty[at.stage]);
        at.next(a.ring);
      }
      if (turn == 0) wait_for_predecessor();  // what it still uses may be where our results go
      end_item(sums, i, turn);
    }
  }

  // Until all of x is there, of which the predecessor does more than that.
  __device__ void wait_for_rows() const {
    if (threadIdx.x < uint32_t(a.n_tokens)) {
      while (load_acquire_gpu(a.ready + threadIdx.x) == 0) {
      }
    }
    barrier_sync(1, 32 * kWarps);
  }

  // Brings x into L1 at once, where it has room there: otherwise each of a warp's first stages waits for L2 in turn.
  __device__ void touch() const {
    constexpr int64_t kMost = 16 << 10, kLine = 128;
    uint32_t words = 0;  // of all loads, so that they are under way together
    auto all = [&](const bf16* from, int64_t n) {
      const int64_t bytes = n * int64_t(sizeof(bf16)), i = int64_t(threadIdx.x) * kLine;
      if (bytes <= kMost && i < bytes)
        words ^= *reinterpret_cast<const uint32_t*>(reinterpret_cast<const char*>(from) + i);
    };
    if (a.peers.size > 1) words = a.peers.state->inbox;
    all(a.x, a.n_tokens * a.shared.k);
    if (mode == Mode::down && a.n_slots > 0) all(a.x_routed, a.n_slots * a.routed.k);
    s.touched[threadIdx.x] = words;
  }
};

template <class V, Mode mode>
__global__ void __maxnreg__(V::kColumns == 1 ? 88 : 128)  // 88 leave room for a block of norm.cu on each quarter of the SM
    small_m_kernel(const __grid_constant__ Args a) {
  __shared__ Shared<V> s;
  unsigned char* ring = dynamic_shared();
  const bool fetches = threadIdx.x >= 32 * kWarps, one = threadIdx.x == 32 * kWarps;
  using Fetch = Fetcher<V, mode>;
  Fetch fetcher{a, s, ring};
  // What of the work is known before the route is.
  constexpr auto known = mode == Mode::up ? Fetch::Known::shared : Fetch::Known::all;
  auto divide = [&] {
    Work& work = s.work;
    work.n_tiles = a.shared.tiles + (mode == Mode::up ? s.chosen.n * a.routed.tiles : 0);
    work.stages = a.shared.stages + (mode == Mode::down ? s.chosen.n * a.routed.stages : 0);
    work.pieces = min(a.pieces, work.stages);
    const int least = work.stages / work.pieces;
    work.turns = (a.ring + least - 1) / least;
  };
  if (fetches) {
    // In down the route was complete before the kernel before this one passed its wait (ops.h).
    const int e = mode == Mode::down ? choice(a) : 0;
    if (one) {
      for (int i = 0; i < a.ring; ++i) mbarrier_init(&s.full[i], 1), mbarrier_init(&s.empty[i], kWarps);
      for (int i = 0; i < kBuffers; ++i) mbarrier_init(&s.handed[i], kWarps), mbarrier_init(&s.taken[i], V::kParts);
      mbarrier_init_fence();
      fence_proxy_async();
      s.chosen.n = 0;
      divide();
      if (mode != Mode::down)
        fetcher.until(kInFlight, known, false);
      else if (a.pieces == 1)
        fetcher.until(kInFlight, Fetch::Known::shared, false);
    }
    __syncwarp();
    if constexpr (mode == Mode::down) {
      find_chosen(a, e, s.chosen);
      if (one) {
        divide();
        fetcher.now.end = item(s.work, int(blockIdx.x)).end;
      }
    }
  }
  __syncthreads();
  if (!fetches) {
    Multiplier<V, mode> multiplier{a, s, ring, reinterpret_cast<float4*>(ring + a.ring * V::kStageBytes)};
    if (a.ready)
      multiplier.wait_for_rows();
    else
      wait_for_predecessor();
    multiplier.touch();
    return multiplier.run();
  }
  if (!a.ready) {
    if (one) fetcher.until(a.ring, known, false);
    __syncwarp();
    wait_for_predecessor();
  }
  if constexpr (mode == Mode::up) {
    if (one) fetcher.until(INT_MAX, known, true);
    __syncwarp();
    wait_for_predecessor();
    find_chosen(a, choice(a), s.chosen);
    if (one) s.work.n_tiles += s.chosen.n * a.routed.tiles;
  }
  if (!one) return;
  if (fetcher.ended) fetcher.let_in();
  fetcher.until(INT_MAX, Fetch::Known::all, true);
}

// ---- host

// Two blocks on one SM would leave another without any, so each has more than half of an SM's shared memory.
using Few = Variant<Bf16Weights, 1, 16, 16, 6>;    // 1..4 tokens: stages of 16 x 1024, 32 KB
using Eight = Variant<Bf16Weights, 1, 32, 8, 6>;     // 5..8: 32 x 512, so that x is read once for 32 rows
using Sixteen = Variant<Bf16Weights, 2, 32, 8, 5>;

// Beside attention, whose blocks leave late, there is no more than that.
constexpr size_t kHalfAndMore = kHalfShared + kHalfSharedStep;
template <class V>
constexpr size_t kStaticBytes = (sizeof(Shared<V>) + 1023) / 1024 * 1024;  // dynamic_shared() is aligned
template <class V>
constexpr int kSmallRing = int((kHalfAndMore - kStaticBytes<V> - V::kMeetingBytes) / V::kStageBytes);

template <class V>
Matrix matrix(const PackedWeight& w) {
  const LinearSpec& spec = w.spec;
  return {.k = spec.k,
          .n = int(spec.n),
          .stages = int((spec.k + V::kStageK - 1) / V::kStageK),
          .tiles = int((spec.n + V::kTileRows - 1) / V::kTileRows)};
}
// [n, k] as slabs: 128 bytes of all rows, then the next. Beyond k and n it reads zeros.
template <class V>
CUtensorMap slabs(const PackedWeight& w) {
  const LinearSpec& spec = w.spec;
  L4_CHECK(spec.k % V::kSlabK == 0, spec.name, ": ", spec.k, " columns");
  const int64_t rows = spec.n * spec.n_experts, row_bytes = spec.k * 16 / V::kPerLoad;
  return tensor_map(w.data.data(), DType::u8, {{kSlabBytes, rows, spec.k / V::kSlabK}}, {{row_bytes, kSlabBytes}},
                    {{kSlabBytes, V::kTileRows, V::kSlabs}}, Swizzle::bytes128);
}

template <class V, Mode mode>
void start(const OpContext& ctx, Args a, const PackedWeight& shared, const PackedWeight* routed) {
  // Tiles are cut only where there are hardly as many as blocks.
  constexpr int64_t kItemsABlock = 2;
  a.shared = matrix<V>(shared);
  if (routed) a.routed = matrix<V>(*routed);
  // At most: how many experts are chosen is known on the device.
  const int64_t chosen = routed ? std::min(a.n_slots, a.n_experts) : 0;
  const int64_t tiles = a.shared.tiles + (mode == Mode::up ? chosen * a.routed.tiles : 0);
  const int64_t stages = a.shared.stages + (mode == Mode::down ? chosen * a.routed.stages : 0);
  const int64_t items = kItemsABlock * ctx.gpu.n_sms;
  a.pieces = int(std::clamp<int64_t>((items + tiles / 2) / tiles, 1, stages));
  // A product that does not follow a norm follows attention.
  const bool beside_attention = mode == Mode::linear && !a.ready && kSmallRing<V> > kInFlight;
  a.ring = beside_attention ? kSmallRing<V> : V::kStages;
  const size_t bytes = size_t(a.ring) * V::kStageBytes + V::kMeetingBytes;
  Scratch scratch(ctx.work);
  if (a.pieces > 1) a.parts = scratch.take_array<float4>(tiles * a.pieces * V::kParts * 32);
  if (ctx.measuring()) return;
  // Of its own where it may draw while the kernel before the predecessor still does.
  a.ticket = ctx.gpu.tickets + (mode == Mode::down ? 3 : mode == Mode::up ? 2 : a.ready ? 1 : 0);
  a.arrived = ctx.gpu.counters;
  L4_CHECK(a.pieces == 1 || tiles * V::kParts <= Gpu::kCounters, tiles, " tiles");
  L4_CHECK(tiles * a.pieces < INT_MAX / 2, shared.spec.name, ": ", tiles, " tiles");
  a.shared_map = slabs<V>(shared);
  if (routed) a.routed_map = slabs<V>(*routed);
  launch({.grid = unsigned(ctx.gpu.n_sms),
          .block = kThreads,
          .shared_bytes = std::max(bytes, kHalfAndMore - kStaticBytes<V>),
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

// x where it is OpContext::published.
void take_x(Args& a, const OpContext& ctx, const View& x) {
  a.x = data<bf16>(x);
  if (ctx.published && ctx.published == x.data) a.ready = ctx.gpu.rows_ready;
  L4_CHECK(!a.ready || (a.n_tokens <= Gpu::kPublishedRows && a.peers.size == 1));  // the number of the inbox is not there
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

bool small_m_linear(const OpContext& ctx, const View& x, const PackedWeight& w, const View& y, DType round_to,
                    const PeerLinks* peers) {
  Args a;
  a.n_tokens = int(x.elements() / w.spec.k);
  if (w.spec.bias) a.bias = static_cast<const float*>(w.bias.data());
  a.y_is_f32 = y.dtype == DType::f32;
  a.y = a.y_is_f32 ? static_cast<void*>(data<float>(y)) : data<bf16>(y);
  a.round = round_to == DType::bf16;
  if (peers && y.dtype == DType::bf16) a.peers = *peers;
  take_x(a, ctx, x);
  start<Mode::linear>(ctx, a, w, nullptr);
  return a.peers.size > 1;
}

void small_m_ffn_up(const OpContext& ctx, const FfnUpArgs& args) {
  Args a;
  a.n_tokens = int(args.h.rows());
  take_x(a, ctx, args.h);
  a.y = data<bf16>(args.act_shared);
  if (args.experts) {
    a.y_routed = data<bf16>(args.act_routed);
    take_route(a, args.route, args.first_expert, *args.experts);
  }
  start<Mode::up>(ctx, a, *args.shared, args.experts);
}

bool small_m_ffn_down(const OpContext& ctx, const FfnDownArgs& args, const View& y, const PeerLinks* peers) {
  Args a;
  a.x = data<bf16>(args.act_shared);
  a.n_tokens = int(y.rows());
  a.y = data<bf16>(y);
  if (args.experts) {
    a.x_routed = data<bf16>(args.act_routed);
    take_route(a, args.route, args.first_expert, *args.experts);
  }
  if (peers) a.peers = *peers;
  start<Mode::down>(ctx, a, *args.shared, args.experts);
  return a.peers.size > 1;
}

}  // namespace l4::cuda
