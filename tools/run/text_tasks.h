// What needs a checkpoint's small files only: --tokenize, --detokenize, --render, --dry-run; and --list-devices.
#pragma once

#include "tools/run/options.h"

namespace l4::run {

// Prints to standard output; the exit status.
int run_text_task(const RunOptions& options);

// The prompt as -p and -f say it, or standard input where neither is given: -p first, then the files, a blank line
// between. Error{input} when a file
// is not UTF-8.
std::string prompt_text(const RunOptions& options);
std::string json_ids(const std::vector<int32_t>& ids);  // "[1, 2, 3]"

}  // namespace l4::run
