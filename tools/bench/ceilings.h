// l4-bench ceilings: what the devices can do at best, without any model.
#pragma once

#include "tools/bench/bench.h"

namespace l4::bench {

struct CeilingsOptions {
  CommonOptions common;
  CeilingSizes sizes;
};
void run_ceilings(const CeilingsOptions& options);

// The dense products of a model on one of tp ranks, for rows in one step.
std::vector<ProductShape> model_products(const ModelConfig& config, int tp, int64_t n_rows, bool fp8);

}  // namespace l4::bench
