// Grouped products of E4M3 weights, a scale a row, and E4M3 tokens, a scale each.
//
// Tiles as in grouped.cu, whose bytes they have: 128 rows by up to 256 or 64 tokens, 128 columns of k a stage, 4 stages
// of 48 KB or 8 of 24 KB.
//
// Sums. The matrix units keep about 14 bits of a sum of E4M3 products, so a chain of instructions ends after 128
// columns, and its sums are added in float32 to those that a tile keeps. Two sets for 256 tokens are 256 registers: too
// many. So a stage is multiplied in two halves of the tokens, one chain each, into the same 64 registers, with 128 for
// what is kept. A warpgroup waits for its chain and adds; the matrix units have the other warpgroup's then: a chain of
// 128 tokens takes 256 clocks, its addition 64 of the issue slots of a quarter and the way there and back some 60.
//
// Scales multiply what is kept: in down, where a tile goes on from the shared expert's columns of k to an expert's,
// what is kept is rescaled from the ones' scales to the others', of row and token; at the end it is multiplied by the
// scales.
//
// Limits. Wide: each k32 of a 64 x 128 half takes 64 clocks of the matrix units and (64 + 128) * 32 bytes of shared
// memory, 48 of 64 clocks. From L2 a block takes 32 KB a stage, which is 1024 clocks. Narrow: bytes of weights.
#include "kernels/cuda/matmul/grouped_launch.h"
#include "kernels/cuda/ptx/cp_async.h"
#include "kernels/cuda/ptx/wgmma.h"

