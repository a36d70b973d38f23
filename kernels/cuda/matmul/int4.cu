// Products of INT4 weights and bfloat16 tokens, weights as wgmma's operand a from registers. What is multiplied, in which
// tiles and in which order is as in grouped.cu (grouped_ffn.cu); other than there, weights are codes, which are expanded on their way from
// shared memory to the matrix units (int4_multiply.h). Narrow: up to 512 rows of a step; down in two launches. Wide: more.
//
// Limits. Narrow: bytes. A stage of 256 columns is 16.5 KB (groups of 128), 1,260 clocks of an SM of an H100 at 3.1 TB/s, 860 of
// an H200's. A warp's share of it is about 340 instructions for few tokens (64 pairs by a shift, a logical and a subtraction)
// and n / 2 additions a group for n tokens; a scheduler has two such warps. Matrix units: 16 clocks a token, 1,024 for 64.
// Hence two warpgroups, and 96 KB of codes in flight. Wide: matrix units, as in grouped.cu: 4,096 clocks a stage, of which
// each scheduler issues in 900; 20 KB of L2 to an SM in 1,024 clocks, where bfloat16 weights have 32.
#include "kernels/cuda/matmul/grouped_launch.h"
#include "kernels/cuda/matmul/int4_multiply.h"

namespace l4::cuda::grouped {

namespace {
// With a width that only the device knows: the which-th, or one before it.
template <int kWhich, int kGroups, class S>
__device__ void multiply_any(int which, int n_steps, int groups, const Int4Lane<S>& lane, Int4Rings<S>& rings,
                             float (&d)[S::kMaxTokens / 2]) {
  constexpr int kN = int4_width(kWhich), kLeast = S::kCluster == 1 ? 0 : 1;
  auto& sums = reinterpret_cast<float(&)[kN / 2]>(d);
  if (which == kWhich) {
    if constexpr (kGroups > 0)
      multiply_groups<kN, kGroups>(n_steps, lane, rings, sums);
    else
      multiply_scaled<kN>(n_steps, groups, lane, rings, sums);
  } else if constexpr (kWhich > kLeast) {
    multiply_any<kWhich - 1, kGroups>(which, n_steps, groups, lane, rings, d);
  }
}

// kGroups: of a stage, as groups; 0: whatever that says.
template <class S, int kGroups, bool up>
__global__ void __launch_bounds__(kThreads, 1)
    int4_kernel(const __grid_constant__ BothInt4Maps both, const __grid_constant__ Work w,
                const __grid_constant__ Results r, int groups) {
  __shared__ Tiles tiles;
  __shared__ Mbarrier codes_full[S::kCodeStages], codes_empty[S::kCodeStages];
  __shared__ Mbarrier tokens_full[S::kTokenStages], tokens_empty[S::kTokenStages];
  Int4Rings<S> rings{dynamic_shared<unsigned char>(), {codes_full, codes_empty}, {tokens_full, tokens_empty}};
  const int rank = S::kCluster == 1 ? 0 : int(cluster_rank());
  if (threadIdx.x == 0) {
    constexpr int kConsumerWarps = kConsumers * 4;
    for (int i = 0; i < S::kCodeStages; ++i) {
      mbarrier_init(&codes_full[i], 1);
      mbarrier_init(&codes_empty[i], kConsumerWarps);
    }
    for (int i = 0; i < S::kTokenStages; ++i) {
      mbarrier_init(&tokens_full[i], 1);
      mbarrier_init(&tokens_empty[i], S::kCluster * kConsumerWarps);
    }
    mbarrier_init_fence();
  }
  if constexpr (S::kCluster > 1) cluster_arrive();
  wait_for_predecessor();
  let_successor_start();
  list_tiles<S>(w, tiles);
  if constexpr (S::kCluster > 1) cluster_wait();
  auto each_tile = [&](auto&& body) {
    for (int i = int(blockIdx.x) / S::kCluster; i < tiles.first[w.n_experts + 1]; i += int(gridDim.x) / S::kCluster)
      body(tile_at<S>(w, tiles, i, rank));
  };
  if (threadIdx.x < 128) {
    give_registers<40>();
    if (threadIdx.x == 0) each_tile([&](const Tile& tile) { produce_codes<S>(both, w, groups, tile, rings); });
    if (threadIdx.x == 32) each_tile([&](const Tile& tile) { produce_tokens<S>(both, w, tile, rank, rings); });
  } else {
    take_registers<232>();
    each_tile([&](const Tile& tile) {
      const int lane = int(threadIdx.x) % 32, warp_rows = 16 * (int(threadIdx.x) / 32 - 4);
      const Int4Lane<S> of_lane{warp_rows, lane / 4, lane % 4};
      float d[S::kMaxTokens / 2];
#pragma unroll
      for (int i = 0; i < S::kMaxTokens / 2; ++i) d[i] = 0;
      auto multiply = [&] {
        multiply_any<S::kMaxTokens / kTokenStep, kGroups>(which_width<S>(tile), tile.n_steps, groups, of_lane, rings, d);
      };
      if constexpr (up) {
        const auto scores = scores_of<S>(w, r, tile, lane);
        multiply();
        finish_up<S::kMaxTokens>(w, r, tile, tile.row + warp_rows, lane, scores, d);
      } else {
        const auto rows = rows_of<S>(r, tile, lane);
        multiply();
        finish_down<S::kMaxTokens>(w, r, tile, tile.row + warp_rows, lane, rows, d);
      }
    });
  }
  if constexpr (S::kCluster > 1) {  // the others may still arrive at our barriers
    cluster_arrive();
    cluster_wait();
  }
}

// ---- host

template <class S>
Int4Maps int4_maps(const Factors& f, int64_t n_rows) {
  const LinearSpec& s = f.weight->spec;
  const int64_t run = s.k / s.group * kScaleRows, groups = S::kTileK / s.group;
  Int4Maps maps{
      tensor_map(f.weight->data.data(), DType::u8, {{s.k / 2, s.n * s.n_experts}}, {{s.k / 2}},
                 {{kRowBytes, kTileRows}}, Swizzle::bytes128),
      tensor_map(f.weight->scales.data(), DType::bf16, {{run, scale_tiles(s.n) * s.n_experts}}, {{run * 2}},
                 {{groups * kScaleRows, kTileRows / kScaleRows}}, Swizzle::none),
      {}};
  for (int i = 0; i < int(std::size(maps.tokens)); ++i)
    if constexpr (S::kCluster == 1)
      maps.tokens[i] =
          tensor_map(f.tokens.rows, DType::bf16, {{S::kBoxK, n_rows, s.k / S::kBoxK}}, {{s.k * 2, S::kBoxK * 2}},
                     {{S::kBoxK, int4_width(i), S::kTokenK / S::kBoxK}}, Swizzle::bytes128);
    else if (i < 2)
      maps.tokens[i] = tensor_map(f.tokens.rows, DType::bf16, {{s.k, n_rows}}, {{s.k * 2}},
                                  {{S::kBoxK, i == 0 ? 64 : kTokenStep}}, Swizzle::bytes128);
  return maps;
}

template <class S, int kGroups>
void start_shape(const OpContext& ctx, bool up, const Work& w, const Results& r, const Factors& shared,
                 const Factors& experts) {
  const Factors& one = shared.weight ? shared : experts;
  const BothInt4Maps both{int4_maps<S>(one, w.n_rows), int4_maps<S>(experts.weight ? experts : one, w.n_rows)};
  launch({.grid = unsigned(std::max(ctx.gpu.n_sms / S::kCluster, 1) * S::kCluster),
          .block = kThreads,
          .shared_bytes = S::kSharedBytes,
          .stream = ctx.gpu.stream,
          .programmatic = true,
          .cluster = S::kCluster},
         up ? int4_kernel<S, kGroups, true> : int4_kernel<S, kGroups, false>, both, w, r,
         int(kInt4Columns / one.weight->spec.group));
}
}  // namespace

void start_int4(const OpContext& ctx, bool up, Work w, const Results& r, const Factors& shared,
                const Factors& experts) {
  set_steps(w, shared, experts, int(kInt4Columns));
  // The two round differently (int4_multiply.h): invariant is Wide, as dequantised weights are.
  if (ctx.invariant || w.n_rows > kNarrowRows) return start_shape<WideInt4, 0>(ctx, up, w, r, shared, experts);
  switch ((shared.weight ? shared : experts).weight->spec.group) {
    case 32:
      return start_shape<NarrowInt4, 8>(ctx, up, w, r, shared, experts);
    case 64:
      return start_shape<NarrowInt4, 4>(ctx, up, w, r, shared, experts);
    default:
      return start_shape<NarrowInt4, 2>(ctx, up, w, r, shared, experts);
  }
}

}  // namespace l4::cuda::grouped
