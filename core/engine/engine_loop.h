// The thread that owns the runner and serves requests, many at once.
//
// A request's life: submit() checks it and puts it in the inbox; the thread hands it to the scheduler, which says
// before each step which rows of whom it computes (scheduler.h); after the step each row with logits gives a token,
// which is sent and, unless it ends the answer, computed in the next step. cancel() is seen between two steps. A
// failure ends the request it belongs to; a failure of the device, or a step that does not end in time, ends all.
//
// While the runner works on a step the thread sends the tokens of the step before and computes what the choices of this
// one need (masks, forbidden tokens); what is left between two steps is counted (EngineStats::host_seconds).
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/engine_stats.h"
#include "engine/limits.h"
#include "engine/prompt_file.h"
#include "engine/request.h"
#include "engine/request_handle.h"
#include "engine/step_runner.h"

namespace l4 {

// Rows of logits, [n, vocab]; `first` is the prompt position of the first.
using LogitsSink = std::function<void(int64_t first, std::span<const float> rows)>;

struct EngineOptions {
  bool prefix_cache = true;
  int ngram_drafts = 0;     // the most a sequence tries in a step; 0: none
  double step_limit_s = 0;  // 0: a step may take as long as it likes
  // A step did not end in time: every request has failed with `what`. From a thread of its own; ~EngineLoop() will not
  // return before the step does.
  std::function<void(const std::string& what)> on_stall = {};
};

class EngineLoop {
 public:
  EngineLoop(std::unique_ptr<StepRunner> runner, const EngineLimits& limits, const EngineOptions& options = {});
  ~EngineLoop();  // cancels everything; waits for the step that runs
  EngineLoop(const EngineLoop&) = delete;
  EngineLoop& operator=(const EngineLoop&) = delete;

  // Error{usage} when the request cannot be served, Error{device} once the device has failed. `wake` is called from a
  // thread of the engine after each event, the last time after Finished even if the handle is gone; it must not throw.
  RequestHandle submit(Request request, std::function<void()> wake = {});
  // n answers, with the request's seed, seed + 1, ...; the prompt is computed once.
  std::vector<RequestHandle> submit(Request request, int n, std::function<void()> wake = {});

  // Logits of every prompt token, in order; `sink` is called from the engine's thread. Returns when all is done.
  void logits(std::vector<int32_t> ids, std::vector<ImageInput> images, LogitsSink sink);

  // KV of as much of a prompt as the prefix cache knows, to a file (engine/prompt_file.h), and from one into the cache:
  // how many tokens. Between two steps, so requests wait meanwhile. Error{usage} without a prefix cache, also what
  // reading and writing throw.
  int64_t save_prompt(std::vector<int32_t> ids, const std::vector<ImageInput>& images, const std::string& salt,
                      const fs::path& file, const KvOrigin& origin);
  int64_t load_prompt(const fs::path& file, const KvOrigin& origin, const std::string& salt);

  EngineStats stats() const;
  const EngineLimits& limits() const;

 private:
  struct Job;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace l4
