// `l4-run --batch`: the model, a progress bar, Ctrl+C.
#pragma once

#include "tools/run/options.h"

namespace l4::run {

int run_batch_command(const RunOptions& options);

}  // namespace l4::run
