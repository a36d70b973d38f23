// One launch of a grouped product, whatever the format of its weights: what grouped_ffn.cu asks of the kernels.
#pragma once

#include <algorithm>

#include "kernels/cuda/device/math.h"
#include "kernels/cuda/matmul/grouped_tiles.h"

namespace l4::cuda::grouped {

// What becomes of the sums (grouped_finish.h).
struct Results {
  const int32_t* rows = nullptr;                      // [n_rows] row of an entry; null: the same
  const float* scores = nullptr;                      // [entries]
  bf16 *shared_out = nullptr, *expert_out = nullptr;  // up: [entries, n / 2]; down: both y [n_rows, n]
  // down in two launches: the first leaves the shared product in n_sums sums [n_sums, n_rows, n], each over a part of
  // k, the second adds them to the experts' product (to nothing where a row has no expert: its tiles have no steps)
  float* sums = nullptr;
  int n_sums = 1;
  bool leaves_sums = false, round_sums = false;  // to bfloat16
};

// Rows of input in the order of the groups: bfloat16, or codes and their scales (quantise.h).
struct Tokens {
  const void* rows = nullptr;
  const float* scales = nullptr;
};
// weight null: no such product in this launch.
struct Factors {
  const PackedWeight* weight = nullptr;
  Tokens tokens;
};

// up: act = silu(gate) * up * score; otherwise y, or sums. The weights of both are of the launch's format. Of Work the
// launch sets the steps.
using Start = void(const OpContext&, bool up, Work work, const Results&, const Factors& shared, const Factors& experts);
Start start_bf16;  // grouped.cu
Start start_fp8;   // grouped_fp8.cu
Start start_int4;  // int4.cu; groups of one size

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

// The parts of k in which the shared expert's down product of so many rows fills the SMs best.
inline int parts_of_shared(const Work& w, int64_t n_rows, int n_sms) {
  const int n_tiles = (w.n_shared + kTileRows - 1) / kTileRows * token_tiles<kNarrowTokens>(int(n_rows)).n;
  auto time = [&](int parts) { return double((n_tiles * parts + n_sms - 1) / n_sms) / parts; };
  int best = 1;
  for (int parts = 2; parts <= std::min(kMaxSums, w.shared_steps); ++parts)
    if (time(parts) < 0.95 * time(best)) best = parts;  // each writes sums
  return best;
}

}  // namespace l4::cuda::grouped
