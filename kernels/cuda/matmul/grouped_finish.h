// The end of a tile: what becomes of a warpgroup's sums.
//
// Nothing is waited for there: what must be known of the tokens was asked for when the tile began, and the chains of 32
// tokens (exponentials, divisions, shuffles) overlap. Conversions to bfloat16 go by pairs, one instruction of the ordinary
// units; one alone is a slow one.
//
// Roundings as the reference has them, but that the score is multiplied onto the float32 sums of gate and up, and that
// down rounds the sum of shared and routed once (see small_m.cu).
#pragma once

#include "kernels/cuda/device/math.h"
#include "kernels/cuda/matmul/grouped_stage.h"
#include "kernels/cuda/matmul/silu.h"

namespace l4::cuda::grouped {

constexpr unsigned kAllLanes = 0xffffffffu;

// A thread has two neighbouring tokens of a row; the thread 4 lanes on, of the next row, has the same. They swap, so
// that each has two rows of one token (the even row's thread of the first): one store of 4 bytes.
__device__ inline float2 two_rows_of_a_token(int odd, float token0, float token1) {
  const float other = __shfl_xor_sync(kAllLanes, odd ? token0 : token1, 4);
  return odd ? make_float2(other, token1) : make_float2(token0, other);
}

// What the end of a tile has to know of each of its tokens: its score (up) or its row (down). Lane l holds those of
// tokens l, l + 32, ...: asked for when a tile begins, so that nothing is waited for when it ends.
template <class Value, int kTokens>
struct PerToken {
  Value values[(kTokens + 31) / 32];
  // of(entry), an entry of the step's
  template <class Of>
  __device__ PerToken(const Tile& tile, int lane, const Of& of) {
#pragma unroll
    for (int i = 0; i < (kTokens + 31) / 32; ++i) values[i] = of(tile.entry + min(lane + 32 * i, tile.count - 1));
  }
  // Of token 8 j + i, where j is known when this is compiled. All lanes of a warp, with any i < 8.
  __device__ Value operator()(int j, int i) const {
    return __shfl_sync(kAllLanes, values[j / 4], 8 * (j % 4) + i);
  }
};
template <class S>
__device__ PerToken<float, S::kMaxTokens> scores_of(const Work& w, const Results& r, const Tile& tile, int lane) {
  return {tile, lane, [&](int entry) { return tile.group == w.n_experts ? 1.0f : __ldcg(r.scores + entry); }};
}
template <class S>
__device__ PerToken<int, S::kMaxTokens> rows_of(const Results& r, const Tile& tile, int lane) {
  return {tile, lane, [&](int entry) { return r.rows ? __ldcg(r.rows + entry) : entry; }};
}

// Two at a time: one instruction (F2FP); one alone is a conversion (F2F) of a slower unit.
__device__ inline float2 round_pair(float x, float y) {
  return __bfloat1622float2(__floats2bfloat162_rn(x, y));
}

// d: the sums of rows row + g and row + g + 8 of the group's matrix. All threads of the consumers. act = silu(gate) * up.
// score(j, i), to_row(j, i): of token 8 j + i, for j known when this is compiled, and called by all lanes of a warp.
template <int kTokens, class Score>
__device__ void finish_up(const Work& w, const Results& r, const Tile& tile, int row, int lane, const Score& score,
                          const float (&d)[kTokens / 2]) {
  const int g = lane / 4, t = lane % 4, odd = g % 2;
  const bool shared = tile.group == w.n_experts;
  const int n = shared ? w.n_shared : w.n_experts_rows;
  const int own = 2 * t + odd;             // of 8 tokens, the one that this thread stores
  constexpr int kTogether = kTokens / 64;  // eights of tokens whose long chains of instructions overlap
  const int64_t stride = n / 2;
  const int f = row / 2 + g;
  const int n_stored = 2 * f < n ? tile.count : 0;
  bf16* out = (shared ? r.shared_out : r.expert_out) + (tile.entry + own) * stride + f - odd;
#pragma unroll
  for (int j = 0; j < kTokens / 8; ++j, out += 8 * stride) {
    if (j % kTogether == 0 && 8 * j >= tile.count) break;
    const float score0 = score(j, 2 * t), score1 = score(j, 2 * t + 1);
    const float2 gate = round_pair(d[4 * j] * score0, d[4 * j + 1] * score1);
    const float2 value = round_pair(d[4 * j + 2] * score0, d[4 * j + 3] * score1);
    const float2 act = round_pair(silu(gate.x), silu(gate.y));
    const float2 v = two_rows_of_a_token(odd, act.x * value.x, act.y * value.y);
    if (8 * j + own < n_stored) *reinterpret_cast<__nv_bfloat162*>(out) = __floats2bfloat162_rn(v.x, v.y);
  }
}

// The same of any other product: y, or sums.
template <int kTokens, class ToRow>
__device__ void finish_down(const Work& w, const Results& r, const Tile& tile, int row, int lane, const ToRow& to_row,
                            const float (&d)[kTokens / 2]) {
  const int g = lane / 4, t = lane % 4, odd = g % 2;
  const bool shared = tile.group == w.n_experts;
  const int n = shared ? w.n_shared : w.n_experts_rows;
  const int own = 2 * t + odd;             // of 8 tokens, the one that this thread stores
  constexpr int kTogether = kTokens / 64;  // eights of tokens whose long chains of instructions overlap
  bf16* out = shared ? r.shared_out : r.expert_out;
  const int64_t sums_stride = int64_t(w.n_rows) * n;
#pragma unroll
  for (int j = 0; j < kTokens / 8; ++j) {
    if (j % kTogether == 0 && 8 * j >= tile.count) break;
    const int64_t first = int64_t(to_row(j, own)) * n + row + g - odd;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float2 v = two_rows_of_a_token(odd, d[4 * j + 2 * half], d[4 * j + 2 * half + 1]);
      const int64_t at = first + 8 * half;
      if (8 * j + own >= tile.count || row + 8 * half + g >= n) continue;
      if (r.leaves_sums) {
        if (r.round_sums) v = round_pair(v.x, v.y);
        *reinterpret_cast<float2*>(r.sums + tile.part * sums_stride + at) = v;
        continue;
      }
      if (r.sums) {
#pragma unroll
        for (int part = 0; part < kMaxSums; ++part)
          if (part < r.n_sums) {
            const float2 sum = __ldcg(reinterpret_cast<const float2*>(r.sums + part * sums_stride + at));
            v.x += sum.x, v.y += sum.y;
          }
      }
      *reinterpret_cast<__nv_bfloat162*>(out + at) = __floats2bfloat162_rn(v.x, v.y);
    }
  }
}

}  // namespace l4::cuda::grouped
