// Log-probabilities of tokens in the shapes of the APIs.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "tools/serve/api/answer.h"

namespace l4::serve {

// {"content": [{"token", "logprob", "bytes", "top_logprobs"}, ...]}'s list, also Responses'.
Json chat_logprobs(std::span<const TokenChoice> tokens, const Tokenizer& tokenizer);

// /v1/completions' four lists, which grow. `text_offset` counts characters of the text so far.
class CompletionLogprobs {
 public:
  // n_top: how many are wanted in top_logprobs, of which the chosen token is always one more.
  CompletionLogprobs(const Tokenizer& tokenizer, int n_top) : tokenizer_(tokenizer), n_top_(n_top) {}

  void add_first(int32_t id);  // of a prompt: it has no probability
  void add(const TokenChoice& token);
  bool empty() const { return tokens_.empty(); }
  Json take();  // the lists of what came since the last time

 private:
  void add_text(int32_t id);
  const Tokenizer& tokenizer_;
  int n_top_;
  int64_t offset_ = 0;
  Json::Array tokens_, logprobs_, top_, offsets_;
};

// vLLM's prompt_logprobs: null for the first token, then {"id": {"logprob", "rank", "decoded_token"}} for each.
Json prompt_logprobs(std::span<const TokenChoice> tokens, const Tokenizer& tokenizer);

}  // namespace l4::serve
