// How far one model's distributions are from another's, over the same tokens.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "formats/json.h"

namespace l4::tools {

struct LogitComparison {
  int64_t n_tokens = 0;
  double mean_kl = 0, max_kl = 0;                       // of the target's distribution from the source's, nats
  int64_t worst_row = 0;                                // the first with max_kl, counted as they were added
  double top1 = 0;                                      // share of positions at which both would say the same
  double largest_difference = 0;                        // of two logits
  double source_perplexity = 0, target_perplexity = 0;  // of the text; 0 where it has no second token

  std::string text() const;  // lines for people
  Json json() const;
};

// Row by row, so that neither's logits need be in memory.
class LogitComparer {
 public:
  // A position's logits of both, as many, finite, not none; the token that follows it in the text.
  void add(std::span<const float> source, std::span<const float> target, std::optional<int32_t> next);
  LogitComparison result() const;

 private:
  LogitComparison so_far_;
  double kl_ = 0, source_nll_ = 0, target_nll_ = 0;
  int64_t n_next_ = 0, n_same_ = 0;
};

}  // namespace l4::tools
