// How far a converted model's answers are from its source's. Both run layer by layer, so that neither has to fit into
// memory.
#pragma once

#include <functional>
#include <string>

#include "tools/common/logit_comparison.h"
#include "tools/convert/layer_runner.h"

namespace l4::convert {

using Comparison = tools::LogitComparison;

constexpr int64_t kVerifyTokens = 2048, kVerifyLength = 512;  // all together, of a sequence

// on_progress: tokens through layers. Error{input | ...} where either cannot be loaded, or the target's logits are not
// finite.
Comparison compare_logits(const fs::path& source, const fs::path& target, const Sequences& sequences, Device device,
                          int threads, const std::function<void(int64_t done, int64_t total)>& on_progress);

}  // namespace l4::convert
