// Rows in the order of their experts, those without an expert here after all others.
#pragma once

#include "kernels/cuda/matmul/grouped_stage.h"
#include "kernels/cuda/ops.h"

namespace l4::cuda::grouped {

// Device memory; null when measuring.
struct Arranged {
  ExpertGroups groups;
  int32_t* rows = nullptr;         // [T]
  Tokens for_shared, for_experts;  // with h
};
Arranged arrange(Scratch& scratch, const OpContext& ctx, const Route& route, int64_t first_expert, int64_t n_experts);
// And h in this order, as input of each of the two weights. What both take is made once.
Arranged arrange(Scratch& scratch, const OpContext& ctx, const Route& route, int64_t first_expert, const View& h,
                 const LinearSpec& shared, const LinearSpec& experts);

}  // namespace l4::cuda::grouped
