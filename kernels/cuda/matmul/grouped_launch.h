// A grouped product's launch: what the host knows of it.
#pragma once

#include <algorithm>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/matmul/grouped_finish.h"
#include "kernels/cuda/matmul/grouped_ring.h"
#include "kernels/cuda/tensor_map.h"

namespace l4::cuda::grouped {

// Tokens of a launch: those of the shared expert's product and those of the experts', [n_rows, k] each.
struct Tokens {
  const void *shared, *experts;
};

template <class S>
Maps maps_of(const PackedWeight& w, const void* tokens, int64_t n_rows) {
  const LinearSpec& s = w.spec;
  const DType type = S::kElementBytes == 2 ? DType::bf16 : DType::u8;
  const int64_t row_bytes = s.k * S::kElementBytes;
  auto token_map = [&](int box) {
    return tensor_map(tokens, type, {{s.k, n_rows}}, {{row_bytes}}, {{S::kTileK, box}}, Swizzle::bytes128);
  };
  return {tensor_map(w.data.data(), type, {{s.k, s.n * s.n_experts}}, {{row_bytes}}, {{S::kTileK, kTileRows}},
                     Swizzle::bytes128),
          token_map(S::kBox), token_map(kTokenStep)};
}

// experts: null where there are none. kernel(both maps, work, more...)
template <class S, class Kernel, class... More>
void start(const OpContext& ctx, Kernel kernel, const Work& w, const PackedWeight& shared, const PackedWeight* experts,
           const Tokens& tokens, const More&... more) {
  const Maps of_shared = maps_of<S>(shared, tokens.shared, w.n_rows);
  launch({.grid = unsigned(std::max(ctx.gpu.n_sms / S::kCluster, 1) * S::kCluster),
          .block = kThreads,
          .shared_bytes = S::kSharedBytes,
          .stream = ctx.gpu.stream,
          .programmatic = true,
          .cluster = S::kCluster},
         kernel, BothMaps{of_shared, experts ? maps_of<S>(*experts, tokens.experts, w.n_rows) : of_shared}, w, more...);
}

// All rows by `shared`, and those of each expert by its own. tile_k: columns of k a step.
inline Work work_of(const PackedWeight& shared, const PackedWeight* experts, int64_t n_rows, int tile_k) {
  auto steps = [&](int64_t k) { return int((k + tile_k - 1) / tile_k); };
  Work w;
  w.n_rows = int(n_rows);
  w.n_shared = int(shared.spec.n);
  w.shared_steps = steps(shared.spec.k);
  w.all_rows = true;
  if (!experts) return w;
  w.n_experts = int(experts->spec.n_experts);
  w.n_experts_rows = int(experts->spec.n);
  w.expert_steps = steps(experts->spec.k);
  return w;
}

// The parts of k in which the shared expert's down product fills the SMs best.
inline int parts_of_shared(const Work& w, int n_sms) {
  const int n_tiles = (w.n_shared + kTileRows - 1) / kTileRows * token_tiles<kNarrowTokens>(w.n_rows).n;
  auto time = [&](int parts) { return double((n_tiles * parts + n_sms - 1) / n_sms) / parts; };
  int best = 1;
  for (int parts = 2; parts <= std::min(kMaxSums, w.shared_steps); ++parts)
    if (time(parts) < 0.95 * time(best)) best = parts;  // each writes sums
  return best;
}

}  // namespace l4::cuda::grouped
