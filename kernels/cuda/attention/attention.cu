// The two attention operations: choose.h says which kernels.
#include "kernels/cuda/attention/choose.h"
#include "kernels/cuda/attention/kernels.h"

namespace l4::cuda {

void paged_attention(const OpContext& ctx, const AttentionArgs& args) {
  const AttentionShape shape = attention_shape(args);
  const AttentionKernels kernels = choose_attention(shape, args.step->of(args.kv.kind).spans, ctx.invariant);
  if (kernels.generic) return generic_paged_attention(ctx, args);
  decode_attention(ctx, args, kernels.decode);
  prefill_attention(ctx, args, kernels.prefill);
}

void tile_attention(const OpContext& ctx, const VisionAttentionArgs& args) {
  if (choose_tile_attention(args.q.dtype, args.q.shape[3], args.scale) == TileAttentionKernel::flash)
    flash_tile_attention(ctx, args);
  else
    generic_tile_attention(ctx, args);
}

}  // namespace l4::cuda
