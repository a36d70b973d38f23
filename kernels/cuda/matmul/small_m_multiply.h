// The warps of small_m.cu that multiply: x, the products of a stage, and the end of a tile.
#pragma once

#include "kernels/cuda/device/math.h"
#include "kernels/cuda/device/peer.h"
#include "kernels/cuda/device/piece.h"
#include "kernels/cuda/matmul/silu.h"
#include "kernels/cuda/matmul/small_m_work.h"
#include "kernels/cuda/ptx/barrier.h"
#include "kernels/cuda/ptx/load.h"
#include "kernels/cuda/ptx/mma.h"
#include "kernels/cuda/ptx/pdl.h"

namespace l4::cuda::small_m {

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
    if (mode == Mode::up && routed) mbarrier_wait(&s.routed, 0);
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

  // Hands the warp's sums over. Each part's are added by another warp each time. Every lane arrives for itself,
  // once a tile: compute-sanitizer cannot follow one that arrives for its warp.
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
    const int part = (warp + kWarps - turn * V::kParts % kWarps) % kWarps;
    mbarrier_arrive(&s.handed[buffer]);
    if (part >= V::kParts) return;
    mbarrier_wait(&s.handed[buffer], parity);
    float v[4] = {};
#pragma unroll
    for (int w = 0; w < kWarps; ++w) add(v, from[(w * V::kParts + part) * 32]);
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

}  // namespace l4::cuda::small_m
