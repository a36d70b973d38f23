// What the choices of a step need besides the logits: SamplingRows, and the memory that they point into.
#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "engine/limits.h"
#include "engine/request.h"
#include "engine/sequence.h"
#include "ops/sampling.h"

namespace l4 {

class SamplingRows {
 public:
  explicit SamplingRows(const EngineLimits& limits) : limits_(limits) {}

  void clear();
  // The choices behind the last n rows of the sequence's reserved ones, of which all but the first are drafts. With the
  // request's parameters but for `params`; `constraint` (null: none) is where the tokens before the drafts have led.
  void add(const Request& request, const SamplingParams& params, const Sequence& sequence, int64_t n,
           TokenConstraint* constraint);
  // Of what was added; as long as nothing more is, and the sequences do not change.
  std::span<const SamplingRow> rows() const { return rows_; }

 private:
  std::span<const int32_t> forbidden_before_min_tokens(const Request& request);
  void add_masks(TokenConstraint& constraint, std::span<const int32_t> drafts, std::span<SamplingRow> rows);
  std::span<uint32_t> next_mask();

  const EngineLimits& limits_;
  std::vector<SamplingRow> rows_;
  std::deque<std::vector<int32_t>> forbidden_;
  std::deque<std::vector<uint32_t>> masks_;  // kept from step to step
  size_t n_masks_ = 0;
};

}  // namespace l4
