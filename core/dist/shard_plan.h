// Which part of the model a rank holds: pure arithmetic on dimensions and topology. Model code reads ranges from here
// and never asks which rank it is.
#pragma once

#include <cstdint>

#include "dist/topology.h"

namespace l4 {

struct Range {
  int64_t begin = 0, end = 0;
  int64_t size() const { return end - begin; }
  bool operator==(const Range&) const = default;
};

// Part `index` of `parts` equal parts of [0, n); parts must divide n.
Range equal_part(int64_t n, int64_t parts, int64_t index);

struct ShardDims {
  int64_t n_layers = 0, n_heads = 0, n_kv_heads = 0, ffn = 0, dense_ffn = 0, n_experts = 0, vocab = 0;
  bool any_dense = false;  // whether dense_ffn is used at all
};

struct ShardPlan {
  Topology topology;
  int rank = 0, stage = 0, tp_rank = 0;
  Range layers;      // of the text stack: pipeline stages
  Range heads;       // query heads: rows of q, columns of o
  Range kv_heads;    // rows of k and v
  Range ffn;         // shared expert: rows of gate and of up, columns of down
  Range dense_ffn;   // the same of dense layers
  Range experts;     // routed experts held here
  Range expert_ffn;  // of each of them: rows of gate and of up, columns of down
  Range vocab;       // rows of embedding and lm_head
  bool first_stage() const { return stage == 0; }
  bool last_stage() const { return stage == topology.pp - 1; }
};

// Error{usage} naming the flag and the number that does not divide.
ShardPlan make_shard_plan(const ShardDims& dims, const Topology& topology, int rank);

}  // namespace l4
