// Takes an answer from the engine while it is being written, and tells what it cost.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "formats/json.h"
#include "l4.h"

namespace l4::run {

struct Answer {
  std::string text;
  std::vector<TokenChoice> tokens, prompt_logprobs;
  Finished finished;
  std::optional<std::string> stop_text;
  bool interrupted = false;  // by Ctrl+C
};

// Shows pieces of text as they come, and how far the prompt is.
struct AnswerView {
  std::function<void(std::string_view)> text;
  std::function<void(const PromptProgress&)> prompt;
};

// Ctrl+C (or SIGTERM) cancels; a second Ctrl+C ends the process with 130. Finished{error} is thrown as the Error it is.
Answer take_answer(Generation generation, const AnswerView& view);

// "[57 prompt tokens (12 cached), 310 tokens/s | 88 tokens, 24.1 tokens/s | context 145 of 8,192]"
std::string stats_line(const Answer& answer, int64_t max_context);

struct AnswerFacts {
  std::string model;
  uint64_t seed = 0;
  double load_ms = 0;
  bool with_logprobs = false, with_prompt_logprobs = false;
};
// text, ids, finish_reason, usage, timings, ...: what --json prints. `tokenizer` names tokens; may be nullptr.
Json answer_json(const Answer& answer, const AnswerFacts& facts, const Tokenizer* tokenizer);
// A table for people: token, probability, what else was likely.
std::string logprobs_table(const std::vector<TokenChoice>& tokens, const Tokenizer* tokenizer);

}  // namespace l4::run
