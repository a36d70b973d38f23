// How likely the model found each token of a prompt.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "ops/sampling.h"

namespace l4 {

// `rows` holds the logits [n, vocab] of prompt positions first, first + 1, ...: of the tokens behind them. One entry
// for each such token of `ids`: log softmax of the raw logits (as TokenChoice), and the n_best best ids.
// Error{internal} for NaN.
std::vector<TokenChoice> prompt_logprobs(std::span<const float> rows, int64_t vocab, std::span<const int32_t> ids,
                                         int64_t first, int32_t n_best);

}  // namespace l4
