// One prompt, one answer: the answer to standard output, all else to standard error.
#pragma once

#include "tools/run/options.h"

namespace l4::run {

int run_one_shot(const RunOptions& options);

// What is loaded before the weights, so that a wrong prompt is said at once.
std::shared_ptr<const Frontend> load_frontend(const RunOptions& options);
// The engine, with a progress bar; Ctrl+C ends the process meanwhile.
std::unique_ptr<Engine> load_engine(const RunOptions& options, std::shared_ptr<const Frontend> frontend);

}  // namespace l4::run
