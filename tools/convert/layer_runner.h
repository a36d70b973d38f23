// The model one layer at a time over many sequences, on one device: of a checkpoint of any size only a layer's weights
// and the sequences' residual stream are in memory.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "l4.h"
#include "model/kv_cache.h"
#include "model/text_model.h"
#include "model/weight_source.h"
#include "tools/common/text_sequences.h"
#include "tools/convert/observed_backend.h"

namespace l4::convert {

using tools::Sequences;

class LayerRunner {
 public:
  // The first GPU that we can use or the CPU, as `device` says; activations are BF16, or F32 for an F32 checkpoint;
  // keys and values the same, or FP8 where the config asks for it. `sequences` stay with the caller.
  LayerRunner(const ModelConfig& config, Device device, int threads, const Sequences& sequences);
  ~LayerRunner();

  // The layer that the next runs are of: 0, then the one behind it, or the same with other weights.
  void load(int64_t layer, const WeightSource& weights);
  // All sequences from where the layer before has left them. `keep`: where this layer leaves them is what the next one
  // gets.
  void run(bool keep, InputObserver* observer = nullptr);
  // The last layer's run, with the logits of all rows: [tokens, vocab] of each sequence.
  using OnLogits = std::function<void(size_t sequence, std::span<const float> logits)>;
  void run_to_logits(const OnLogits& on_logits);

  const std::string& device_name() const { return device_name_; }

 private:
  class Stream;  // where the pipeline's neighbours would be

  void run(bool keep, InputObserver* observer, const OnLogits& on_logits);

  ModelConfig config_;  // of the text alone
  const Sequences& sequences_;
  DType activation_;
  std::unique_ptr<Backend> backend_;
  std::string device_name_;
  std::unique_ptr<Comm> alone_;
  std::unique_ptr<Stream> stream_;
  // Of the loaded layer; the backend outlives them.
  ShardPlan shard_;
  Weights weights_;
  std::unique_ptr<TextModel> model_;
  std::unique_ptr<KvCache> kv_;
};

}  // namespace l4::convert
