// One row's routing, by one whole warp (contract: Route in ops/op_args.h).
#pragma once

#include "kernels/cuda/device/math.h"
#include "kernels/cuda/gpu.h"
#include "ops/op_args.h"

namespace l4::cuda {

// Where rows go, as a kernel's parameter.
struct Routing {
  int n_experts = 0, top_k = 0;
  int32_t* expert = nullptr;  // [T, top_k]
  float* score = nullptr;     // [T, top_k]
  const int32_t* positions = nullptr;  // [T] or null; below 0: nobody's row (StepPlan), which goes to no expert: -1
};
inline Routing routing(const Route& route, int64_t n_rows, int64_t n_experts, const DeviceStep& step) {
  L4_CHECK(route.top_k >= 1 && route.top_k <= n_experts && route.expert.elements() == n_rows * route.top_k);
  return {int(n_experts), int(route.top_k), route.expert.i32(), route.score.f32(),
          step.n_rows == n_rows ? step.positions : nullptr};
}

// logits [n_experts]: the row's, A's values, as A or as float. NaN counts as the least, so that the choices are
// distinct whatever the row holds.
template <class A, class Logit>
__device__ inline void route_row(const Logit* logits, int64_t row, const Routing& to) {
  const int lane = int(threadIdx.x % 32);
  if (to.positions && to.positions[row] < 0) {
    for (int64_t k = lane; k < to.top_k; k += 32) to.expert[row * to.top_k + k] = -1, to.score[row * to.top_k + k] = 0;
    return;
  }
  float last = INFINITY;  // the previous choice: what comes after it in the order (logit descending, index ascending)
  int last_expert = -1;
  for (int k = 0; k < to.top_k; ++k) {
    float best = -INFINITY;
    int best_expert = to.n_experts;  // none yet
    for (int e = lane; e < to.n_experts; e += 32) {
      float v = get(logits[e]);
      if (!(v == v)) v = -INFINITY;
      const bool after = v < last || (v == last && e > last_expert);
      if (after && (best_expert == to.n_experts || v > best)) best = v, best_expert = e;
    }
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      const float v = __shfl_xor_sync(0xffffffffu, best, offset);
      const int e = __shfl_xor_sync(0xffffffffu, best_expert, offset);
      if (e < to.n_experts && (best_expert == to.n_experts || v > best || (v == best && e < best_expert)))
        best = v, best_expert = e;
    }
    last = best, last_expert = best_expert;
    if (lane == 0) {
      const int64_t slot = row * to.top_k + k;
      to.expert[slot] = best_expert;
      const float logit = best == -INFINITY ? get(logits[best_expert]) : best;  // that may be a NaN
      to.score[slot] = round_to<A>(1.0f / (1.0f + expf(-logit)));
    }
  }
}

}  // namespace l4::cuda
