// What scores must reach, for scripts:
//
//   {"mmlu_pro": 0.74, "chartqa": {"metric": "relaxed_accuracy", "min": 0.85, "recipe": "llama", "max_failed": 2}}
//
// A number is the least value of the task's main metric. No question may have failed unless "max_failed" allows it, and
// none may be left unasked: a score of half the questions passes no gate.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "tools/eval/summary.h"

namespace l4::eval {

struct Gate {
  struct Rule {
    std::string task;
    double min = 0;                     // 0 to 1
    std::optional<std::string> metric;  // none: the main one
    std::optional<std::string> recipe;  // none: any
    int64_t max_failed = 0;
  };
  std::string source;  // the file, in messages
  std::vector<Rule> rules;
};
// Error{io | input} naming file and field.
Gate read_gate(const fs::path& path);

// A line for each way in which the run does not pass; empty: it does. A task that the gate does not know is one.
std::vector<std::string> gate_failures(const Gate& gate, const Summary& summary);
// Says on standard error in which ways the run of that file does not.
bool passes(const Gate& gate, const Summary& summary, const fs::path& run);

}  // namespace l4::eval
