// l4-eval logits: the logits of every prompt token, for comparing with another implementation.
#pragma once

#include <string>
#include <vector>

#include "tools/common/model_flags.h"

namespace l4::eval {

struct LogitsOptions {
  tools::ModelFlags model;
  std::string ids;                  // "1,2,3" or "@FILE"
  std::vector<std::string> images;  // in the order of their tokens
  fs::path out;                     // NumPy file, float32 [T, vocab]
  fs::path activations;             // a folder; empty: not written
};

// What AtomicFile calls the file until it is whole.
fs::path unfinished_name(const fs::path& out);

int run_logits(const LogitsOptions& options);

}  // namespace l4::eval
