#include "engine/engine_loop.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <thread>
#include <unordered_set>

#include "engine/ngram_drafts.h"
#include "engine/prompt_logprobs.h"
#include "engine/sampling_rows.h"
#include "engine/scheduler.h"
#include "engine/watchdog.h"

namespace l4 {

namespace {

using Clock = std::chrono::steady_clock;

double ms_between(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double, std::milli>(to - from).count();
}

double seconds_between(Clock::time_point from, Clock::time_point to) {
  return ms_between(from, to) / 1e3;
}

Finished failed(ErrorKind kind, std::string why) {
  Finished end;
  end.reason = FinishReason::error;
  end.error_kind = kind;
  end.error = std::move(why);
  return end;
}

Finished ended(FinishReason reason) {
  Finished end;
  end.reason = reason;
  return end;
}

struct Job final : Task {
  using Task::Task;

  SamplingParams sampling;
  LogitsSink sink;  // wants the logits of every prompt token
  std::shared_ptr<EventChannel> channel;
  std::unique_ptr<TokenConstraint> constraint;
  std::optional<Error> failure;  // of the constraint, while the step was under way
  std::optional<NgramDrafts> ngrams;
  std::vector<std::unique_ptr<Job>> siblings;  // answers to the same prompt, waiting for this one to compute it
  std::optional<Clock::time_point> started;
  Clock::time_point submitted, first_token;
  Usage usage;
  int64_t n_reported = 0;  // of the prompt
};

}  // namespace

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
  std::optional<Clock::time_point> last_step_end;                       // there was work ever since
  EngineStats counts;

  mutable std::mutex mutex;  // of what follows
  std::condition_variable work;
  std::deque<std::unique_ptr<Job>> inbox;
  std::unordered_set<std::shared_ptr<EventChannel>> open;  // not finished
  uint64_t n_arrived = 0;
  bool quit = false;
  std::string device_failure;  // empty: the device works
  EngineStats published;

  const std::shared_ptr<std::atomic<bool>> any_cancelled = std::make_shared<std::atomic<bool>>(false);
  Watchdog watchdog;
  std::thread thread;
};

// ---- from outside ---------------------------------------------------------------------------------------------------

EngineLoop::EngineLoop(std::unique_ptr<StepRunner> runner, const EngineLimits& limits, const EngineOptions& options)
    : impl_(std::make_unique<Impl>(std::move(runner), limits, options)) {
  impl_->publish();  // stats() before the first step
  impl_->thread = std::thread([impl = impl_.get()] { impl->serve(); });
}

EngineLoop::~EngineLoop() {
  {
    std::lock_guard lock(impl_->mutex);
    impl_->quit = true;
  }
  impl_->work.notify_one();
  impl_->thread.join();
}

const EngineLimits& EngineLoop::limits() const {
  return impl_->limits;
}

EngineStats EngineLoop::stats() const {
  std::lock_guard lock(impl_->mutex);
  EngineStats stats = impl_->published;
  for (const auto& job : impl_->inbox) stats.n_waiting += 1 + int64_t(job->siblings.size());
  return stats;
}

RequestHandle EngineLoop::submit(Request request, std::function<void()> wake) {
  return std::move(submit(std::move(request), 1, std::move(wake)).front());
}

std::vector<RequestHandle> EngineLoop::submit(Request request, int n, std::function<void()> wake) {
  std::vector<RequestHandle> handles;
  for (auto& channel : impl_->submit(std::move(request), n, {}, std::move(wake)))
    handles.emplace_back(std::move(channel));
  return handles;
}

void EngineLoop::logits(std::vector<int32_t> ids, std::vector<ImageInput> images, LogitsSink sink) {
  Request request;
  request.ids = std::move(ids);
  request.images = std::move(images);
  request.max_tokens = 0;
  RequestHandle handle(std::move(impl_->submit(std::move(request), 1, std::move(sink), {}).front()));
  while (auto event = handle.next()) {
    const Finished* finished = std::get_if<Finished>(&*event);
    if (!finished) continue;
    if (finished->reason == FinishReason::error) throw Error(finished->error_kind, finished->error);
    if (finished->reason == FinishReason::cancelled) fail(ErrorKind::internal, "the engine was shut down");
  }
}

