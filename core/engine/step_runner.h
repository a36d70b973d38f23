// What the engine needs of whoever runs the model: the executor, or in tests a script that simulates the KV memory.
// One thread calls it, one call at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "base/error.h"
#include "ops/sampling.h"
#include "ops/step_plan.h"
#include "tensor/dtype.h"

namespace l4 {

struct ChosenRow {
  TokenChoice choice;
  std::optional<Error> failure;
};

class StepRunner {
 public:
  virtual ~StepRunner() = default;

  // Begins one step: copies step.page_copies, writes the rows' KV, computes the logits of step.out_rows. May return
  // before it is done; what fails may be thrown by the call that ends the step, which must come before anything else.
  // Error{device}: nothing works any more. Other errors: the sequences of the step are lost, others are not.
  virtual void begin_step(const StepPlan& step) = 0;
  // Ends it: one choice per step.out_rows (rows.size() == step.n_out(), which may be 0: a prefill step that is not the
  // last). Rows that hold NaN have a failure, Error{internal}.
  virtual std::vector<ChosenRow> end_step(std::span<const SamplingRow> rows) = 0;
  // The same without sampling: logits of step.out_rows, [n_out, vocab] float32. Error{internal} for NaN.
  virtual std::vector<float> end_step_with_logits() = 0;
  // Encodes tiles ([n_tiles, 3, side, side] bf16, host) into rows [feature_row, ...) of the encoder cache:
  // tokens_per_tile rows a tile.
  virtual void encode_tiles(std::span<const BFloat16> pixels, int64_t n_tiles, int64_t feature_row) = 0;

  virtual int64_t page_tokens() const = 0;
  // KV that leaves the runner and comes back: the bytes of a page, parts of all ranks one after the other. Between two
  // steps.
  virtual int64_t page_bytes(AttentionKind kind) const = 0;
  virtual void read_page(AttentionKind kind, int32_t page, std::span<std::byte> out) = 0;
  virtual void write_page(AttentionKind kind, int32_t page, std::span<const std::byte> bytes) = 0;

  // Both halves; throws where a row failed.
  std::vector<TokenChoice> step(const StepPlan& step, std::span<const SamplingRow> rows) {
    begin_step(step);
    std::vector<TokenChoice> choices;
    for (ChosenRow& row : end_step(rows)) {
      if (row.failure) throw *row.failure;
      choices.push_back(std::move(row.choice));
    }
    return choices;
  }
  std::vector<float> logits(const StepPlan& step) {
    begin_step(step);
    return end_step_with_logits();
  }
};

}  // namespace l4
