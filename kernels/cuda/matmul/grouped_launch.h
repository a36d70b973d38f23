// The launch of a grouped kernel: its maps, its blocks.
#pragma once

#include <algorithm>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/matmul/grouped_finish.h"
#include "kernels/cuda/matmul/grouped_ring.h"
#include "kernels/cuda/tensor_map.h"

namespace l4::cuda::grouped {

template <class S>
Maps maps_of(const Factors& f, int64_t n_rows) {
  const LinearSpec& s = f.weight->spec;
  const DType type = S::kElementBytes == 2 ? DType::bf16 : DType::u8;
  const int64_t row_bytes = s.k * S::kElementBytes;
  auto token_map = [&](int box) {
    return tensor_map(f.tokens.rows, type, {{s.k, n_rows}}, {{row_bytes}}, {{S::kTileK, box}}, Swizzle::bytes128);
  };
  return {tensor_map(f.weight->data.data(), type, {{s.k, s.n * s.n_experts}}, {{row_bytes}}, {{S::kTileK, kTileRows}},
                     Swizzle::bytes128),
          token_map(S::kBox), token_map(kTokenStep)};
}

// kernel(maps, work, more...) of a shape whose weights and tokens both come by TMA.
template <class S, class Kernel, class... More>
void start(const OpContext& ctx, Kernel kernel, const Work& w, const Factors& shared, const Factors& experts,
           const More&... more) {
  auto maps = [&](const Factors& f) { return maps_of<S>(f.weight ? f : shared.weight ? shared : experts, w.n_rows); };
  launch({.grid = unsigned(std::max(ctx.gpu.n_sms / S::kCluster, 1) * S::kCluster),
          .block = kThreads,
          .shared_bytes = S::kSharedBytes,
          .stream = ctx.gpu.stream,
          .programmatic = true,
          .cluster = S::kCluster},
         kernel, BothMaps{maps(shared), maps(experts)}, w, more...);
}

// Of a launch that takes tile_k columns a step. No factor: no steps.
inline void set_steps(Work& w, const Factors& shared, const Factors& experts, int tile_k) {
  auto steps = [&](const Factors& f) { return f.weight ? int((f.weight->spec.k + tile_k - 1) / tile_k) : 0; };
  w.shared_steps = steps(shared);
  w.expert_steps = steps(experts);
}

}  // namespace l4::cuda::grouped