std::vector<std::shared_ptr<EventChannel>> EngineLoop::Impl::submit(Request request, int n, LogitsSink sink,
                                                                    std::function<void()> wake) {
  check_request(request, limits);
  if (n < 1) fail(ErrorKind::usage, "n must be 1 or more, not ", n);
  const std::vector<SequenceImage> images =
      locate_images(request.ids, request.images, limits.image_token_id, limits.tokens_per_tile);
  const auto shared = std::make_shared<const Request>(std::move(request));
  const auto now = Clock::now();

  std::vector<std::shared_ptr<EventChannel>> channels;
  std::unique_lock lock(mutex);
  const uint64_t arrival = n_arrived;
  n_arrived += uint64_t(n);
  lock.unlock();
  std::unique_ptr<Job> first;
  for (int i = 0; i < n; ++i) {
    auto job = std::make_unique<Job>(pools, shared, images, arrival + uint64_t(i));
    job->sampling = shared->sampling;
    job->sampling.seed += uint64_t(i);
    job->sink = sink;
    if (sink) job->n_logits = job->n_prompt;
    if (shared->prompt_logprobs >= 0) job->n_logits = std::max(job->n_logits, job->n_prompt - job->writes());
    if (shared->constraint) job->constraint = shared->constraint->clone();
    if (options.ngram_drafts > 0) job->ngrams.emplace(options.ngram_drafts);
    job->channel = std::make_shared<EventChannel>(wake, any_cancelled);
    job->submitted = now;
    job->usage.prompt_tokens = job->n_prompt;
    channels.push_back(job->channel);
    if (!first)
      first = std::move(job);
    else
      first->siblings.push_back(std::move(job));
  }
  lock.lock();
  if (!device_failure.empty()) throw Error(ErrorKind::device, device_failure);
  open.insert(channels.begin(), channels.end());
  inbox.push_back(std::move(first));
  lock.unlock();
  work.notify_one();
  return channels;
}

// ---- the thread -----------------------------------------------------------------------------------------------------

void EngineLoop::Impl::serve() {
  while (take_requests()) {
    end_cancelled();
    if (!jobs.empty()) run_step();
    publish();
  }
}

// Waits where there is nothing to do. False: the end.
bool EngineLoop::Impl::take_requests() {
  if (jobs.empty()) {
    flush();
    last_step_end.reset();
  }
  std::deque<std::unique_ptr<Job>> arrived;
  bool ending;
  std::string stalled;
  {
    std::unique_lock lock(mutex);
    if (jobs.empty()) work.wait(lock, [&] { return quit || !inbox.empty(); });
    std::swap(arrived, inbox);
    ending = quit;
    stalled = device_failure;
  }
  if (!arrived.empty()) *any_cancelled = true;  // one of them perhaps, while it was not among the jobs
  for (auto& job : arrived) {
    scheduler.add(*job);
    const uint64_t arrival = job->arrival;
    jobs.emplace(arrival, std::move(job));
  }
  if (!stalled.empty()) fail_all(stalled);  // the step has ended after all, too late
  if (!ending) return true;
  while (!jobs.empty()) finish(*jobs.begin()->second, ended(FinishReason::cancelled));
  flush();
  return false;
}

void EngineLoop::Impl::end_cancelled() {
  if (!any_cancelled->exchange(false)) return;
  std::vector<Job*> cancelled;
  for (auto& [arrival, job] : jobs) {
    for (auto& sibling : job->siblings)
      if (sibling->channel->cancelled()) {
        finish(*sibling, ended(FinishReason::cancelled));
        sibling.reset();
      }
    std::erase(job->siblings, nullptr);
    if (job->channel->cancelled()) cancelled.push_back(job.get());
  }
  for (Job* job : cancelled) finish(*job, ended(FinishReason::cancelled));
}

