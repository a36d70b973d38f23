// What a run file comes to: scores with their errors, and what stands in the way of believing them. A question that
// failed (no answer came back) is in no score, neither as right nor as wrong; an answer in which nothing was found is
// wrong. The order of the records does not matter.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "tools/eval/record.h"
#include "tools/eval/statistics.h"

namespace l4::eval {

struct Counts {
  int64_t asked = 0;                 // records; the run's header says how many there should be
  int64_t answered = 0, failed = 0;  // asked = answered + failed
  int64_t right = 0, wrong = 0;      // answered = right + wrong
  int64_t without_answer = 0;        // of the wrong: no rule found anything
  int64_t cut_off = 0;               // of the answered: at the longest answer allowed
  int64_t prompt_tokens = 0, completion_tokens = 0;
};

struct GroupSummary {
  std::string name;
  Counts counts;
  std::vector<Mean> means;  // as Summary::metrics
};

// A task's metric over all that was answered, by size or by group as the run's header says.
struct MetricSummary {
  std::string name;
  Mean mean;
};

constexpr size_t kWrongAnswersKept = 12;

struct Summary {
  RunHeader header;
  Counts counts;
  std::vector<MetricSummary> metrics;                   // the main one first; empty where nothing was answered
  std::vector<GroupSummary> groups;                     // by name; empty: the task has none
  Mean plain, by_size;                                  // the main metric's mean over groups, and over items
  std::vector<std::pair<std::string, int64_t>> rules;   // answers by the rule that found them, "" none; most first
  std::vector<std::pair<std::string, int64_t>> errors;  // failed questions by what was said; most first
  std::vector<Record> wrong_answers;  // a sample: by prompt hash, so the same questions in every run that misses them

  const Mean* find(std::string_view metric) const;  // nullptr: no such metric
  bool has_score() const { return !metrics.empty(); }
  int64_t not_asked() const { return std::max<int64_t>(0, header.n_items - counts.asked); }
};
// Error{input} naming the question whose metrics are not those of the others.
Summary summarise(const RunFile& run);

// What lm-eval calls the same recipe; a recipe that it does not have is TASK_RECIPE.
struct LmEvalTask {
  std::string name;               // "mmlu_pro_llama"
  std::string filter;             // "strict_match"; "none"
  bool groups_are_tasks = false;  // "mmlu_pro_math", put together as a group; else one task
};
LmEvalTask lm_eval_task(const RunHeader& header);

// As lm-eval 0.4 writes its results: "results", "groups", "group_subtasks", "configs", "versions", "n-shot",
// "higher_is_better", "n-samples", "config". What that has no place for (counts, the run's settings) is under "l4".
Json to_lm_eval_json(const Summary& summary);

}  // namespace l4::eval
