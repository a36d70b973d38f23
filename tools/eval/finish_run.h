// What is made of a run file when all is asked: scores, the files beside it, whether the gate passes.
#pragma once

#include "tools/eval/gate.h"
#include "tools/eval/task_command.h"

namespace l4::eval {

// The exit status. The gate was read before anything was asked: what is wrong with it is not said after hours.
int finish_run(const TaskOptions& options, const std::optional<Gate>& gate, const RunCounts& counts);

}  // namespace l4::eval
