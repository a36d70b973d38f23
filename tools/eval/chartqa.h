// ChartQA (Masry et al., 2022): questions about charts, asked by people (human) or made from summaries (augmented).
// Three recipes, each without examples:
//
//   lm-eval    lm-evaluation-harness's chartqa 0.0: a description, reasoning, then "Final Answer: X". relaxed_accuracy
//   is
//              the score; exact_match and anywhere_accuracy are shown with it.
//   llama      its chartqa_llama, Meta's prompt ("FINAL ANSWER:"), the same metrics.
//   lmms-eval  lmms-eval's chartqa 0.0: a single word, at most 16 tokens, and a rule of its own: relaxed_overall.
//
// Prompts are those of their authors to the byte; the picture stands before the text, as both harnesses put it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tools/eval/task.h"

namespace l4::eval {

struct ChartQaOptions {
  // JSONL: query, label, image (a file, seen from the folder of this one), human_or_machine (0 | 1).
  fs::path data = {};
  std::string recipe = "lm-eval";            // or "llama", "lmms-eval"
  int64_t limit = 0;                         // questions in all, 0: all
  uint64_t seed = 0;                         // 0: the first `limit` as in lm-eval, else a sample
  std::vector<std::string> categories = {};  // of human and augmented; empty: both
  std::optional<int64_t> max_tokens = {};    // of an answer; else the recipe's
};

// An item's id is the number of its line from 0, which is lm-eval's doc_id. A question whose picture is not there is a
// bad line that names its id. Error{usage} for a recipe or category that is none, Error{io | input} for the file.
Task chartqa_task(const ChartQaOptions& options);

}  // namespace l4::eval
