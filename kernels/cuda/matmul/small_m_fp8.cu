// small_m with weights and inputs in FP8. Stages of 32 x 1024.
#include "kernels/cuda/matmul/small_m_kernel.h"

namespace l4::cuda::small_m {

void start_fp8(const OpContext& ctx, Mode mode, const Args& a, const PackedWeight& shared, const PackedWeight* routed) {
  if (is_one(mode, a, shared, routed))
    start<Variant<Fp8One, 1, 32, 8, 6>>(ctx, mode, a, shared, routed);
  else if (a.n_tokens <= 8)
    start<Variant<Fp8Weights, 1, 32, 8, 6>>(ctx, mode, a, shared, routed);
  else
    start<Variant<Fp8Weights, 2, 32, 8, 5>>(ctx, mode, a, shared, routed);
}

}  // namespace l4::cuda::small_m
