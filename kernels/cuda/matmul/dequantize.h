// Quantised weights as BF16 in scratch, for products of so many rows that the pass is cheap beside them, and for shapes
// that no kernel of codes takes.
#pragma once

#include <cuda_bf16.h>

#include <algorithm>

#include "kernels/cuda/matmul/int4.h"

namespace l4::cuda {

constexpr int64_t kDequantizedBytes = int64_t(1) << 30;  // the most scratch that a stage takes for it

// Of one expert.
inline int64_t dequantized_bytes(const LinearSpec& spec) {
  return spec.n * spec.k * 2;
}
inline bool is_dequantizable(const LinearSpec& spec) {
  return is_quantized(spec.format) && spec.input == InputFormat::as_is && spec.k % 8 == 0 && spec.group % 8 == 0 &&
         dequantized_bytes(spec) <= kDequantizedBytes / 2;
}

// Experts [first_expert, first_expert + n_experts) of w at `to`, row-major [n, k] in the order of the packed rows: code
// times scale, rounded once. to: null when measuring. What it returns views `to`, and w's bias.
PackedWeight dequantize(const OpContext&, const PackedWeight& w, int64_t first_expert, int64_t n_experts,
                        __nv_bfloat16* to);

// Of a feed-forward block.
inline bool must_be_dequantized(const LinearSpec& spec) {
  return is_dequantizable(spec) && !has_int4_kernel(spec);
}
// Its weights without those that have to become bfloat16: as they are, or dequantised, so many experts at once as fit
// `scratch_bytes` beside the shared expert.
struct PlainWeights {
  const PackedWeight* shared;
  const PackedWeight* experts;  // null: there are none
  int64_t first_expert = 0;     // of `experts`, among all
};
// body(PlainWeights) for all experts, some after another; not when measuring.
template <class Body>
void with_plain_weights(Scratch& scratch, const OpContext& ctx, const PackedWeight& shared, const PackedWeight* experts,
                        int64_t scratch_bytes, const Body& body) {
  const bool of_shared = must_be_dequantized(shared.spec), of_experts = experts && must_be_dequantized(experts->spec);
  PackedWeight plain_shared, plain_experts;
  if (of_shared)
    plain_shared = dequantize(ctx, shared, 0, 1, scratch.take_array<__nv_bfloat16>(shared.spec.n * shared.spec.k));
  PlainWeights plain{of_shared ? &plain_shared : &shared, experts};
  if (!of_experts) {
    if (!ctx.measuring()) body(plain);
    return;
  }
  const LinearSpec& spec = experts->spec;
  const int64_t free = scratch_bytes - (of_shared ? dequantized_bytes(shared.spec) : 0);
  const int64_t most = std::max<int64_t>(free / dequantized_bytes(spec), 1), turns = (spec.n_experts + most - 1) / most;
  const int64_t each = (spec.n_experts + turns - 1) / turns;
  __nv_bfloat16* to = scratch.take_array<__nv_bfloat16>(each * spec.n * spec.k);
  if (ctx.measuring()) return;
  plain.experts = &plain_experts;
  for (int64_t& first = plain.first_expert; first < spec.n_experts; first += each) {
    plain_experts = dequantize(ctx, *experts, first, std::min(each, spec.n_experts - first), to);
    body(plain);
  }
}

// linear() with such weights: a pass over them, then cuBLASLt; invariant: grouped_linear().
void dequantized_linear(const OpContext&, const View& x, const PackedWeight& w, const View& y, DType round_to);

}  // namespace l4::cuda
