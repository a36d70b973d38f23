// A conversion from its first look at the source to the last file of the target.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "base/file.h"
#include "tools/common/conversion_recipe.h"
#include "tools/convert/layer_runner.h"

namespace l4::convert {

struct ConvertOptions {
  fs::path source, target;
  fs::path report;  // empty: quantization_report.json in the target
  Recipe recipe;
  // Text by which INT4 codes are chosen and keys' and values' scales found. With none, codes are rounded (RTN).
  Sequences calibration;
  bool gptq = false;                  // recipe.kv_scales and this: Error{usage} without text
  Device device = Device::automatic;  // where the model runs on the text
  uint64_t calibration_bytes = 0;     // see CalibrationOptions
  uint64_t max_shard_bytes = 5'000'000'000;
  int threads = 0;                 // 0: one a core, at most kMaxThreads: each takes some 100 MB
  int64_t piece_bytes = 32 << 20;  // of the source, that a thread holds at once
  bool overwrite = false;
  // Of the source: done so far, all that this run has to do. From any thread, one at a time.
  std::function<void(uint64_t done, uint64_t total)> on_progress;
  std::function<void(int64_t done, int64_t total)> on_calibration;  // tokens through layers

  static constexpr int kMaxThreads = 32;
};

// What would be done, as text.
std::string dry_run(const ConvertOptions& options);

// Returns the table of errors. Error{...}; whatever is in the target by then is gone on from by the next call with the
// same options and source.
std::string convert(const ConvertOptions& options);

// Loads what convert() has made and compares it with the source on the sequences (verify.h); adds the result to the
// report. Returns lines for people. Error{input} where the mean KL is above `max_kl`.
std::string verify(const ConvertOptions& options, const Sequences& sequences, std::optional<double> max_kl,
                   const std::function<void(int64_t done, int64_t total)>& on_progress);

}  // namespace l4::convert
