// Two runs of the same questions: not two scores, but question by question.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "tools/eval/document.h"
#include "tools/eval/record.h"
#include "tools/eval/statistics.h"

namespace l4::eval {

// Questions by what both runs made of them, and the difference of the main metric, second - first.
struct PairedCounts {
  int64_t both_right = 0, both_wrong = 0, only_first = 0, only_second = 0;
  double first = 0, second = 0;  // the main metric's means over the pairs
  PairedDifference difference;
  double p = 1;  // McNemar's, of only_first and only_second
  int64_t n() const { return both_right + both_wrong + only_first + only_second; }
};

// A question that one run has right and the other wrong.
struct Flip {
  std::string id, group, target;
  std::optional<std::string> first, second;  // what counted as the answer
  bool second_is_right = false;
};

struct RunComparison {
  RunHeader first, second;
  std::string metric;
  PairedCounts all;
  std::vector<std::pair<std::string, PairedCounts>> groups;  // by name; empty: the task has none
  std::vector<Flip> flips;                                   // by id
  int64_t same_text = 0;                                     // pairs whose answers are equal, letter by letter
  // Questions that are in no pair, by id: asked in one run only, failed in either; and pairs whose prompt or target is
  // not the same, which count only where they were allowed.
  std::vector<std::string> only_in_first, only_in_second, failed, different;
};

// Error{input} where the runs are of two tasks or metrics, have no question in common, or where prompts differ and
// `allow_different_prompts` does not say that they may. The names stand for the runs in messages.
RunComparison compare_runs(const RunFile& first, const RunFile& second, bool allow_different_prompts,
                           const std::string& first_name, const std::string& second_name);

Document to_document(const RunComparison& comparison);
Json to_json(const RunComparison& comparison);

}  // namespace l4::eval
