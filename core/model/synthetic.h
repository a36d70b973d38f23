// Models without files, for measuring speed: the released models' configs in code, and weights that are made up on the
// device: seeded random values, the same whatever the shards.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "model/tensor_names.h"
#include "model/weight_source.h"

namespace l4 {

// "scout" and "maverick": what the released Instruct checkpoints' config.json say (llama4-spec 1.1, 1.2), the vision
// tower included. "tiny": Scout's layout with small numbers, for trying things out. Error{usage} for another name.
ModelConfig synthetic_config(std::string_view name);
// The first n layers only. Error{usage} where the model has fewer.
void keep_layers(ModelConfig& config, int64_t n_layers);

// How the linears of a made-up model are stored, as a checkpoint would have them; router and embedding are BF16. FP8
// has a scale a row, its products' inputs one a token.
struct SyntheticFormat {
  WeightFormat attention = WeightFormat::bf16, shared = WeightFormat::bf16;  // shared: experts, dense MLPs
  WeightFormat routed = WeightFormat::bf16, head = WeightFormat::bf16;
  int64_t group = 128;  // of INT4

  WeightFormat of(ModelPart part) const;
};
// performance.md 1.2's names:  bf16;  fp8: all but the head;  fp8-ffn: all MLPs, as FP8-dynamic checkpoints;
// fp8-experts: the routed ones alone, Meta's Maverick;  int4: all but the head;  int4-ffn: all MLPs, as w4a16
// checkpoints;  int4-mix: the same, attention and head in FP8. Error{usage} for another name.
SyntheticFormat synthetic_format(std::string_view name, int64_t group);
const std::vector<std::string>& synthetic_format_names();

// Norm weights are 1 +- 1/8, biases +- 1/8, embeddings of variance 1, linears of variance 1 / k, so that a normalised
// row stays of size 1 through any linear. FP8 and INT4 are the same values rounded; a scale of FP8 is that of a rank's
// part of a row.
class SyntheticWeights : public WeightSource {
 public:
  SyntheticWeights(const ModelConfig& config, uint64_t seed, const SyntheticFormat& format = {});
  StoredWeight stored(const std::string& canonical_name) const override;
  Weights load(const WeightPlan& plan, Backend& backend, DType activation,
               const std::function<void(uint64_t)>& on_bytes) const override;

 private:
  std::map<std::string, ExpectedTensor, std::less<>> tensors_;  // whole
  uint64_t seed_;
  SyntheticFormat format_;
};

}  // namespace l4
