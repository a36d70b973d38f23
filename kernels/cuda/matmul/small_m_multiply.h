// The warps of small_m.cu that multiply: x, the products of a stage, and the end of a tile.
#pragma once

#include "kernels/cuda/device/math.h"
#include "kernels/cuda/device/peer.h"
#include "kernels/cuda/device/piece.h"
#include "kernels/cuda/matmul/silu.h"
#include "kernels/cuda/matmul/small_m_work.h"
#include "kernels/cuda/ptx/barrier.h"
#include "kernels/cuda/ptx/load.h"
#include "kernels/cuda/ptx/pdl.h"
#include "quant/fp8.h"

namespace l4::cuda::small_m {

template <class V, Mode mode>
struct Multiplier {
  const Args& a;
  Shared<V>& s;
  const unsigned char* ring;
  float4* meeting;  // [V::kBuffers][kAdded][kParts][32]
  const int lane = int(threadIdx.x % 32), warp = int(threadIdx.x / 32), g = lane / 4, t = lane % 4;
  Turn at;
  int slab = warp;                                  // of each stage of the tile at hand, and every kWarps-th after it
  const int block = warp / V::kAdded * V::kBlocks;  // the first of 16 rows, of its slabs

  using Weights = typename V::Weights;
  using X = uint32_t[V::kUnits][V::kColumns][V::kXWords];
  static constexpr int kLoads = V::kXWords / 4;  // of x, of a lane, slab and token

  // Where this lane's x of a stage lies, by columns.
  struct From {
    const bf16* x[V::kColumns];
    int until;      // the stage of the tile with which another matrix begins
    int slab_left;  // k that is left from the slab on
    // Ahead: k that is left from x on, none where there is no token. By a window: all bits where the token takes part;
    // one that does not has numbers all the same, of a row that is there, so that loads depend on nothing. Columns of
    // tokens that do not exist, or in `up` did not choose the expert, are not stored.
    int left[V::kColumns];
    uint32_t keep[V::kColumns];
    XScale scale[Weights::kCodes ? V::kColumns : 1];
  };
  __device__ void find_x(From& f, int tile, int stage) const {
    const Place p = place<mode>(a, tile, stage);
    const bool routed = mode != Mode::linear && p.which >= 0;
    if (mode == Mode::up && routed) mbarrier_wait(&s.routed, 0);
    const int k = int(routed ? a.routed.k : a.shared.k), before = p.stage * V::kStageK + slab * V::kSlabK;
    f.slab_left = k - before;
    f.until = mode != Mode::down ? INT_MAX : stage - p.stage + (routed ? a.routed : a.shared).stages;
    const int first = (Weights::kAhead || f.slab_left > 0 ? before : 0) + t * Weights::kXLane;
#pragma unroll
    for (int c = 0; c < V::kColumns; ++c) {
      const int token = 8 * c + g;
      int row = token < a.n_tokens ? token : -1, other = 0;  // of x; and one of a token that is there
      if (routed) {
        const int slot = row < 0 ? -1 : s.chosen.slot[p.which][token], first_slot = s.chosen.first_slot[p.which];
        if (mode == Mode::down || slot < 0) row = slot;
        other = mode == Mode::down ? first_slot : first_slot / a.top_k;
      }
      f.left[c] = row < 0 ? 0 : k - first;
      f.keep[c] = row < 0 ? 0 : ~0u;
      if (!Weights::kAhead && row < 0) row = other;
      f.x[c] = (routed ? a.x_routed : a.x) + int64_t(row) * k + first;
      if constexpr (Weights::kCodes) f.scale[c] = XScale::of(s.x_scale[routed][row]);
    }
  }
  __device__ static void next_stage(From& f) {
    if (Weights::kAhead || f.slab_left > V::kStageK)
#pragma unroll
      for (int c = 0; c < V::kColumns; ++c) f.x[c] += V::kStageK;
#pragma unroll
    for (int c = 0; c < V::kColumns; ++c) f.left[c] -= V::kStageK;
    f.slab_left -= V::kStageK;
  }
  __device__ static void load_x(X& x, const From& f) {
    constexpr int kNext = V::kWarps * V::kSlabK;
#pragma unroll
    for (int c = 0; c < V::kColumns; ++c)
#pragma unroll
      for (int u = 0; u < V::kUnits; ++u)
#pragma unroll
        for (int l = 0; l < kLoads; ++l) {
          const bf16* from = f.x[c] + u * kNext + l * Weights::kXStep;
          words(f.left[c] > u * kNext ? *reinterpret_cast<const uint4*>(from) : uint4{}, &x[u][c][4 * l]);
        }
  }
  __device__ static void words(const uint4& v, uint32_t* to) {
    to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
  }

