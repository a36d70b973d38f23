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
// swizzle, 4 stages of 48 KB or 8 of 24 KB (grouped_ring.h, where clusters are, too). The order of tiles: grouped_tiles.h;
// their ends: grouped_finish.h.
//
// Limits. Wide: each k16 of a 64 x 256 tile takes 128 clocks of its quarter of the tensor cores and (64 + 256) * 32
// bytes of shared memory, 80 of 128 clocks. Narrow: bytes of weights; 16 KB of 24 KB a stage are weights, 192 KB are in
// flight.
//
// Weights that are not bfloat16 become so in scratch first (dequantize.h), which holds only some experts at a time: then
// the groups are those experts', a launch each.
#include "kernels/cuda/matmul/grouped_launch.h"
#include "kernels/cuda/matmul/grouped_rows.h"
#include "kernels/cuda/ptx/wgmma.h"

namespace l4::cuda {

using namespace grouped;

namespace {
using Wide = WideShape<2>;
using Narrow = NarrowShape<2>;

// d += weights tokens of `n_steps` stages, kN tokens wide.
template <int kN, class S>
__device__ void multiply(int n_steps, int consumer, int lane, Ring<S>& ring, float (&d)[S::kMaxTokens / 2]) {
  auto& sums = reinterpret_cast<float(&)[kN / 2]>(d);
  Mbarrier* done = nullptr;  // the stage that the group of instructions before the newest reads
  for (int step = 0; step < n_steps; ++step) {
    mbarrier_wait(&ring.full[ring.stage], ring.parity);
    const uint64_t weights = matrix_descriptor(ring.weights() + consumer * kConsumerRows * kRowBytes,
                                               Swizzle::bytes128, 0, 8 * kRowBytes);
    const uint64_t tokens = matrix_descriptor(ring.tokens(), Swizzle::bytes128, 0, 8 * kRowBytes);
    wgmma_hold(d);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < S::kTileK / 16; ++k)
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
__global__ void __launch_bounds__(kThreads, 1)
    grouped_kernel(const __grid_constant__ BothMaps both, const __grid_constant__ Work w,
                   const __grid_constant__ Results r) {
  run_tiles<S>(both, w, [&](const Tile& tile, Ring<S>& ring) {
    const int consumer = int(threadIdx.x) / 128 - 1, warp = int(threadIdx.x) / 32 % 4, lane = int(threadIdx.x) % 32;
    const int row = tile.row + consumer * kConsumerRows + 16 * warp;
    float d[S::kMaxTokens / 2];
#pragma unroll
    for (int i = 0; i < S::kMaxTokens / 2; ++i) d[i] = 0;
    if constexpr (up) {
      const Scores<S> scores = scores_of<S>(w, r, tile, lane);
      multiply_any<S::kMaxTokens>(tile.width, tile.n_steps, consumer, lane, ring, d);
      finish_up<S>(w, r, tile, row, lane, scores, d);
    } else {
      const Rows<S> rows = rows_of<S>(r, tile, lane);
      multiply_any<S::kMaxTokens>(tile.width, tile.n_steps, consumer, lane, ring, d);
      finish_down<S>(w, r, tile, row, lane, rows, d);
    }
  });
}

template <bool up>
void start_either(const OpContext& ctx, const Work& w, const Results& r, const PackedWeight& shared,
                  const PackedWeight* experts, const Tokens& tokens) {
  if (w.n_rows <= kNarrowRows)
    start<Narrow>(ctx, grouped_kernel<Narrow, up>, w, shared, experts, tokens, r);
  else
    start<Wide>(ctx, grouped_kernel<Wide, up>, w, shared, experts, tokens, r);
}

// The experts that there are weights of. The last group, of all rows or those without an expert, comes with the last ones.
Work of_window(const Work& all, const PlainWeights& p) {
  Work w = all;
  if (!p.experts) return w;
  w.n_experts = int(p.experts->spec.n_experts);
  w.begin += p.first_expert;
  if (p.first_expert + w.n_experts < all.n_experts) w.n_shared = 0;
  return w;
}
}  // namespace

void grouped_ffn_up(const OpContext& ctx, const FfnUpArgs& args) {
  dequantized_ffn_up(ctx, args);
}
void grouped_ffn_down(const OpContext& ctx, const FfnDownArgs& args, const View& y) {
  dequantized_ffn_down(ctx, args, y);
}

void dequantized_ffn_up(const OpContext& ctx, const FfnUpArgs& args, int64_t scratch_bytes) {
  Scratch scratch(ctx.work);
  Work w = work_of(*args.shared, args.experts, args.h.rows(), Wide::kTileK);
  Results r;
  const void* x = args.h.data;
  if (args.experts) {
    const Arranged at = arrange(scratch, ctx, args.route, args.first_expert, w.n_experts, args.h);
    w.begin = at.groups.begin;
    r.scores = at.groups.scores;
    x = at.h;
  }
  if (!ctx.measuring()) {
    r.shared_out = data<bf16>(args.act_shared);
    if (args.experts) r.expert_out = data<bf16>(args.act_routed);
  }
  with_plain_weights(scratch, ctx, *args.shared, args.experts, scratch_bytes, [&](const PlainWeights& p) {
    start_either<true>(ctx, of_window(w, p), r, *p.shared, p.experts, {x, x});
  });
}

void dequantized_ffn_down(const OpContext& ctx, const FfnDownArgs& args, const View& y, int64_t scratch_bytes) {
  Scratch scratch(ctx.work);
  Work w = work_of(*args.shared, args.experts, y.rows(), Wide::kTileK);
  Results r;
  if (args.experts) {
    const Arranged at = arrange(scratch, ctx, args.route, args.first_expert, w.n_experts, View{});
    r.rows = at.rows;
    w.begin = at.groups.begin;
    w.all_rows = false;
    w.add_shared = true;
  }
  const bool narrow = w.n_rows <= kNarrowRows;
  if (narrow) r.n_sums = parts_of_shared(w, ctx.gpu.n_sms);
  const bool two_launches = narrow && (args.experts || r.n_sums > 1);
  if (two_launches) r.sums = scratch.take_array<float>(r.n_sums * y.elements());
  if (!ctx.measuring()) r.shared_out = r.expert_out = data<bf16>(y);
  const Tokens tokens{args.act_shared.data, args.experts ? args.act_routed.data : nullptr};
  with_plain_weights(scratch, ctx, *args.shared, args.experts, scratch_bytes, [&](const PlainWeights& p) {
    if (two_launches && p.first_expert == 0) {
      Work shared_alone = work_of(*p.shared, nullptr, y.rows(), Wide::kTileK);
      shared_alone.n_parts = r.n_sums;
      Results leaves_sums = r;
      leaves_sums.leaves_sums = true;
      start_either<false>(ctx, shared_alone, leaves_sums, *p.shared, nullptr, tokens);
      w.shared_steps = 0;
    }
    start_either<false>(ctx, of_window(w, p), r, *p.shared, p.experts, tokens);
  });
}

}  // namespace l4::cuda
