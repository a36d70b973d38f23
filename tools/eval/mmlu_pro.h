// MMLU-Pro (TIGER-Lab, 2024): 12,032 questions of 14 subjects with up to ten options. Three recipes:
//
//   lm-eval  lm-evaluation-harness's mmlu_pro 3.1: 5 shots, "think step by step", the first "answer is (X)"; the score
//   is
//            the mean over questions. What vLLM's tests report.
//   llama    Meta's: lm-evaluation-harness's mmlu_pro_llama 1.0, but 0 shots, as Meta reports Llama 4 (there: 5), and
//   the
//            mean over subjects (Meta's macro_avg; there: over questions). The last "The best answer is X".
//   tiger    the authors' own script (TIGER-AI-Lab/MMLU-Pro, evaluate_from_local.py of March 2026): 5 shots in one
//   text,
//            rules with fall-backs and at last a die (letter_answer.h). It leaves out shots of prompts of 2,048 tokens
//            and more; no prompt is cut here.
//
// Prompts are those of their authors to the byte. Shots are the first of the subject in validation.jsonl.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tools/eval/task.h"

namespace l4::eval {

struct MmluProOptions {
  // A folder with test.jsonl and, for shots, validation.jsonl: the hub's fields, one question a line.
  fs::path data = {};
  std::string recipe = "lm-eval";            // or "llama", "tiger"
  std::optional<int64_t> shots = {};         // the recipe's, which may be changed
  int64_t limit = 0;                         // questions of each subject, 0: all
  std::vector<std::string> categories = {};  // subjects; empty: all
  uint64_t seed = 0;                         // 0: the first `limit` as in lm-eval, else a sample; also of tiger's die
  bool chat = true;                          // through the chat template; else one text to go on with
  // Shots as turns of their own, which is what lm-eval does with a chat template unless told otherwise; else all in the
  // user's turn. The authors' script knows one text only.
  bool fewshot_as_multiturn = true;
  std::optional<int64_t> max_tokens = {};  // of an answer; else the recipe's
};

// Questions of a subject stand together, subjects in alphabetical order: what their prompts begin with is computed
// once. Score.extracted is what the answer said, never the die, whose rule is "random guess". Error{usage} for a recipe
// or category that is none, Error{io | input} for files; a bad line of test.jsonl is counted, one of validation.jsonl
// would change other questions' prompts and is an error.
Task mmlu_pro_task(const MmluProOptions& options);

}  // namespace l4::eval
