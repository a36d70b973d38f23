// Rows in the order of their experts, those without an expert here after all others.
#pragma once

#include "kernels/cuda/device/math.h"
#include "kernels/cuda/ops.h"

namespace l4::cuda::grouped {

// Device memory; null when measuring.
struct Arranged {
  ExpertGroups groups;
  int32_t* rows = nullptr;  // [T]
  bf16* h = nullptr;        // [T, D] a copy of h in this order; null without h
};
Arranged arrange(Scratch& scratch, const OpContext& ctx, const Route& route, int64_t first_expert, int64_t n_experts,
                 const View& h);

}  // namespace l4::cuda::grouped
