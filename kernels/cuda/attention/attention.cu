// The two attention operations: picks kernels by choose.h.
#include "kernels/cuda/attention/choose.h"
#include "kernels/cuda/attention/kernels.h"

namespace l4::cuda {

void paged_attention(const OpContext& ctx, const AttentionArgs& args) {
  generic_paged_attention(ctx, args);
}

void tile_attention(const OpContext& ctx, const VisionAttentionArgs& args) {
  generic_tile_attention(ctx, args);
}

}  // namespace l4::cuda
