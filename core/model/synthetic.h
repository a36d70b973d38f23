// Models without files, for measuring speed: the released models' configs in code, and weights that are made up on the
// device: seeded random values, the same whatever the shards.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "model/weight_source.h"

namespace l4 {

// "scout" and "maverick": what the released Instruct checkpoints' config.json say (llama4-spec 1.1, 1.2), the vision
// tower included. "tiny": Scout's layout with small numbers, for trying things out. Error{usage} for another name.
ModelConfig synthetic_config(std::string_view name);
// The first n layers only. Error{usage} where the model has fewer.
void keep_layers(ModelConfig& config, int64_t n_layers);

// Every tensor is BF16: norm weights 1 +- 1/8, biases +- 1/8, embeddings of variance 1, linears of variance 1 / k, so
// that a normalised row stays of size 1 through any linear.
class SyntheticWeights : public WeightSource {
 public:
  SyntheticWeights(const ModelConfig& config, uint64_t seed);
  StoredWeight stored(const std::string&) const override { return DType::bf16; }
  Weights load(const WeightPlan& plan, Backend& backend, DType activation,
               const std::function<void(uint64_t)>& on_bytes) const override;

 private:
  std::map<std::string, Shape, std::less<>> shapes_;  // of the whole tensors
  uint64_t seed_;
};

}  // namespace l4
