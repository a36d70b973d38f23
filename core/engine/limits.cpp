#include "engine/limits.h"

#include <algorithm>
#include <cmath>
#include <span>

namespace l4 {

const char* finish_reason_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::stop:
      return "stop";
    case FinishReason::length:
      return "length";
    case FinishReason::cancelled:
      return "cancelled";
    case FinishReason::error:
      return "error";
  }
  return "?";
}

bool EngineLimits::is_eos(int32_t id) const {
  return std::find(eos_ids.begin(), eos_ids.end(), id) != eos_ids.end();
}

namespace {

template <class... Parts>
[[noreturn]] void refuse(const Parts&... parts) {
  fail(ErrorKind::usage, parts...);
}

void check_id(int32_t id, const EngineLimits& limits, const char* field) {
  if (id < 0 || id >= limits.vocab) refuse(field, ": token id ", id, " is outside the vocabulary of ", limits.vocab);
}

void check_range(const char* field, double value, double low, double high, const char* allowed) {
  if (!(value >= low && value <= high)) refuse(field, " must be ", allowed, ", not ", value);
}

void check_sampling(const SamplingParams& p, const EngineLimits& limits) {
  constexpr double kBig = 1e30;  // finite
  check_range("temperature", p.temperature, 0, kBig, "0 or more");
  check_range("top_k", p.top_k, 0, kBig, "0 (off) or more");
  check_range("top_p", p.top_p, 0, 1, "from 0 to 1");
  check_range("min_p", p.min_p, 0, 1, "from 0 to 1");
  if (!(p.repetition_penalty > 0 && p.repetition_penalty <= kBig))
    refuse("repetition_penalty must be more than 0, not ", p.repetition_penalty);
  check_range("frequency_penalty", p.frequency_penalty, -kBig, kBig, "a number");
  check_range("presence_penalty", p.presence_penalty, -kBig, kBig, "a number");
  check_range("logprobs", p.n_logprobs, -1, double(limits.vocab), "at most the vocabulary's size");
}

void check_images(const Request& request, const EngineLimits& limits) {
  if (request.images.empty()) return;
  if (limits.image_token_id < 0) refuse("the model takes no images");
  for (const ImageInput& image : request.images) {
    L4_CHECK(image.pixels && image.n_tiles > 0 &&
             int64_t(image.pixels->size()) / limits.tile_elements == image.n_tiles &&
             int64_t(image.pixels->size()) % limits.tile_elements == 0);
    if (image.n_tiles > limits.encoder_tiles())
      refuse("an image of ", image.n_tiles, " tiles is too large: the encoder cache holds ", limits.encoder_tiles());
  }
}

}  // namespace

void check_request(const Request& request, const EngineLimits& limits) {
  const int64_t n_prompt = int64_t(request.ids.size());
  if (n_prompt == 0) refuse("the prompt is empty");
  if (request.max_tokens < -1)
    refuse("max_tokens must be -1 (until the context is full) or more, not ", request.max_tokens);
  if (request.min_tokens < 0) refuse("min_tokens must be 0 or more, not ", request.min_tokens);
  if (request.max_tokens >= 0 && request.min_tokens > request.max_tokens)
    refuse("min_tokens (", request.min_tokens, ") is more than max_tokens (", request.max_tokens, ")");
  if (n_prompt + (request.max_tokens == 0 ? 0 : 1) > limits.max_context)
    refuse("the prompt has ", n_prompt, " tokens, which leaves no room in the context of ", limits.max_context,
           " (set by -c)");
  for (int32_t id : request.ids) check_id(id, limits, "prompt");
  for (const auto& [id, bias] : request.logit_bias) {
    check_id(id, limits, "logit_bias");
    if (std::isnan(bias) || bias == INFINITY)
      refuse("logit_bias of token ", id, " must be a number or -inf, not ", bias);
  }
  if (request.prompt_logprobs < -1 || request.prompt_logprobs > limits.vocab)
    refuse("prompt_logprobs must be from -1 (none) to ", limits.vocab, ", not ", request.prompt_logprobs);
  check_sampling(request.sampling, limits);
  check_images(request, limits);
}

}  // namespace l4
