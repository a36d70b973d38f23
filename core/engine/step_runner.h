// What the engine needs of whoever runs the model: the executor, or in tests a script that simulates the KV memory.
// One thread calls it, one call at a time.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "ops/sampling.h"
#include "ops/step_plan.h"
#include "tensor/dtype.h"

namespace l4 {

class StepRunner {
 public:
  virtual ~StepRunner() = default;

  // One step: copies step.page_copies, writes the rows' KV, returns one choice per step.out_rows (rows.size() ==
  // step.n_out(), which may be 0: a prefill step that is not the last). Error{internal} for NaN logits: the sequences
  // of the step are lost, others are not. Error{device}: nothing works any more.
  virtual std::vector<TokenChoice> step(const StepPlan& step, std::span<const SamplingRow> rows) = 0;
  // The same without sampling: logits of step.out_rows, [n_out, vocab] float32.
  virtual std::vector<float> logits(const StepPlan& step) = 0;
  // Encodes tiles ([n_tiles, 3, side, side] bf16, host) into rows [feature_row, ...) of the encoder cache:
  // tokens_per_tile rows a tile.
  virtual void encode_tiles(std::span<const BFloat16> pixels, int64_t n_tiles, int64_t feature_row) = 0;

  virtual int64_t page_tokens() const = 0;
};

}  // namespace l4
