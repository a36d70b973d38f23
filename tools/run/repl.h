// The chat on a terminal.
#pragma once

#include "tools/run/options.h"

namespace l4::run {

int run_repl(const RunOptions& options);

}  // namespace l4::run
