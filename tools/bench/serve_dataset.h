// What a serving benchmark asks: random words of a wanted length, a file's prompts, or ShareGPT's conversations.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/file.h"
#include "formats/json.h"

namespace l4::bench {

struct ServePrompt {
  Json input;                 // a string, or a list of chat messages
  int64_t output_tokens = 0;  // asked for
};

// Tokens of each text as the endpoint's tokenizer counts them; nothing where it cannot be asked.
using CountTokens = std::function<std::optional<std::vector<int64_t>>(const std::vector<std::string>& texts)>;

struct RandomOptions {
  int64_t input_len = 1024, output_len = 128;
  int64_t prefix_len = 0;  // tokens before it that all prompts have in common
  double range_ratio = 0;  // lengths are uniform in [len * (1 - ratio), len * (1 + ratio)], as in vLLM
};
struct Dataset {
  std::vector<ServePrompt> prompts;
  std::string note;  // what a reader of the numbers should know; empty: nothing
};

// Common English words, each by chance: nothing is cached but the prefix, and a tokenizer of today has a token for
// nearly every one. What a word costs is asked once; where that cannot be asked a word counts as a token.
Dataset random_dataset(int64_t n, const RandomOptions& options, uint64_t seed, const CountTokens& count);

// A line each: {"prompt": "..."} or {"messages": [...]}, with "output_tokens" (or "max_tokens"), else `output_len`. The
// first n in a random order, from the beginning again where there are fewer. Error{input} names the line.
Dataset jsonl_dataset(const fs::path& path, int64_t n, int64_t output_len, uint64_t seed);

// [{"conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}, ...]}, ...]: the first
// question, and as many tokens as its answer has (or output_len). Left out as in vLLM: fewer than 4 tokens in either,
// more than 1024 in the question, more than 2048 together.
Dataset sharegpt_dataset(const fs::path& path, int64_t n, std::optional<int64_t> output_len, uint64_t seed,
                         const CountTokens& count);

}  // namespace l4::bench