  // Units have sums of their own: a chain of products is half as long.
  using Sums = float[V::kUnits][V::kBlocks][V::kColumns][4];

  // The chunks of this lane of rows g and g + 8 of block b.
  __device__ void load_weights(int u, int b, int j, uint32_t (&low)[4], uint32_t (&high)[4]) const {
    const int row = (slab + u * V::kWarps) * V::kTileRows + 16 * (block + b) + g;
    const unsigned char* chunk = ring + at.stage * a.stage_bytes + row * kSlabBytes + ((2 * t + j) ^ g) * 16;
    words(*reinterpret_cast<const uint4*>(chunk), low);  // ^ g: Swizzle::bytes128
    words(*reinterpret_cast<const uint4*>(chunk + 8 * kSlabBytes), high);
  }

  __device__ void multiply(Sums& sums, const X& x) const {
#pragma unroll
    for (int u = 0; u < V::kUnits; ++u)
#pragma unroll
      for (int b = 0; b < V::kBlocks; ++b)
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          uint32_t low[4], high[4];
          load_weights(u, b, j, low, high);
#pragma unroll
          for (int q = 0; q < V::kPerLoad / 4; ++q) {
            uint32_t w[4];
            Weights::operand(low, high, q, w);
#pragma unroll
            for (int c = 0; c < V::kColumns; ++c) {
              const int i = j * V::kPerLoad / 2 + 2 * q;
              Weights::multiply(sums[u][b][c], w, {x[u][c][i], x[u][c][i + 1]});
            }
          }
        }
  }

