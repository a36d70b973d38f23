// small_m with weights in INT4. Stages of 32 x 2048.
#include "kernels/cuda/matmul/small_m_kernel.h"

namespace l4::cuda::small_m {

void start_int4(const OpContext& ctx, Mode mode, const Args& a, const PackedWeight& shared,
                const PackedWeight* routed) {
  if (is_one(mode, a, shared, routed))
    start<Variant<Int4One, 1, 32, 8, 6, 16>>(ctx, mode, a, shared, routed);
  else if (a.n_tokens <= 8)
    start<Variant<Int4Weights, 1, 32, 8, 6, 16>>(ctx, mode, a, shared, routed);
  else
    start<Variant<Int4Weights, 2, 32, 8, 5>>(ctx, mode, a, shared, routed);
}

}  // namespace l4::cuda::small_m