void EngineLoop::Impl::run_step() {
  const ScheduledStep step = scheduler.next();
  if (step.stuck) {
    Job& job = static_cast<Job&>(*step.stuck);
    return finish(job, failed(ErrorKind::memory,
                              cat("the KV cache is full: ", limits.kv_pages[size_t(AttentionKind::global)],
                                  " global and ", limits.kv_pages[size_t(AttentionKind::chunked)], " chunked pages of ",
                                  pools.page_tokens, " tokens do not hold a sequence of ", job.sequence.length())));
  }
  std::vector<StepPart> parts;
  for (const ScheduledPart& part : step.parts) {
    Job& job = static_cast<Job&>(*part.task);
    parts.push_back({&job.sequence, part.out});
    if (job.started) continue;
    job.started = Clock::now();
    job.usage.cached_tokens = job.cached.value_or(0);
    counts.prompt_tokens += job.n_prompt;
    if (options.prefix_cache && job.n_logits == 0) {
      counts.prefix_query_tokens += job.n_prompt;
      counts.prefix_hit_tokens += job.usage.cached_tokens;
    }
  }
  ErrorKind kind = ErrorKind::internal;
  std::string why;
  try {
    const StepPlan plan = build_step(parts, limits.tokens_per_tile);
    ++counts.n_steps;
    counts.step_rows += plan.n_rows();
    return compute(step, plan);
  } catch (const Error& e) {
    kind = e.kind();
    why = e.message();
  } catch (const std::exception& e) {
    why = cat("unexpected failure: ", e.what());
  }
  watchdog.end();
  fail_step(step, kind, why);
}

void EngineLoop::Impl::compute(const ScheduledStep& step, const StepPlan& plan) {
  const auto begin = Clock::now();
  if (last_step_end) counts.host_seconds += seconds_between(*last_step_end, begin);
  watchdog.begin();
  for (const EncoderPass& pass : step.passes) runner->encode_tiles(pass.pixels, pass.n_tiles, pass.row);
  runner->begin_step(plan);

  flush();
  sampling.clear();
  for (const ScheduledPart& part : step.parts) {
    Job& job = static_cast<Job&>(*part.task);
    const int64_t n_out = part.out == OutRows::all ? part.n_rows : part.out == OutRows::last ? 1 : 0;
    if (step.logits || n_out == 0) continue;
    try {
      sampling.add(*job.request, job.sampling, job.sequence, n_out, job.constraint.get());
    } catch (const Error& e) {  // of the constraint; the rows are there
      job.failure = e;
    }
  }
  std::vector<float> logits;
  std::vector<ChosenRow> chosen;
  if (step.logits)
    logits = runner->end_step_with_logits();
  else
    chosen = runner->end_step(sampling.rows());
  watchdog.end();
  last_step_end = Clock::now();
  counts.step_seconds += seconds_between(begin, *last_step_end);
  if (step.logits) {
    L4_CHECK(int64_t(logits.size()) == plan.n_out() * limits.vocab);
    take_logits(step.parts.front(), logits);
  } else {
    L4_CHECK(int64_t(chosen.size()) == plan.n_out());
    take_results(step, std::move(chosen));
  }
}

// ---- what a step gave -----------------------------------------------------------------------------------------------

void EngineLoop::Impl::take_results(const ScheduledStep& step, std::vector<ChosenRow> chosen) {
  std::span<ChosenRow> left(chosen);
  for (const ScheduledPart& part : step.parts) {
    if (part.out == OutRows::none) {
      scheduler.commit(part, part.n_rows);
      Job& job = static_cast<Job&>(*part.task);
      took_prompt(job, {job.sequence.n_committed(), job.n_prompt, {}});
    } else {
      const size_t n = part.out == OutRows::all ? size_t(part.n_rows) : 1;
      take_choices(part, left.first(n));
      left = left.subspan(n);
    }
  }
}

void EngineLoop::Impl::take_logits(const ScheduledPart& part, std::span<const float> rows) {
  Job& job = static_cast<Job&>(*part.task);
  const int64_t begin = job.sequence.n_committed();
  PromptProgress progress{begin + part.n_rows, job.n_prompt, {}};
  if (job.sink) job.sink(begin, rows);
  if (job.request->prompt_logprobs >= 0)
    progress.logprobs = prompt_logprobs(rows, limits.vocab, job.sequence.ids(), begin, job.request->prompt_logprobs);
  scheduler.commit(part, part.n_rows);
  job.n_logits_done = begin + part.n_rows;
  took_prompt(job, std::move(progress));
}

