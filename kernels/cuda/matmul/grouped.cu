// Grouped products of bfloat16.
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
#include "kernels/cuda/matmul/grouped_launch.h"
#include "kernels/cuda/ptx/wgmma.h"

namespace l4::cuda::grouped {

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
      const auto scores = scores_of<S>(w, r, tile, lane);
      multiply_any<S::kMaxTokens>(tile.width, tile.n_steps, consumer, lane, ring, d);
      finish_up<S::kMaxTokens>(w, r, tile, row, lane, scores, d);
    } else {
      const auto rows = rows_of<S>(r, tile, lane);
      multiply_any<S::kMaxTokens>(tile.width, tile.n_steps, consumer, lane, ring, d);
      finish_down<S::kMaxTokens>(w, r, tile, row, lane, rows, d);
    }
  });
}

template <class S>
void start_shape(const OpContext& ctx, bool up, const Work& w, const Results& r, const Factors& shared,
                 const Factors& experts) {
  if (up)
    start<S>(ctx, grouped_kernel<S, true>, w, shared, experts, r);
  else
    start<S>(ctx, grouped_kernel<S, false>, w, shared, experts, r);
}
}  // namespace

void start_bf16(const OpContext& ctx, bool up, Work w, const Results& r, const Factors& shared,
                const Factors& experts) {
  set_steps(w, shared, experts, Wide::kTileK);
  if (w.n_rows <= kNarrowRows)
    start_shape<Narrow>(ctx, up, w, r, shared, experts);
  else
    start_shape<Wide>(ctx, up, w, r, shared, experts);
}

}  // namespace l4::cuda::grouped
