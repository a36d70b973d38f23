// THE forward of the text model: one function, written once, for every device, format and number of ranks.
#pragma once

#include "model/config.h"
#include "model/kv_cache.h"
#include "model/rank.h"
#include "model/weights.h"

namespace l4 {

class TextModel {
 public:
  TextModel(const ModelConfig& config, const Weights& weights, DType activation, bool round_robin_experts = false);

  // Runs the rank's layers over the step's rows. `features` [F, D]: the encoder cache (may be empty). On the last stage
  // returns logits [n_out, vocab] f32 of step.out_rows; elsewhere nothing. Everything lives in rank.work until reset.
  View forward(const Rank& rank, const StepPlan& step, const KvCache& kv, const View& features) const;

 private:
  using Layer = LayerWeightsOf<Tensor, PackedWeight>;
  // Both begin with h [T, D], the norm of x, and leave both renewed. The route is empty in dense layers.
  Route attention_block(const Rank& rank, int64_t l, const StepPlan& step, const KvLayer& kv, const View& x,
                        const View& h) const;
  void ffn_block(const Rank& rank, int64_t l, const StepPlan& step, const Route& route, const View& x,
                 const View& h) const;
  View norm_before(const Rank& rank, int64_t l, const StepPlan& step) const;
  const Layer& layer(const Rank& rank, int64_t l) const { return weights_.layers[size_t(l - rank.shard.layers.begin)]; }

  const TextConfig& text_;
  const Weights& weights_;
  const DType activation_;
  const bool round_robin_experts_;
  std::vector<float> inv_freq_;  // [hd / 2]
};

}  // namespace l4