// Who is computed anew reports nothing twice.
void EngineLoop::Impl::took_prompt(Job& job, PromptProgress progress) {
  const int64_t n_done = progress.n_done;
  if (n_done > job.n_reported && n_done <= job.n_prompt) {
    job.n_reported = n_done;
    send(job, std::move(progress));
  }
  if (!job.writes() && job.sequence.n_committed() == job.n_prompt) finish(job, ended(FinishReason::length));
}

// Row i chose the token behind draft i - 1: it counts where all drafts before it are what the rows before chose.
void EngineLoop::Impl::take_choices(const ScheduledPart& part, std::span<ChosenRow> rows) {
  Job& job = static_cast<Job&>(*part.task);
  const auto drafts = job.sequence.ids().end() - part.n_drafts;
  int64_t n_right = 0;
  while (n_right < part.n_drafts && !rows[size_t(n_right)].failure &&
         rows[size_t(n_right)].choice.id == drafts[n_right])
    ++n_right;
  counts.draft_tokens += part.n_drafts;
  counts.accepted_draft_tokens += n_right;
  if (const auto& failure = job.failure ? job.failure : rows[size_t(n_right)].failure) {
    return finish(job, failed(failure->kind(), failure->message()));
  }
  scheduler.commit(part, part.n_rows - part.n_drafts + n_right);
  if (!job.siblings.empty()) start_siblings(job);

  for (int64_t i = 0; i < n_right; ++i)
    if (!take_token(job, std::move(rows[size_t(i)].choice))) return;
  const int32_t id = rows[size_t(n_right)].choice.id;
  L4_CHECK(id >= 0 && id < limits.vocab, "token ", id, " of ", limits.vocab);
  job.sequence.append(id);
  if (!take_token(job, std::move(rows[size_t(n_right)].choice))) return;
  if (job.ngrams) {
    job.ngrams->learn(part.n_drafts, n_right);
    propose_drafts(job);
  }
}

// False: it was the last one.
bool EngineLoop::Impl::take_token(Job& job, TokenChoice choice) {
  const int32_t id = choice.id;
  if (job.usage.completion_tokens++ == 0) job.first_token = Clock::now();
  ++counts.generated_tokens;
  send(job, std::move(choice));
  std::optional<Finished> end;
  const bool is_end = ends_answer(job, id);
  if (!is_end && job.constraint && !job.constraint->accept(id))
    end = failed(ErrorKind::internal, cat("token ", id, " was chosen, which the grammar does not allow here"));
  else if (is_end || (job.constraint && job.constraint->ended()))
    end = ended(FinishReason::stop);
  else if (job.usage.completion_tokens == job.request->max_tokens ||
           job.n_prompt + job.usage.completion_tokens >= limits.max_context)
    end = ended(FinishReason::length);
  if (end) finish(job, std::move(*end));
  return !end;
}

void EngineLoop::Impl::start_siblings(Job& job) {
  for (auto& sibling : job.siblings) {
    scheduler.add_fork(*sibling, job);
    const uint64_t arrival = sibling->arrival;
    jobs.emplace(arrival, std::move(sibling));
  }
  job.siblings.clear();
}

void EngineLoop::Impl::propose_drafts(Job& job) {
  const int64_t tokens_left = limits.max_context - job.sequence.length();
  const int64_t wanted =
      job.request->max_tokens < 0 ? tokens_left : job.request->max_tokens - job.usage.completion_tokens;
  job.drafts = job.ngrams->propose(job.sequence.ids(), std::min(tokens_left, wanted) - 1);
}

bool EngineLoop::Impl::ends_answer(const Job& job, int32_t id) const {
  const auto& stop_ids = job.request->stop_ids;
  if (limits.is_eos(id) && !job.request->ignore_eos) return true;
  return std::find(stop_ids.begin(), stop_ids.end(), id) != stop_ids.end();
}

// ---- ends -----------------------------------------------------------------------------------------------------------

