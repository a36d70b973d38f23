// Many requests from a file, in the format of OpenAI's batch API, answered at once by the engine:
//   {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {...}}
// gives, in the same place of the output,
//   {"id", "custom_id": "a", "response": {"status_code", "request_id", "body"}, "error": null}
// A line that is no request is answered with "response": null and {"code", "message"} as "error". "model" in a body is
// ignored: there is one.
#pragma once

#include <functional>

#include "tools/common/offline_api.h"

namespace l4::run {

struct BatchOptions {
  fs::path input, output;
  int64_t max_in_flight = 1;               // requests given to the API and not yet answered
  int64_t max_failures = 16;               // answers of status 5xx that end the batch: the engine is broken
  std::function<bool()> interrupted = {};  // asked now and then; true: stop, the journal stays
  std::function<void(int64_t done, int64_t total, int64_t done_before)> progress = {};
};

struct BatchResult {
  bool finished = false;                          // false: interrupted
  int64_t n_lines = 0, n_done = 0, n_errors = 0;  // n_errors: of this run, lines without an answer of status 200
};

// Before a model is loaded: throws what run_batch() would throw for its files.
void check_batch_files(const BatchOptions& options);

// Error{io | usage} of the files, Error{device} when max_failures was reached; the journal stays then.
BatchResult run_batch(const BatchOptions& options, tools::OfflineApi& api);

}  // namespace l4::run
