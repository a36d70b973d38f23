// What a step must read and compute, and how long a device of given rates needs for it at least. Pure arithmetic on a
// config, a topology and the shapes of a step (performance.md 1, and the same formulas as shared/tools/roofline.py).
//
// Counted: every weight that the step's rows need, once (of the routed experts those that were hit), keys and values
// read (each stretch once, the step's own rows included) and written, all with their scales. Products of FP8 weights
// whose inputs are quantised go at the rate of FP8 products, all others, INT4's too, at that of BF16. Not counted,
// because together they are below 0.1 % of any step of a real model: norm weights, embedding rows, activations, logits,
// page tables.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "dist/topology.h"
#include "model/weights.h"
#include "ops/step_plan.h"

namespace l4::bench {

// The shapes of a step: all that its cost depends on, besides which experts its rows hit.
struct StepWork {
  int64_t n_rows = 0, n_out = 0;
  int64_t kv_read[kNumAttentionKinds] = {0, 0};   // tokens whose K and V one layer of a kind reads
  int64_t kv_pairs[kNumAttentionKinds] = {0, 0};  // (query, key) pairs of one layer of a kind
};
StepWork work_of(const StepPlan& step);
// `batch` sequences, one row each, at position context - 1: the row sees `context` keys, in chunked layers those of its
// chunk. chunk 0: no chunking.
StepWork decode_work(int64_t batch, int64_t context, int64_t chunk);
// Rows [begin, begin + n) of one sequence; logits of the last.
StepWork prefill_work(int64_t begin, int64_t n, int64_t chunk);

// Of one device.
struct Rates {
  double read_bytes = 0;  // a second
  double flops = 0;       // a second, BF16 matrix products
  double fp8_flops = 0;   // a second, FP8 matrix products
};

// Of all ranks together.
struct Part {
  std::string name;
  double bytes = 0, flops = 0;
  double fp8_flops = 0;                      // of `flops`: of FP8 products
  double seconds(const Rates& rates) const;  // the longer of reading and multiplying
};
// n_rows inputs through one matrix of a linear, of which `share` is read and multiplied.
Part linear_part(const std::string& name, const LinearSpec& spec, double n_rows, double share = 1);

struct StepCost {
  std::vector<Part> parts;
  int tp = 1;  // ranks that share each part; stages of a pipeline work one after the other
  double bytes() const;
  double flops() const;
  // Each part takes the longer of its two times. Communication is free: it counts against whoever needs it.
  double limit_seconds(const Rates& rates) const;
  const Part& part(const std::string& name) const;
};

class CostModel {
 public:
  CostModel(const ModelConfig& config, const Topology& topology, DType activation, DType kv, const StoredWeights& stored);

  // `experts`: distinct experts hit in a MoE layer, the mean over layers.
  StepCost step(const StepWork& work, double experts) const;
  // The same expected of uniform and independent routing: E (1 - (1 - k/E)^rows).
  double expected_experts(int64_t n_rows) const;
  double weight_bytes() const { return weight_bytes_; }  // resident, all ranks together, small tensors included

 private:
  struct Linears {           // one part's weights, all ranks together
    double bytes = 0, flops = 0, fp8_flops = 0;  // flops: of one row
    Part part(const char* name, double n_read, double n_rows) const;
  };
  int tp_;
  int64_t n_experts_, top_k_;
  int64_t n_layers_of_[kNumAttentionKinds];
  double kv_token_bytes_;    // K and V of a token in one layer, and their scales
  double flops_per_pair_;    // of attention in one layer
  Linears attention_, shared_, routed_, router_, head_;  // routed: one expert of each MoE layer
  double weight_bytes_ = 0;
};

}  // namespace l4::bench
