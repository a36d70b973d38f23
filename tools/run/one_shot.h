// One prompt, one answer: the answer to standard output, all else to standard error.
#pragma once

#include "tools/run/options.h"

namespace l4::run {

int run_one_shot(const RunOptions& options);

// The engine, with a progress bar; Ctrl+C ends the process meanwhile.
std::unique_ptr<Engine> load_engine(const RunOptions& options, double* load_ms = nullptr);

}  // namespace l4::run
