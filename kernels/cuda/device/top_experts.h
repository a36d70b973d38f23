// One row's routing, by one whole warp (contract: Route in ops/op_args.h).
#pragma once

#include "kernels/cuda/device/math.h"

namespace l4::cuda {

// logits [n_experts] of A's values, as A or as float; expert, score [top_k]. NaN counts as the least, so that the
// choices are distinct whatever the row holds.
template <class A, class Logit>
__device__ inline void route_row(const Logit* logits, int n_experts, int top_k, int32_t* expert, float* score) {
  const int lane = int(threadIdx.x % 32);
  float last = INFINITY;  // the previous choice: what comes after it in the order (logit descending, index ascending)
  int last_expert = -1;
  for (int k = 0; k < top_k; ++k) {
    float best = -INFINITY;
    int best_expert = n_experts;  // none yet
    for (int e = lane; e < n_experts; e += 32) {
      float v = get(logits[e]);
      if (!(v == v)) v = -INFINITY;
      const bool after = v < last || (v == last && e > last_expert);
      if (after && (best_expert == n_experts || v > best)) best = v, best_expert = e;
    }
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      const float v = __shfl_xor_sync(0xffffffffu, best, offset);
      const int e = __shfl_xor_sync(0xffffffffu, best_expert, offset);
      if (e < n_experts && (best_expert == n_experts || v > best || (v == best && e < best_expert)))
        best = v, best_expert = e;
    }
    last = best, last_expert = best_expert;
    if (lane == 0) {
      expert[k] = best_expert;
      score[k] = round_to<A>(1.0f / (1.0f + expf(-get(logits[best_expert]))));
    }
  }
}

}  // namespace l4::cuda
