// l4-bench op: each stage of a layer by itself, at a released model's shapes, beside its limit and cuBLAS.
#pragma once

#include "tools/bench/bench.h"

namespace l4::bench {

struct OpOptions {
  CommonOptions common;                         // -tp N: the shapes of one of N ranks, run on one device
  std::vector<int64_t> batches = {1, 8}, prompts, contexts = {1024};
  std::optional<int> n_layers;                  // whose weights take turns, so that no cache holds them
  bool experts_alone = false;                   // next to nothing of the shared expert
  bool check = true;                            // against the CPU backend, before anything is timed
};
void run_op(const OpOptions& options);

}  // namespace l4::bench
