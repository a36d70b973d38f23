// What l4-eval mmlu-pro, chartqa and questions have in common: who is asked, what is kept, how a run ends.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "tools/common/model_flags.h"
#include "tools/common/openai_endpoint.h"
#include "tools/eval/run_task.h"

namespace l4::eval {

struct TaskOptions {
  tools::ModelFlags model;        // with a URL only its name: what the endpoint calls it
  tools::EndpointFlags endpoint;  // no URL: the checkpoint is loaded here
  std::optional<int64_t> concurrency, max_attempts;

  fs::path data;
  std::optional<int64_t> limit, max_tokens, seed;
  std::vector<std::string> categories;

  fs::path out, gate;
  bool resume = false, force = false, report = false;

  bool asks_endpoint() const { return !endpoint.url.empty(); }
};

// The flags of every such command, and what is wrong with them together. An exit status where --help or the like was
// all that was asked; Error{usage}.
void add_task_flags(tools::Flags& flags, TaskOptions& options, const std::string& data_value,
                    const std::string& data_help);
// Those without the questions', for a task that makes its own.
void add_run_flags(tools::Flags& flags, TaskOptions& options);
std::optional<int> parse_task_flags(tools::Flags& flags, TaskOptions& options, int argc, char** argv);

// What decides answers besides the task, for RunHeader::settings: limit, categories, dtypes, the data files' digests.
Json common_settings(const TaskOptions& options, const std::vector<fs::path>& data_files);

// Asks, says what came of it, writes what goes beside the run file. Returns 0; 1 when a question failed or, with
// --gate, when the gate does not pass; 128 + n after a signal.
int run_task_command(const TaskOptions& options, const Task& task, Json settings);

}  // namespace l4::eval
