// Where the weights of a rank come from: a checkpoint's files, or made up (model/synthetic.h).
#pragma once

#include "model/check_tensors.h"
#include "model/kv_scales.h"
#include "model/weights.h"

namespace l4 {

class WeightSource {
 public:
  virtual ~WeightSource() = default;
  virtual StoredWeight stored(const std::string& canonical_name) const = 0;
  virtual Weights load(const WeightPlan& plan, Backend& backend, DType activation,
                       const std::function<void(uint64_t)>& on_bytes) const = 0;
  // Of layers whose keys and values have one (Quantization::cache_scales). Made-up ones: 1.
  virtual std::vector<KvScales> kv_scales(Range layers) const { return std::vector<KvScales>(size_t(layers.size()), {1, 1}); }
  StoredWeights all_stored() const {
    return [this](const std::string& name) { return stored(name); };
  }
};

class CheckpointWeights : public WeightSource {
 public:
  // Error{input | unsupported}: not what the config implies (check_tensors).
  CheckpointWeights(const ModelConfig& config, const HfCheckpoint& checkpoint)
      : checkpoint_(checkpoint), stored_(check_tensors(config, checkpoint)) {}
  StoredWeight stored(const std::string& name) const override {
    const auto found = stored_.find(name);
    L4_CHECK(found != stored_.end(), name);
    return found->second;
  }
  Weights load(const WeightPlan& plan, Backend& backend, DType activation,
               const std::function<void(uint64_t)>& on_bytes) const override {
    return load_weights(plan, checkpoint_, all_stored(), backend, activation, on_bytes);
  }
  std::vector<KvScales> kv_scales(Range layers) const override { return load_kv_scales(checkpoint_, layers); }

 private:
  const HfCheckpoint& checkpoint_;
  const StoredMap stored_;
};

}  // namespace l4
