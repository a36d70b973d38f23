// How far a converted model's answers are from its source's. Both run layer by layer, so that neither has to fit into
// memory.
#pragma once

#include <functional>
#include <string>

#include "formats/json.h"
#include "tools/convert/layer_runner.h"

namespace l4::convert {

struct Comparison {
  int64_t n_tokens = 0;
  double mean_kl = 0, max_kl = 0;                       // of the target's distribution from the source's, nats
  double top1 = 0;                                      // share of positions at which both would say the same
  double largest_difference = 0;                        // of two logits
  double source_perplexity = 0, target_perplexity = 0;  // of the text; 0 where it has no second token

  std::string text() const;  // lines for people
  Json json() const;
};

constexpr int64_t kVerifyTokens = 2048, kVerifyLength = 512;  // all together, of a sequence

// on_progress: tokens through layers. Error{input | ...} where either cannot be loaded, or the target's logits are not
// finite.
Comparison compare_logits(const fs::path& source, const fs::path& target, const Sequences& sequences, Device device,
                          int threads, const std::function<void(int64_t done, int64_t total)>& on_progress);

}  // namespace l4::convert
