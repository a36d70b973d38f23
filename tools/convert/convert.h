// A conversion from its first look at the source to the last file of the target.
#pragma once

#include <functional>
#include <string>

#include "base/file.h"
#include "tools/convert/recipe.h"

namespace l4::convert {

struct ConvertOptions {
  fs::path source, target;
  fs::path report;  // empty: quantization_report.json in the target
  Recipe recipe;
  uint64_t max_shard_bytes = 5'000'000'000;
  int threads = 0;                 // 0: one a core, at most kMaxThreads: each takes some 100 MB
  int64_t piece_bytes = 32 << 20;  // of the source, that a thread holds at once
  bool overwrite = false;
  // Of the source: done so far, all that this run has to do. From any thread, one at a time.
  std::function<void(uint64_t done, uint64_t total)> on_progress;

  static constexpr int kMaxThreads = 32;
};

// What would be done, as text.
std::string dry_run(const ConvertOptions& options);

// Returns the table of errors. Error{...}; whatever is in the target by then is gone on from by the next call with the
// same options and source.
std::string convert(const ConvertOptions& options);

}  // namespace l4::convert
