// Where the weights of a rank come from: a checkpoint's files, or made up (model/synthetic.h).
#pragma once

#include "model/tensor_names.h"
#include "model/weights.h"

namespace l4 {

class WeightSource {
 public:
  virtual ~WeightSource() = default;
  virtual void check(const ModelConfig& config) const = 0;            // Error{input}: not what the config implies
  virtual DType stored(const std::string& canonical_name) const = 0;  // of a tensor that check() has seen
  virtual Weights load(const WeightPlan& plan, Backend& backend, DType activation,
                       const std::function<void(uint64_t)>& on_bytes) const = 0;
};

class CheckpointWeights : public WeightSource {
 public:
  explicit CheckpointWeights(const HfCheckpoint& checkpoint) : checkpoint_(checkpoint) {}
  void check(const ModelConfig& config) const override { check_tensors(config, checkpoint_); }
  DType stored(const std::string& name) const override {
    const TensorInfo* info = checkpoint_.find(name);
    L4_CHECK(info, name);
    return info->dtype;
  }
  Weights load(const WeightPlan& plan, Backend& backend, DType activation,
               const std::function<void(uint64_t)>& on_bytes) const override {
    return load_weights(plan, checkpoint_, backend, activation, on_bytes);
  }

 private:
  const HfCheckpoint& checkpoint_;
};

}  // namespace l4
