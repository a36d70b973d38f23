// Choosing the next token from logits, as plain data. The random number of token t at position p of a request with seed
// s is a hash of (s, p, t) (Gumbel-max), so a choice depends on nothing but the request: not on the batch, not on the
// order in which a device adds things up.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace l4 {

struct SamplingParams {
  float temperature = 1.0f;  // 0: greedy, the lowest id among equal logits
  int32_t top_k = 0;         // 0: off
  float top_p = 1.0f;        // keeps a token if the probability before it (sorted) is below top_p (Meta's rule)
  float min_p = 0.0f;        // keeps tokens with p >= min_p * max p
  float repetition_penalty = 1.0f;  // of prompt and output tokens: logit > 0 ? logit / r : logit * r
  float frequency_penalty = 0.0f;   // logit -= f * (times in output)
  float presence_penalty = 0.0f;    // logit -= f if in output
  uint64_t seed = 0;
  int32_t n_logprobs = -1;   // -1: none, 0: of the chosen token, n: and of the n best
};

// Order of operations (as vLLM): bias and mask, repetition, frequency, presence, temperature, top-k, top-p, min-p.
// Logprobs are of the raw logits (before all of these), as OpenAI's and vLLM's default.
struct SamplingRow {
  SamplingParams params;
  int64_t position = 0;                                        // of the token being chosen, for the random number
  std::span<const int32_t> prompt, output;                     // tokens so far, for penalties
  std::span<const std::pair<int32_t, float>> logit_bias;       // -inf forbids
  std::span<const int32_t> forbidden;                          // e.g. stop ids before min_tokens
  std::span<const uint32_t> mask;                              // V bits, 1 = allowed; empty: all
};

struct TokenLogprob {
  int32_t id = -1;
  float logprob = 0;
};

struct TokenChoice {
  int32_t id = -1;
  float logprob = 0;               // of the chosen token, raw
  std::vector<TokenLogprob> top;   // n_logprobs best, descending, lowest id first among equals
};

}  // namespace l4
