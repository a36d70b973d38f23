// Puts a task's questions to a model and keeps every answer as it comes: from a Task to its run file.
#pragma once

#include "tools/eval/respondent.h"
#include "tools/eval/run_file.h"

namespace l4::eval {

// What a run was asked with, but for the device where it is not known yet.
RunHeader header_of(const Task& task, const std::string& model, uint64_t seed, Json settings);

struct RunCounts {
  int64_t n_items = 0;
  int64_t kept = 0;                                     // answered before, by the run that this one goes on with
  int64_t answered = 0, right = 0, without_answer = 0;  // those that were kept too
  int64_t failed = 0;                                   // no answer came; of these:
  int64_t missing_pictures = 0;                         // could not be asked
  // Of this process alone:
  double seconds = 0;
  int64_t prompt_tokens = 0, completion_tokens = 0;

  int64_t done() const { return answered + failed; }
};

// The digest of each item's prompt, in order. An item whose picture cannot be read has none, and `problems` says why.
struct Prompts {
  std::vector<std::string> hashes, problems;
};
// Error{input} when the task has no questions, or two of the same id.
Prompts look_at_prompts(const Task& task);

// Asks what `writer` has no answer of: what failed before is asked again. The writer has begun. Error{usage} when an
// answer that it has is of another prompt than the task's. What ends the run early is thrown, with how far it came in
// the message; Interrupted too, `counts` says how far.
void run_task(const Task& task, const Prompts& prompts, Respondent& respondent, RunWriter& writer, RunCounts& counts);

// Lines for people: what became of the questions, and how fast.
std::string describe(const RunCounts& counts, const Task& task);

}  // namespace l4::eval
