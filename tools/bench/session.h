// A loaded model and the workloads that are timed on it: prompts read in steps, tokens decoded one a step, several
// sequences at once. Steps are built by the engine's own step builder and run by its executor; the KV cache is real and
// grows. Token ids are random, drawn from the seed, also where the model chose others: real choices of a few sequences
// run into loops, and then hit fewer experts than real text does.
#pragma once

#include <map>
#include <mutex>
#include <random>

#include "engine/executor.h"
#include "engine/sequence.h"
#include "engine/step_builder.h"
#include "tools/bench/model.h"
#include "tools/bench/roofline.h"

namespace l4::bench {

struct SessionOptions {
  ExecutorOptions executor;  // topology, dtype, threads, routing; sizes are set here
  int64_t batch_tokens = 512;  // rows of the largest step that reads a prompt
  int64_t max_sequences = 1;   // of one step
  int64_t max_context = 1;     // of the longest
  int64_t total_context = 1;   // of all that live at once, summed
  int64_t most_live = 1;       // how many these are
  uint64_t seed = 1;
};

struct StepRun {
  StepWork work;
  double seconds = 0;                    // the host's clock around a call that waits for the step's tokens
  std::optional<double> device_seconds;  // the device's own
};

struct Run {
  std::vector<StepRun> steps;
  double seconds() const;
  int64_t n_rows() const;
};

// Totals of a run.
struct RunCost {
  double bytes = 0, flops = 0, limit_seconds = 0;
  double experts = 0;  // distinct, the mean over steps
};

class Session {
 public:
  // Error{memory} before anything is made; `on_progress` as ExecutorOptions'.
  Session(const BenchModel& model, const SessionOptions& options);

  Sequence sequence(int64_t n_tokens);  // of random ids, nothing computed yet
  void extend(Sequence& sequence, int64_t n_tokens);
  // Computes the sequence's ids up to `end`, at most n_rows (0: batch_tokens) a step; a token is chosen behind the last.
  Run prefill(Sequence& sequence, int64_t end, int64_t n_rows = 0);
  // n steps of one row for each sequence, whose ids are all computed; each step chooses a token and appends a random one.
  Run decode(std::span<Sequence> sequences, int64_t n_steps);
  // `n` sequences of `context` computed tokens. One is computed, the others get copies of its KV at addresses of their
  // own; their next tokens differ.
  std::vector<Sequence> filled(int64_t n, int64_t context, Run* prefill_run = nullptr);

  // While on, steps look at the experts that their rows hit, which costs time: for warm-up steps.
  void watch_experts(bool on);
  // Distinct experts of a step of so many rows, the mean over layers: as watched, else as expected.
  double experts(int64_t n_rows) const;

  RunCost cost_of(std::span<const StepRun> steps, const Rates& rates) const;
  const CostModel& cost() const { return cost_; }
  Executor& executor() { return executor_; }
  const SessionOptions& options() const { return options_; }
  uint64_t peak_bytes() const;  // of device memory in use, as far as steps have gone

 private:
  StepRun step(std::span<const StepPart> parts, int64_t n_sampled);
  int32_t random_id();

  const BenchModel& model_;
  SessionOptions options_;
  CostModel cost_;
  Executor executor_;
  KvPools pools_;
  std::mt19937_64 random_;
  std::vector<PageCopy> pending_copies_;  // done by the next step

  struct Watched {
    double sum = 0;
    int64_t n = 0;
  };
  std::map<int64_t, Watched> watched_;  // by rows of the step
  std::mutex watch_mutex_;              // stages of a pipeline report from threads of their own
};

}  // namespace l4::bench
