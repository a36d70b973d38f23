#include "engine/sampling_rows.h"

#include <algorithm>

namespace l4 {

void SamplingRows::clear() {
  rows_.clear();
  forbidden_.clear();
  n_masks_ = 0;
}

void SamplingRows::add(const Request& request, const SamplingParams& params, const Sequence& sequence, int64_t n,
                       TokenConstraint* constraint) {
  const std::span<const int32_t> ids = sequence.ids();
  const size_t n_prompt = request.ids.size();
  const int64_t end = sequence.n_committed() + sequence.n_reserved();
  const size_t first_row = rows_.size();
  std::span<const int32_t> forbidden;
  for (int64_t position = end - n + 1; position <= end; ++position) {
    SamplingRow row;
    row.params = params;
    row.position = position;
    row.prompt = ids.first(n_prompt);
    row.output = ids.subspan(n_prompt, size_t(position) - n_prompt);
    row.logit_bias = request.logit_bias;
    if (int64_t(row.output.size()) < request.min_tokens) {
      if (forbidden.empty()) forbidden = forbidden_before_min_tokens(request);
      row.forbidden = forbidden;
    }
    rows_.push_back(row);
  }
  if (constraint)
    add_masks(*constraint, ids.subspan(size_t(end - n + 1), size_t(n - 1)), std::span(rows_).subspan(first_row));
}

std::span<const int32_t> SamplingRows::forbidden_before_min_tokens(const Request& request) {
  std::vector<int32_t>& ids = forbidden_.emplace_back(limits_.eos_ids);
  ids.insert(ids.end(), request.stop_ids.begin(), request.stop_ids.end());
  std::erase_if(ids, [&](int32_t id) { return id < 0 || id >= limits_.vocab; });
  return ids;
}

// A draft that is not allowed cannot be chosen, so nothing asks for the masks behind it.
void SamplingRows::add_masks(TokenConstraint& constraint, std::span<const int32_t> drafts,
                             std::span<SamplingRow> rows) {
  const std::unique_ptr<TokenConstraint> copy = drafts.empty() ? nullptr : constraint.clone();
  TokenConstraint& at = copy ? *copy : constraint;
  for (size_t i = 0; i < rows.size(); ++i) {
    const std::span<uint32_t> mask = next_mask();
    if (at.fill_mask(mask)) rows[i].mask = mask;
    if (i == drafts.size()) return;
    const uint32_t id = uint32_t(drafts[i]);
    const bool allowed = rows[i].mask.empty() || (mask[id / 32] >> (id % 32) & 1);
    if (!allowed || !at.accept(drafts[i]) || at.ended()) return;
  }
}

std::span<uint32_t> SamplingRows::next_mask() {
  if (n_masks_ == masks_.size()) masks_.emplace_back(size_t((limits_.vocab + 31) / 32));
  return masks_[n_masks_++];
}

}  // namespace l4
