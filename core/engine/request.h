// What goes into the engine and what comes out of it: token ids, not text.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "base/error.h"
#include "engine/token_constraint.h"
#include "ops/sampling.h"
#include "tensor/dtype.h"

namespace l4 {

// One picture, ready for the vision tower. In the ids it is n_tiles * tokens_per_tile image tokens
// (ModelConfig::image_token_id); the k-th image tokens of a prompt belong to its images in order.
struct ImageInput {
  std::shared_ptr<const std::vector<BFloat16>> pixels;  // [n_tiles, 3, side, side]
  int64_t n_tiles = 0;
  std::array<uint8_t, 16> digest{};  // of pixels and layout; equal digests count as equal pictures
};

struct Request {
  std::vector<int32_t> ids;  // the prompt, at least one token
  std::vector<ImageInput> images;

  SamplingParams sampling;
  int64_t max_tokens = -1;                            // -1: until the context is full; 0: only the prompt is computed
  int64_t min_tokens = 0;                             // neither eos nor stop ids are chosen before as many tokens
  bool ignore_eos = false;                            // the model's eos ids may be chosen and end nothing, as in vLLM
  std::vector<int32_t> stop_ids;                      // end the answer, as the model's eos ids do
  std::vector<std::pair<int32_t, float>> logit_bias;  // -inf forbids
  int32_t prompt_logprobs =
      -1;  // -1: none; n: of each prompt token, and the n best instead. Computes the whole prompt anew
  int32_t priority = 0;    // lower is served first; among equals, who came first
  std::string cache_salt = {};  // KV is shared among requests with equal salts only
  std::shared_ptr<const TokenConstraint> constraint = {};  // at its beginning; none: anything may be said
};

enum class FinishReason : uint8_t {
  stop,       // an eos or stop id (the last token event), or above the engine a stop string
  length,     // max_tokens, or the context is full
  cancelled,  // by cancel(), or the engine was shut down
  error,
};
const char* finish_reason_name(FinishReason reason);  // "stop", ...

struct Usage {
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;      // of which not computed again
  int64_t completion_tokens = 0;  // with the stop id
};

struct Timings {
  double queue_ms = 0;      // from submit() to the first step
  double prompt_ms = 0;     // images and prompt, up to the first token
  double predicted_ms = 0;  // from the first token to the last
};

// After each step that computed nothing but prompt.
struct PromptProgress {
  int64_t n_done = 0, n_total = 0;  // prompt tokens, cached ones included
  // With Request::prompt_logprobs: of the prompt tokens that became known since the last event, in order. The first
  // token of a prompt has no probability and is left out.
  std::vector<TokenChoice> logprobs;
};

struct Finished {
  FinishReason reason = FinishReason::stop;
  Usage usage;
  Timings timings;
  // reason error:
  ErrorKind error_kind = ErrorKind::internal;
  std::string error;  // one line
};

// PromptProgress*, TokenChoice*, Finished: exactly one Finished, the last.
using Event = std::variant<PromptProgress, TokenChoice, Finished>;

}  // namespace l4
