// small_m with weights in BF16.
#include "kernels/cuda/matmul/small_m_kernel.h"

namespace l4::cuda::small_m {

namespace {
using Few = Variant<Bf16Weights, 1, 16, 16, 6>;   // 1..4 tokens: stages of 16 x 1024, 32 KB
using Eight = Variant<Bf16Weights, 1, 32, 8, 6>;  // 5..8: 32 x 512, so that x is read once for 32 rows
using Sixteen = Variant<Bf16Weights, 2, 32, 8, 5>;
}  // namespace

void start_bf16(const OpContext& ctx, Mode mode, const Args& a, const PackedWeight& shared,
                const PackedWeight* routed) {
  if (a.n_tokens <= 4)
    start<Few>(ctx, mode, a, shared, routed);
  else if (a.n_tokens <= 8)
    start<Eight>(ctx, mode, a, shared, routed);
  else
    start<Sixteen>(ctx, mode, a, shared, routed);
}

}  // namespace l4::cuda::small_m