void EngineLoop::Impl::fail_step(const ScheduledStep& step, ErrorKind kind, const std::string& why) {
  if (kind == ErrorKind::device) return fail_all(why);
  std::vector<Job*> lost;
  for (auto& [arrival, job] : jobs) {
    const auto is_it = [&, task = job.get()](const ScheduledPart& part) { return part.task == task; };
    // Tiles that were not encoded may be anybody's.
    if (!step.passes.empty() || std::any_of(step.parts.begin(), step.parts.end(), is_it)) lost.push_back(job.get());
  }
  for (Job* job : lost) {
    scheduler.spoiled(*job);
    finish(*job, failed(kind, why));
  }
}

void EngineLoop::Impl::fail_all(const std::string& why) {
  std::deque<std::unique_ptr<Job>> arrived;
  {
    std::lock_guard lock(mutex);  // before anybody can hear of it, so that nobody's next request is taken
    if (device_failure.empty()) device_failure = why;
    std::swap(arrived, inbox);
  }
  for (auto& job : arrived) {
    const uint64_t arrival = job->arrival;
    jobs.emplace(arrival, std::move(job));
  }
  while (!jobs.empty()) finish(*jobs.begin()->second, failed(ErrorKind::device, why));
}

// The job is gone afterwards, except where it is a sibling, which its owner drops.
void EngineLoop::Impl::finish(Job& job, Finished end) {
  const auto now = Clock::now();
  const bool answered = job.usage.completion_tokens > 0;
  const auto started = job.started.value_or(now);
  end.usage = job.usage;
  end.timings.queue_ms = ms_between(job.submitted, started);
  end.timings.prompt_ms = ms_between(started, answered ? job.first_token : now);
  end.timings.predicted_ms = answered ? ms_between(job.first_token, now) : 0;
  ++(end.reason == FinishReason::stop        ? counts.n_stopped
     : end.reason == FinishReason::length    ? counts.n_length
     : end.reason == FinishReason::cancelled ? counts.n_cancelled
                                             : counts.n_failed);
  const bool keeps_no_kv = end.reason == FinishReason::error;
  send(job, std::move(end));
  {
    std::lock_guard lock(mutex);
    open.erase(job.channel);
  }
  if (keeps_no_kv) scheduler.spoiled(job);
  scheduler.remove(job);
  auto siblings = std::move(job.siblings);
  jobs.erase(job.arrival);
  if (siblings.empty()) return;
  // The next one computes the prompt.
  std::unique_ptr<Job> next = std::move(siblings.front());
  siblings.erase(siblings.begin());
  next->siblings = std::move(siblings);
  scheduler.add(*next);
  const uint64_t arrival = next->arrival;
  jobs.emplace(arrival, std::move(next));
}

void EngineLoop::Impl::flush() {
  for (auto& [channel, event] : events) channel->push(std::move(event));
  events.clear();
}

void EngineLoop::Impl::publish() {
  counts.n_running = scheduler.n_running();
  counts.n_waiting = scheduler.n_waiting();
  for (const auto& [arrival, job] : jobs) counts.n_waiting += int64_t(job->siblings.size());
  counts.preemptions = scheduler.n_preempted();
  for (AttentionKind kind : {AttentionKind::chunked, AttentionKind::global}) {
    counts.kv_pages[size_t(kind)] = pools.pool.n_pages(kind);
    counts.kv_pages_used[size_t(kind)] = pools.pool.n_used(kind);
    counts.kv_pages_cached[size_t(kind)] = pools.pool.n_cached(kind);
  }
  counts.kv_used_share = pools.pool.usage();
  std::lock_guard lock(mutex);
  published = counts;
}

void EngineLoop::Impl::stall() {
  const std::string what = cat("a step took longer than ", options.step_limit_s, " s: the device does not answer");
  std::unordered_set<std::shared_ptr<EventChannel>> told;
  {
    std::lock_guard lock(mutex);
    if (device_failure.empty()) device_failure = what;
    std::swap(told, open);
  }
  for (const auto& channel : told) channel->push(failed(ErrorKind::device, what));
  if (options.on_stall) options.on_stall(what);
}

}  // namespace l4
