// What a task is: questions, what to send for each, and the rule that scores what comes back. Everything here is a pure
// function of the data files and of the answer's text: no model, no clock, no network. Recipes (mmlu_pro.h, chartqa.h,
// questions.h) make Tasks; ask.h puts one to a model; record.h is what is kept of it.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/file.h"

namespace l4::eval {

// What is sent to a model for one question.
struct Query {
  struct Turn {
    std::string role;  // system, user, assistant
    std::string text;
    bool operator==(const Turn&) const = default;
  };
  std::vector<Turn> turns;        // through the model's chat template; empty: `text` is continued as it is
  std::string text;
  std::vector<fs::path> images;   // stand before the text of the last turn, in order (chat only)
  int64_t max_tokens = 0;
  std::vector<std::string> stop;  // texts that end the answer; not part of it
};

// Turns, text and pictures' bytes as 64 hexadecimal digits (SHA-256): equal for what a model sees as equal.
// Error{io} naming a picture that is not there.
std::string prompt_hash(const Query& query);

struct Item {
  std::string id;     // within the task, the same in every run
  std::string group;  // subject, human/augmented, ...; empty: the task has none
  Query query;
  std::string target;  // as reports show it
};

struct Metric {
  std::string name;  // "exact_match"
  double value = 0;  // 0 to 1
};

// What an answer is worth. An answer in which no rule finds anything is wrong, and counted as one without an answer.
struct Score {
  std::optional<std::string> extracted;  // what counted as the answer
  std::string rule;                      // which rule found it: "answer is", "last letter", ...; empty: none
  std::vector<Metric> metrics;           // the same names in the same order for every item of a task; first the main one
};

// A line of a data file that could not be used. They are counted and shown, never dropped without a word.
struct BadLine {
  int64_t line = 0;  // from 1
  std::string why;
};

struct Task {
  std::string name;    // "mmlu_pro"
  std::string recipe;  // "lm-eval", "llama", "tiger", "lmms-eval"; shown beside every score
  std::string version; // of the recipe, as its authors count: "3.1"
  std::string group_name;            // what a group is: "subject"
  bool groups_weigh_by_size = true;  // the task's score is the mean over items, else over groups
  std::vector<std::string> metrics;  // names, the main one first
  int64_t shots = 0;
  std::vector<Item> items;
  std::vector<BadLine> bad_lines;
  // Pure: the same text, the same score.
  std::function<Score(const Item&, const std::string& answer)> score;
};

}  // namespace l4::eval
