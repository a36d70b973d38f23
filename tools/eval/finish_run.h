// What is made of a run file when all is asked: scores, the files beside it, whether the gate passes.
#pragma once

#include "tools/eval/task_command.h"

namespace l4::eval {

// What would be wrong only after hours of asking. Error{usage | io | input}.
void check_before_run(const TaskOptions& options);

// The exit status.
int finish_run(const TaskOptions& options, const RunCounts& counts);

}  // namespace l4::eval