namespace l4::cuda::grouped {

namespace {
using Wide = WideShape<1>;
using Narrow = NarrowShape<1>;

// A tile's tokens are two halves of up to kHalf, even but for a step of the width.
template <class S>
constexpr int kHalf = S::kMaxTokens > 128 ? S::kMaxTokens / 2 : S::kMaxTokens;
template <class S>
constexpr int kHalves = S::kMaxTokens / kHalf<S>;
template <class S>
__device__ int first_half(int width) {
  return width <= kHalf<S> ? width : (width / 2 + kTokenStep - 1) / kTokenStep * kTokenStep;
}
// Half `i` as a tile of its own; of no tokens where there is none.
template <class S>
__device__ Tile half_of(const Tile& tile, int i) {
  const int first = first_half<S>(tile.width);
  Tile half = tile;
  half.entry += i ? first : 0;
  half.width = i ? tile.width - first : first;
  half.count = min(i ? tile.count - first : tile.count, half.width);
  return half;
}

// Scales of the rows of weights and of the tokens.
struct Scales {
  const float *shared_rows = nullptr, *expert_rows = nullptr, *shared_tokens = nullptr, *expert_tokens = nullptr;
};
// What another scale is divided by. Of less there is nothing left in bfloat16 of what it multiplies, and the quotient
// may be no number.
__device__ inline float divisor(float scale) {
  constexpr float kLeast = 1e-18f;
  return fabsf(scale) < kLeast ? kLeast : scale;
}

// Of rows `row` and row + 8 of the shared matrix, or of an expert's.
__device__ inline float2 row_scales(const Work& w, const float* scales, bool shared, int group, int row) {
  const int n = shared ? w.n_shared : w.n_experts_rows;
  if (!shared) scales += int64_t(group) * n;
  return make_float2(__ldg(scales + min(row, n - 1)), __ldg(scales + min(row + 8, n - 1)));
}

// sums [64, width] += one stage; width at most kN.
template <int kN, int kRegisters>
__device__ void add_stage(int width, uint64_t weights, uint64_t tokens, float (&sums)[kRegisters]) {
  if (width == kN) {
    float chain[kN / 2] = {};
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < kRowBytes / 32; ++k)
      wgmma_e4m3<kN>(chain, advance_descriptor(weights, 32 * k), advance_descriptor(tokens, 32 * k), k > 0);
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_hold(chain);
#pragma unroll
    for (int i = 0; i < kN / 2; ++i) sums[i] += chain[i];
  } else if constexpr (kN > kTokenStep) {
    add_stage<kN - kTokenStep>(width, weights, tokens, sums);
  }
}

// sums += weights tokens of `n_steps` stages.
template <class S>
__device__ void add_steps(int width, int n_steps, int consumer, int lane, Ring<S>& ring,
                          float (&sums)[kHalves<S>][kHalf<S> / 2]) {
  const int first = first_half<S>(width);
  for (int step = 0; step < n_steps; ++step) {
    mbarrier_wait(&ring.full[ring.stage], ring.parity);
    const uint64_t weights =
        matrix_descriptor(ring.weights() + consumer * kConsumerRows * kRowBytes, Swizzle::bytes128, 0, 8 * kRowBytes);
    const uint64_t tokens = matrix_descriptor(ring.tokens(), Swizzle::bytes128, 0, 8 * kRowBytes);
#pragma unroll
    for (int half = 0; half < kHalves<S>; ++half) {
      const int n = half ? width - first : first;
      if (n == 0) break;
      add_stage<kHalf<S>>(n, weights, advance_descriptor(tokens, half * first * kRowBytes), sums[half]);
    }
    leave_stage<S>(&ring.empty[ring.stage], lane);
    ring.next();
  }
}

// What is known of each token of a tile: 4 bytes, asked for when the tile begins, in memory that a warp has for itself.
template <class Value>
struct OfTokens {
  Value* values;
  template <class S>
  __device__ void ask(const Value* of_entries, const Tile& tile, int lane) const {
#pragma unroll
    for (int i = lane; i < S::kMaxTokens; i += 32)
      if (i < tile.count) cp_async<4>(values + i, of_entries + tile.entry + i);
  }
};
// By the whole warp, before at(); and before ask() where values were read.
__device__ inline void have_asked() {
  cp_async_commit();
  cp_async_wait<0>();
  __syncwarp();
}

// sums[row][token] *= rows * token(j, i), which is of token 8 j + i.
template <int kTokens, class Token>
__device__ void scale(int count, int lane, float2 rows, const Token& token, float (&sums)[kTokens / 2]) {
  const int t = lane % 4;
#pragma unroll
  for (int j = 0; j < kTokens / 8; ++j) {
    if (j % (kTokens / 64) == 0 && 8 * j >= count) break;
    const float token0 = token(j, 2 * t), token1 = token(j, 2 * t + 1);
    sums[4 * j] *= rows.x * token0, sums[4 * j + 1] *= rows.x * token1;
    sums[4 * j + 2] *= rows.y * token0, sums[4 * j + 3] *= rows.y * token1;
  }
}

template <class S, bool up>
__global__ void __launch_bounds__(kThreads, 1)
    grouped_fp8_kernel(const __grid_constant__ BothMaps both, const __grid_constant__ Work w,
                       const __grid_constant__ Results r, const __grid_constant__ Scales s) {
  __shared__ float values[4 * kConsumers][2][S::kMaxTokens];
  run_tiles<S>(both, w, [&](const Tile& tile, Ring<S>& ring) {
    const int consumer = int(threadIdx.x) / 128 - 1, warp = int(threadIdx.x) / 32 % 4, lane = int(threadIdx.x) % 32;
    const int row = tile.row + consumer * kConsumerRows + 16 * warp;
    const bool last = tile.group == w.n_experts;  // of the shared matrix alone
    float(&own)[2][S::kMaxTokens] = values[4 * consumer + warp];
    const OfTokens<float> scales{own[0]}, more{own[1]};
    const OfTokens<int> to{reinterpret_cast<int*>(own[1])};
    float sums[kHalves<S>][kHalf<S> / 2] = {};
    float2 rows = make_float2(1, 1);  // scales
    if (tile.n_steps > 0) {           // or there is nothing but others' sums
      rows = row_scales(w, last ? s.shared_rows : s.expert_rows, last, tile.group, row + lane / 4);
      scales.template ask<S>(last ? s.shared_tokens : s.expert_tokens, tile, lane);
    }
    // body(half as a tile, its sums, first token)
    auto each_half = [&](auto&& body) {
#pragma unroll
      for (int i = 0; i < kHalves<S>; ++i) {
        const Tile half = half_of<S>(tile, i);
        if (half.count > 0) body(half, sums[i], half.entry - tile.entry);
      }
    };
    if constexpr (up) {
      if (!last) more.template ask<S>(r.scores, tile, lane);
      add_steps<S>(tile.width, tile.n_steps, consumer, lane, ring, sums);
      have_asked();
      each_half([&](const Tile& half, auto& d, int first) {
#pragma unroll
        for (int i = 0; i < kHalf<S> / 2; ++i) d[i] *= i % 4 < 2 ? rows.x : rows.y;
        auto factor = [&](int j, int i) {
          return scales.values[first + 8 * j + i] * (last ? 1.0f : more.values[first + 8 * j + i]);
        };
        finish_up<kHalf<S>>(w, r, half, row, lane, factor, d);
      });
    } else {
      const bool two = w.add_shared && !last;  // matrices, the shared one first
      auto last_scale = [&](float scale) { return two ? divisor(scale) : scale; };
      bool before = two;
      if (before)
        more.template ask<S>(s.shared_tokens, tile, lane);
      else if (r.rows)
        to.template ask<S>(r.rows, tile, lane);
      for (int n = before ? w.shared_steps : tile.n_steps;; n = tile.n_steps - w.shared_steps) {
        add_steps<S>(tile.width, n, consumer, lane, ring, sums);
        have_asked();
        if (!before) break;
        before = false;
        const float2 old = row_scales(w, s.shared_rows, true, 0, row + lane / 4);
        const float2 quotients = make_float2(old.x / divisor(rows.x), old.y / divisor(rows.y));
        each_half([&](const Tile& half, auto& d, int first) {
          auto quotient = [&](int j, int i) {
            return more.values[first + 8 * j + i] / divisor(scales.values[first + 8 * j + i]);
          };
          scale<kHalf<S>>(half.count, lane, quotients, quotient, d);
        });
        __syncwarp();
        if (r.rows) to.template ask<S>(r.rows, tile, lane);
      }
      each_half([&](const Tile& half, auto& d, int first) {
        auto factor = [&](int j, int i) { return last_scale(scales.values[first + 8 * j + i]); };
        if (tile.n_steps > 0)
          scale<kHalf<S>>(half.count, lane, make_float2(last_scale(rows.x), last_scale(rows.y)), factor, d);
        auto to_row = [&](int j, int i) { return r.rows ? to.values[first + 8 * j + i] : half.entry + 8 * j + i; };
        finish_down<kHalf<S>>(w, r, half, row, lane, to_row, d);
      });
    }
    __syncwarp();  // before the next tile's values
  });
}

template <class S>
void start_shape(const OpContext& ctx, bool up, const Work& w, const Results& r, const Factors& shared,
                 const Factors& experts) {
  auto row_scales = [](const Factors& f) {
    return f.weight ? static_cast<const float*>(f.weight->scales.data()) : nullptr;
  };
  const Scales s{row_scales(shared), row_scales(experts), shared.tokens.scales, experts.tokens.scales};
  if (up)
    start<S>(ctx, grouped_fp8_kernel<S, true>, w, shared, experts, r, s);
  else
    start<S>(ctx, grouped_fp8_kernel<S, false>, w, shared, experts, r, s);
}
}  // namespace

void start_fp8(const OpContext& ctx, bool up, Work w, const Results& r, const Factors& shared, const Factors& experts) {
  set_steps(w, shared, experts, Wide::kTileK);
  if (w.n_rows <= kNarrowRows)
    start_shape<Narrow>(ctx, up, w, r, shared, experts);
  else
    start_shape<Wide>(ctx, up, w, r, shared, experts);
}

}  // namespace l4::cuda::grouped