  // The same of formats that make operands of weights and x with more instructions, and have longer slabs: x comes
  // kWindow loads before it is used, to where what has been used was. At the first of those loads that is of the next
  // stage, `from` goes on to it. Groups' sums are multiplied by their scales.
  static constexpr int kWindow = 4;
  using Window = uint32_t[V::kColumns][4 * kWindow];
  __device__ static void load_window(Window& x, const From& f, int l) {
#pragma unroll
    for (int c = 0; c < V::kColumns; ++c)
      words(*reinterpret_cast<const uint4*>(f.x[c] + l % kLoads * Weights::kXStep), &x[c][l % kWindow * 4]);
  }
  template <bool k128, class GoOn>
  __device__ void multiply_window(Sums& sums, Window& x, From& from, bool more, GoOn&& go_on) const {
    static_assert(Weights::kAhead || (V::kUnits == 1 && kLoads % kWindow == 0));
    XScale scale[V::kColumns];  // of this stage's
    uint32_t keep[V::kColumns];
#pragma unroll
    for (int c = 0; c < V::kColumns; ++c) {
      if constexpr (Weights::kCodes) scale[c] = from.scale[c];
      keep[c] = from.keep[c];
    }
    Groups<k128> groups(*this);
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      uint32_t low[V::kBlocks][4], high[V::kBlocks][4];
#pragma unroll
      for (int b = 0; b < V::kBlocks; ++b) load_weights(0, b, j, low[b], high[b]);
#pragma unroll
      for (int i = 0; i < kLoads / 2; ++i) {
        const int l = j * kLoads / 2 + i;
        if (l + kWindow == kLoads && more) go_on();
#pragma unroll
        for (int q = 0; q < 2; ++q) {
          uint32_t of_x[V::kColumns][2];
#pragma unroll
          for (int c = 0; c < V::kColumns; ++c) {
            Weights::of_x(&x[c][l % kWindow * 4 + 2 * q], scale[c], of_x[c]);
            if (mode == Mode::down) of_x[c][0] &= keep[c], of_x[c][1] &= keep[c];
          }
#pragma unroll
          for (int b = 0; b < V::kBlocks; ++b) {
            uint32_t w[4];
            Weights::operand(low[b], high[b], 2 * i + q, w);
#pragma unroll
            for (int c = 0; c < V::kColumns; ++c)
              Weights::multiply(Weights::kGroups ? groups.part[b][c] : sums[0][b][c], w, of_x[c]);
          }
        }
        load_window(x, from, l + kWindow);  // at the end of an item, in vain
        if constexpr (Weights::kGroups) groups.columns_done(sums, 32 * (l + 1));
      }
    }
  }
  template <bool k128>
  struct Groups {
    const bf16* scale;  // of the next group and row g
    int group, of_stage;
    float part[V::kBlocks][V::kColumns][4] = {};
    __device__ explicit Groups(const Multiplier& m) {
      if constexpr (Weights::kGroups) {
        group = k128 ? 128 : m.a.group, of_stage = V::kStageK / group;
        scale = reinterpret_cast<const bf16*>(m.ring + m.at.stage * m.a.stage_bytes + V::kStageBytes) +
                (m.block * of_stage + m.slab * (V::kSlabK / group)) * 16 + m.g;
      }
    }
    // n columns of the slab, a multiple of the smallest group.
    __device__ void columns_done(Sums& sums, int n) {
      if ((n & (group - 1)) != 0) return;
#pragma unroll
      for (int b = 0; b < V::kBlocks; ++b) {
        const bf16* of_row = scale + b * of_stage * 16;
        const float s0 = get(of_row[0]), s1 = get(of_row[8]);
#pragma unroll
        for (int c = 0; c < V::kColumns; ++c)
#pragma unroll
          for (int v = 0; v < 4; ++v) {
            sums[0][b][c][v] = fmaf(part[b][c][v], v < 2 ? s0 : s1, sums[0][b][c][v]);
            part[b][c][v] = 0;
          }
      }
      scale += 16;
    }
  };

  // Scales of a tile's rows in one of its matrices, of the lane's.
  struct RowScales {
    float rows[V::kBlocks][2];
  };
  __device__ RowScales row_scales(int tile, int stage) const {
    const Place p = place<mode>(a, tile, stage);
    const bool routed = mode != Mode::linear && p.which >= 0;
    const Matrix& m = routed ? a.routed : a.shared;
    const float* scales = m.row_scales + (routed ? int64_t(s.chosen.expert[p.which]) * m.n : 0);
    RowScales r;
#pragma unroll
    for (int b = 0; b < V::kBlocks; ++b)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int row = first_row<V, mode>(a, tile, p.which) + 16 * (block + b) + 8 * i + g;
        r.rows[b][i] = row < m.n ? scales[row] : 0;
      }
    return r;
  }
  // What the codes' sums of one matrix, that of `stage`, are as numbers is added to `total`; sums are zero then.
  __device__ void add_scaled(Sums& total, Sums& sums, const RowScales& rows, int tile, int stage) const {
    const Place p = place<mode>(a, tile, stage);
    const bool routed = mode != Mode::linear && p.which >= 0;
#pragma unroll
    for (int c = 0; c < V::kColumns; ++c)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int token = 8 * c + 2 * t + i;
        const int row = token >= a.n_tokens ? -1 : routed && mode == Mode::down ? s.chosen.slot[p.which][token] : token;
        const float scale = row < 0 ? 0 : s.x_scale[routed][row];
#pragma unroll
        for (int u = 0; u < V::kUnits; ++u)
#pragma unroll
          for (int b = 0; b < V::kBlocks; ++b)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
              float& sum = sums[u][b][c][2 * half + i];
              total[u][b][c][2 * half + i] += sum * (scale * rows.rows[b][half]);
              sum = 0;
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

  // To the other ranks' inboxes of the sum that comes next, two rows a word: so their parts are there when it begins,
  // or nearly. The exchange before it has ended: it is older than this kernel's predecessor, or that itself.
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

  // Hands the warp's sums over. Each part's are added by another warp each time. Every lane arrives for itself,
  // once a tile: compute-sanitizer cannot follow one that arrives for its warp.
  __device__ void end_item(const Sums& sums, const Item& i, int turn) {
    const int buffer = turn % V::kBuffers;
    const uint32_t parity = turn / V::kBuffers % 2;
    mbarrier_wait(&s.taken[buffer], parity ^ 1);
    float4* from = meeting + buffer * V::kAdded * V::kParts * 32 + lane;
#pragma unroll
    for (int p = 0; p < V::kOwnParts; ++p) {
      float v[4] = {};
#pragma unroll
      for (int u = 0; u < V::kUnits; ++u)
#pragma unroll
        for (int j = 0; j < 4; ++j) v[j] += sums[u][p / V::kColumns][p % V::kColumns][j];
      from[(warp % V::kAdded * V::kParts + block * V::kColumns + p) * 32] = make_float4(v[0], v[1], v[2], v[3]);
    }
    const int part = (warp + V::kWarps - turn * V::kParts % V::kWarps) % V::kWarps;
    mbarrier_arrive(&s.handed[buffer]);
    if (part >= V::kParts) return;
    mbarrier_wait(&s.handed[buffer], parity);
    float v[4] = {};
#pragma unroll
    for (int w = 0; w < V::kAdded; ++w) add(v, from[(w * V::kParts + part) * 32]);
    mbarrier_arrive(&s.taken[buffer]);
    if (s.work.pieces == 1 || add_pieces(i, part, v)) store(i.tile, part, v);
  }

  __device__ void run() {
    for (int turn = 0;; ++turn) {
      mbarrier_wait(&s.full[at.stage], at.parity);
      const int index = __shfl_sync(kAllLanes, lane == 0 ? s.item[at.stage] : 0, 0);
      if (index == kNone) return;
      const Item i = item(s.work, index);
      Sums sums = {};
      if constexpr (Weights::kCodes) {
        Sums total = {};
        multiply_item(sums, &total, i);
        if (turn == 0) wait_for_predecessor();
        end_item(total, i, turn);
      } else {
        multiply_item(sums, nullptr, i);
        if (turn == 0) wait_for_predecessor();  // what it still uses may be where our results go
        end_item(sums, i, turn);
      }
    }
  }
  // The last stage of a matrix may have slabs in its first half only: by turns they are the warps' of one half and the
  // other.
  __device__ void choose_slab(int tile) { slab = (warp + tile % 2 * (V::kSlabs / 2)) % V::kSlabs; }
  __device__ void multiply_item(Sums& sums, Sums* total, const Item& i) {
    From from;
    if constexpr (!Weights::kAhead) choose_slab(i.tile);
    find_x(from, i.tile, i.begin);
    if constexpr (Weights::kAhead)
      multiply_ahead(sums, from, i);
    else if (Weights::kGroups && a.group == 128)
      multiply_with_window<true>(sums, total, from, i);
    else
      multiply_with_window<false>(sums, total, from, i);
  }
  __device__ void multiply_ahead(Sums& sums, From& from, const Item& i) {
    X x, next;
    load_x(next, from);
#pragma unroll 2
    for (int stage = i.begin; stage < i.end; ++stage) {
#pragma unroll
      for (int w = 0; w < int(sizeof(X) / sizeof(uint32_t)); ++w) (&x[0][0][0])[w] = (&next[0][0][0])[w];
      if (stage + 1 < i.end) {
        go_on(from, i, stage);
        load_x(next, from);
      }
      if (stage > i.begin) mbarrier_wait(&s.full[at.stage], at.parity);
      multiply(sums, x);
      leave_stage();
    }
  }
  template <bool k128>
  __device__ void multiply_with_window(Sums& sums, Sums* total, From& from, const Item& i) {
    Window x;
#pragma unroll
    for (int l = 0; l < kWindow; ++l) load_window(x, from, l);
    RowScales rows;
    if constexpr (Weights::kCodes) rows = row_scales(i.tile, i.begin);
#pragma unroll 1
    for (int stage = i.begin; stage < i.end; ++stage) {
      const bool more = stage + 1 < i.end, ends = !more || stage + 1 == from.until;
      if (stage > i.begin) mbarrier_wait(&s.full[at.stage], at.parity);
      if (from.slab_left > 0) {
        multiply_window<k128>(sums, x, from, more, [&] { go_on(from, i, stage); });
      } else if (more) {  // another matrix
        go_on(from, i, stage);
#pragma unroll
        for (int l = 0; l < kWindow; ++l) load_window(x, from, l);
      }
      leave_stage();
      if constexpr (Weights::kCodes)
        if (ends) {  // of a matrix of the tile
          add_scaled(*total, sums, rows, i.tile, stage);
          if (more) rows = row_scales(i.tile, stage + 1);
        }
    }
  }
  __device__ void go_on(From& from, const Item& i, int stage) const {
    if (stage + 1 == from.until)
      find_x(from, i.tile, stage + 1);
    else
      next_stage(from);
  }
  __device__ void leave_stage() {
    __syncwarp();
    if (lane == 0) mbarrier_arrive(&s.empty[at.stage]);
    at.next(a.ring);
  }

  // Until all of x is there, of which the predecessor does more than that.
  __device__ void wait_for_rows() const {
    if (threadIdx.x < uint32_t(a.n_tokens)) {
      while (load_acquire_gpu(a.ready + threadIdx.x) == 0) {
      }
    }
    barrier_sync(1, 32 * V::kWarps);
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
    // Of a tile's pieces the block's first may need one of the two alone.
    const Item first = item(s.work, int(blockIdx.x));
    if (first.begin < a.shared.stages) all(a.x, a.n_tokens * a.shared.k);
    if (mode == Mode::down && first.end > a.shared.stages) all(a.x_routed, a.n_slots * a.routed.k);
    s.touched[threadIdx.x] = words;
  }

  // What the rows of x are divided by, into shared memory. By all warps, and then x is in L1 too, where there is room.
  __device__ void find_x_scales() const {
    find_x_scales(a.x, a.shared.k, a.n_tokens, a.x_scale, s.x_scale[0]);
    if (a.n_slots == 0) return;
    if (mode == Mode::down) return find_x_scales(a.x_routed, a.routed.k, a.n_slots, a.x_routed_scale, s.x_scale[1]);
    if (int(threadIdx.x) < a.n_tokens)  // up: the same rows
      s.x_scale[1][threadIdx.x] = a.x_routed_scale != 0 ? a.x_routed_scale : s.x_scale[0][threadIdx.x];
    barrier_sync(1, 32 * V::kWarps);
  }
  // one: of all rows, unless it is 0.
  __device__ void find_x_scales(const bf16* x, int64_t k, int n_rows, float one, float* scale) const {
    const int thread = int(threadIdx.x);
    if (one != 0) {
      if (thread < n_rows) scale[thread] = one;
      barrier_sync(1, 32 * V::kWarps);
      return;
    }
    constexpr int kAtOnce = 4, kNext = 32 * V::kWarps * 8;  // loads that are under way together
    for (int row = 0; row < n_rows; ++row) {
      float largest = 0;
      for (int64_t i = int64_t(thread) * 8; i < k; i += kAtOnce * kNext) {
        uint4 loaded[kAtOnce];
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j)
          loaded[j] = i + j * kNext < k ? *reinterpret_cast<const uint4*>(x + row * k + i + j * kNext) : uint4{};
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j) raise(largest, loaded[j]);
      }
      largest = warp_max(largest);
      if (lane == 0) s.largest[warp][row] = largest;
    }
    barrier_sync(1, 32 * V::kWarps);
    if (thread < n_rows) {
      float largest = 0;
#pragma unroll
      for (int w = 0; w < V::kWarps; ++w) largest = fmaxf(largest, s.largest[w][thread]);
      scale[thread] = fp8_scale(largest);
    }
    barrier_sync(1, 32 * V::kWarps);
  }
};

}  // namespace l4::cuda::small_m
