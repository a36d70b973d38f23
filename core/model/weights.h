// The weights of one rank. Which tensors there are is said once, in WeightsOf; which slice of the checkpoint each one
// is, once, in plan_weights(); loading, counting and printing walk the same plan.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "dist/shard_plan.h"
#include "formats/hf_checkpoint.h"
#include "model/config.h"
#include "model/stored_weight.h"
#include "ops/backend.h"

namespace l4 {

// A small tensor kept in the activation type: rows [rows.begin, rows.end) of a checkpoint tensor.
struct TensorPlan {
  std::string tensor;  // canonical name; empty: not on this rank
  Shape shape;         // of the slice
  Range rows;
};

// A rectangle of a checkpoint tensor and its place in a linear's weight. Plain tensors are [out, in]; fused expert
// tensors [E, in, out] (llama4-spec 6.2).
struct SlicePlan {
  std::string tensor;
  Range n, k;            // output and input range, in the checkpoint tensor's own numbering
  int64_t n_offset = 0;  // where output n.begin lands
  bool fused_experts = false;
};

struct LinearPlan {
  LinearSpec spec;  // n == 0: not on this rank
  Range experts;    // of the fused tensors
  std::vector<SlicePlan> weight, bias;
};

template <class Dense, class Linear>
struct LayerWeightsOf {
  Dense input_norm, post_norm;
  Linear qkv, o, router;
  Linear shared_up, shared_down;    // the shared expert, or the whole of a dense layer
  Linear experts_up, experts_down;  // MoE layers only
};

template <class Dense, class Linear>
struct VisionLayerWeightsOf {
  Dense norm1_weight, norm1_bias, norm2_weight, norm2_bias;
  Linear qkv, o, fc1, fc2;
};

template <class Dense, class Linear>
struct WeightsOf {
  Dense embedding, final_norm;
  std::vector<LayerWeightsOf<Dense, Linear>> layers;  // of this rank's stage
  Linear lm_head;
  // vision, on the first stage's ranks, whole on each
  Dense class_embedding, position_embedding, pre_weight, pre_bias, post_weight, post_bias;
  Linear patch, adapter1, adapter2, projector;
  std::vector<VisionLayerWeightsOf<Dense, Linear>> vision_layers;
};

using WeightPlan = WeightsOf<TensorPlan, LinearPlan>;
using Weights = WeightsOf<Tensor, PackedWeight>;

// `activation`: f32 or bf16. Linears stay as they are stored unless the activation type is the narrower one (a float32
// checkpoint run in bf16 is rounded, as transformers' from_pretrained(dtype=bfloat16) does); F16 becomes float32 or
// bf16. Quantised ones stay so, too (StoredWeight::held), but for the router, the vision tower and what is multiplied at once
// (q, k and v; gate and up) and not stored alike: those become BF16. Error{unsupported} where the ranks' columns of an INT4
// weight do not begin with a group.
WeightPlan plan_weights(const ModelConfig& config, const ShardPlan& shard, DType activation, const StoredWeights& stored);

// Bytes the plan takes on its rank, by name of part, in order of appearance; `activation` for the small tensors.
struct PartBytes {
  std::string part;
  uint64_t bytes = 0;
};
std::vector<PartBytes> weight_bytes_by_part(const WeightPlan& plan, DType activation);

// Reads and packs everything. on_bytes is told of source bytes as they are done.
Weights load_weights(const WeightPlan& plan, const HfCheckpoint& checkpoint, const StoredWeights& stored, Backend& backend,
                     DType activation, const std::function<void(uint64_t)>& on_bytes);
// Shapes alone, no memory: for measuring what a step needs before anything is loaded.
Weights shapes_of(const WeightPlan& plan, DType activation);
// Source bytes that load_weights() will report in all.
uint64_t source_bytes(const WeightPlan& plan, const StoredWeights& stored);

}  // namespace l4
