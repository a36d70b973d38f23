// What EngineLoop holds, for the two files that define it: engine_loop.cpp (requests come and go) and engine_steps.cpp
// (what a step computes and gives).
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <future>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <unordered_set>
#include <utility>

#include "engine/engine_loop.h"
#include "engine/ngram_drafts.h"
#include "engine/sampling_rows.h"
#include "engine/scheduler.h"
#include "engine/watchdog.h"

namespace l4 {

using EngineClock = std::chrono::steady_clock;

inline double ms_between(EngineClock::time_point from, EngineClock::time_point to) {
  return std::chrono::duration<double, std::milli>(to - from).count();
}

inline Finished failed(ErrorKind kind, std::string why) {
  Finished end;
  end.reason = FinishReason::error;
  end.error_kind = kind;
  end.error = std::move(why);
  return end;
}

inline Finished ended(FinishReason reason) {
  Finished end;
  end.reason = reason;
  return end;
}

// A request on its way: what the scheduler knows of it, and who hears of it.
struct EngineLoop::Job final : Task {
  using Task::Task;

  SamplingParams sampling;
  LogitsSink sink;  // wants the logits of every prompt token
  std::shared_ptr<EventChannel> channel;
  std::unique_ptr<TokenConstraint> constraint;
  std::optional<Error> failure;  // of the constraint, while the step was under way
  std::optional<NgramDrafts> ngrams;
  std::vector<std::unique_ptr<Job>> siblings;  // answers to the same prompt, waiting for this one to compute it
  std::optional<EngineClock::time_point> started;
  EngineClock::time_point submitted, first_token;
  Usage usage;
  int64_t n_reported = 0;  // of the prompt
};

struct EngineLoop::Impl {
  Impl(std::unique_ptr<StepRunner> the_runner, const EngineLimits& the_limits, const EngineOptions& the_options)
      : runner(std::move(the_runner)),
        limits(the_limits),
        options(the_options),
        pools(runner->page_tokens(), limits.attention_chunk, limits.kv_pages, limits.kv_block_pages),
        encoder(limits.encoder_rows, limits.tokens_per_tile, limits.max_step_tiles),
        scheduler(limits, pools, encoder, options.prefix_cache ? &cache : nullptr),
        sampling(limits),
        watchdog(std::chrono::duration<double>(options.step_limit_s), [this] { stall(); }) {
    L4_CHECK(limits.vocab > 0 && limits.max_context > 0);
  }

  std::vector<std::shared_ptr<EventChannel>> submit(Request request, int n, LogitsSink sink,
                                                    std::function<void()> wake);

  int64_t between_steps(std::function<int64_t()> what);  // waits for it

  // ---- of the engine's thread
  void serve();
  bool take_requests();
  void end_cancelled();
  void run_step();
  void compute(const ScheduledStep& step, const StepPlan& plan);
  void take_results(const ScheduledStep& step, std::vector<ChosenRow> chosen);
  void take_logits(const ScheduledPart& part, std::span<const float> rows);
  void took_prompt(Job& job, PromptProgress progress);
  void take_choices(const ScheduledPart& part, std::span<ChosenRow> rows);
  bool take_token(Job& job, TokenChoice choice);
  void start_siblings(Job& job);
  void propose_drafts(Job& job);
  bool ends_answer(const Job& job, int32_t id) const;
  void fail_step(const ScheduledStep& step, ErrorKind kind, const std::string& why);
  void fail_all(const std::string& why);
  void send(Job& job, Event event) { events.emplace_back(job.channel, std::move(event)); }
  void flush();
  void finish(Job& job, Finished end);
  void publish();

  void stall();  // of the watchdog's

  std::unique_ptr<StepRunner> runner;
  const EngineLimits limits;
  const EngineOptions options;
  KvPools pools;
  PrefixCache cache{pools};
  EncoderCache encoder;
  Scheduler scheduler;
  SamplingRows sampling;

  std::map<uint64_t, std::unique_ptr<Job>> jobs;                        // by arrival; siblings not
  std::vector<std::pair<std::shared_ptr<EventChannel>, Event>> events;  // to send while the runner works
  std::optional<EngineClock::time_point> last_step_end;                 // there was work ever since
  EngineStats counts;

  mutable std::mutex mutex;  // of what follows
  std::condition_variable work;
  std::deque<std::unique_ptr<Job>> inbox;
  std::deque<std::packaged_task<int64_t()>> errands;       // of between_steps()
  std::unordered_set<std::shared_ptr<EventChannel>> open;  // not finished
  uint64_t n_arrived = 0;
  bool quit = false;
  std::string device_failure;  // empty: the device works
  EngineStats published;

  const std::shared_ptr<std::atomic<bool>> any_cancelled = std::make_shared<std::atomic<bool>>(false);
  Watchdog watchdog;
  std::thread thread;
};

}  // namespace l4
