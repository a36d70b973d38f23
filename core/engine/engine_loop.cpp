#include "engine/engine_loop.h"

#include <algorithm>

#include "engine/engine_loop_impl.h"

namespace l4 {

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
  const auto now = EngineClock::now();

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

int64_t EngineLoop::Impl::between_steps(std::function<int64_t()> what) {
  if (!options.prefix_cache) fail(ErrorKind::usage, "a prompt's KV is kept by the prefix cache, which is turned off");
  std::packaged_task<int64_t()> errand(std::move(what));
  std::future<int64_t> done = errand.get_future();
  {
    std::lock_guard lock(mutex);
    if (!device_failure.empty()) throw Error(ErrorKind::device, device_failure);
    errands.push_back(std::move(errand));
  }
  work.notify_one();
  return done.get();
}

int64_t EngineLoop::save_prompt(std::vector<int32_t> ids, const std::vector<ImageInput>& images,
                                const std::string& salt, const fs::path& file, const KvOrigin& origin) {
  Impl& im = *impl_;
  std::vector<SequenceImage> located = locate_images(ids, images, im.limits.image_token_id, im.limits.tokens_per_tile);
  return im.between_steps([&] {
    Sequence sequence(im.pools, std::move(ids), std::move(located));
    int64_t n = im.cache.adopt(sequence, salt, sequence.length());
    // Up to a chunk's edge no chunked page is needed, but to go on from a token before it the whole chunk: who asks
    // for the same prompt again does, for the last token is computed anew.
    if (n > 0 && im.pools.chunk_start(n) == n) {
      sequence.drop_kv();
      if (im.cache.adopt(sequence, salt, n - 1) < n - 1) {
        sequence.drop_kv();
        im.cache.adopt(sequence, salt, n);
      }
      n = sequence.n_committed();
    }
    if (n > 0) write_prompt_file(file, origin, sequence, *im.runner);
    return n;
  });
}

int64_t EngineLoop::load_prompt(const fs::path& file, const KvOrigin& origin, const std::string& salt) {
  Impl& im = *impl_;
  return im.between_steps(
      [&] { return read_prompt_file(file, origin, im.limits, im.pools, im.cache, salt, *im.runner); });
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
  std::deque<std::packaged_task<int64_t()>> to_do;
  bool ending;
  std::string stalled;
  {
    std::unique_lock lock(mutex);
    if (jobs.empty()) work.wait(lock, [&] { return quit || !inbox.empty() || !errands.empty(); });
    std::swap(arrived, inbox);
    std::swap(to_do, errands);
    ending = quit;
    stalled = device_failure;
  }
  if (!arrived.empty()) *any_cancelled = true;  // one of them perhaps, while it was not among the jobs
  for (auto& job : arrived) {
    scheduler.add(*job);
    const uint64_t arrival = job->arrival;
    jobs.emplace(arrival, std::move(job));
  }
  if (!to_do.empty()) flush();
  for (auto& errand : to_do) errand();
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

// ---- ends -----------------------------------------------------------------------------------------------------------

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
  const auto now = EngineClock::now();
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
