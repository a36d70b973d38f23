// l4-eval generate: many prompts through one engine, greedily, for comparing with other implementations and devices.
#pragma once

#include <string>

#include "tools/common/model_flags.h"

namespace l4::eval {

struct GenerateOptions {
  tools::ModelFlags model;
  fs::path requests;         // JSON lines, see README.md
  fs::path out;              // JSON lines
  fs::path activations;      // a folder, in it one for each request, 0, 1, ...; empty: not written
  int64_t max_tokens = 400;  // of each answer
};

int run_generate(const GenerateOptions& options);

}  // namespace l4::eval
