#include "engine/engine_loop.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include "engine/encoder_cache.h"
#include "engine/prompt_logprobs.h"
#include "engine/sequence.h"
#include "engine/step_builder.h"

namespace l4 {

namespace {

using Clock = std::chrono::steady_clock;

double ms_between(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double, std::milli>(to - from).count();
}

}  // namespace

// ---- the two ends of a request --------------------------------------------------------------------------------------

struct RequestHandle::Channel {
  std::mutex mutex;
  std::condition_variable ready;
  std::deque<Event> events;
  bool finished = false;  // Finished was taken
  std::atomic<bool> cancelled{false};
  std::function<void()> wake;

  void push(Event event) {
    {
      std::lock_guard lock(mutex);
      events.push_back(std::move(event));
    }
    ready.notify_one();
    if (wake) wake();
  }
};

RequestHandle& RequestHandle::operator=(RequestHandle&& other) noexcept {
  std::swap(channel_, other.channel_);
  return *this;
}

RequestHandle::~RequestHandle() {
  cancel();
}

void RequestHandle::cancel() {
  if (channel_) channel_->cancelled = true;
}

std::optional<Event> RequestHandle::next() {
  return take(nullptr);
}

std::optional<Event> RequestHandle::next(std::chrono::milliseconds timeout) {
  return take(&timeout);
}

std::optional<Event> RequestHandle::take(const std::chrono::milliseconds* timeout) {
  if (!channel_) return std::nullopt;
  std::unique_lock lock(channel_->mutex);
  if (channel_->finished) return std::nullopt;
  auto has_event = [&] { return !channel_->events.empty(); };
  if (!timeout)
    channel_->ready.wait(lock, has_event);
  else if (!channel_->ready.wait_for(lock, *timeout, has_event))
    return std::nullopt;
  Event event = std::move(channel_->events.front());
  channel_->events.pop_front();
  channel_->finished = std::holds_alternative<Finished>(event);
  return event;
}

// ---- the loop -------------------------------------------------------------------------------------------------------

struct EngineLoop::Impl {
  struct Job {
    Request request;
    std::vector<SequenceImage> images;
    LogitsSink sink;  // wants the logits of every prompt token
    std::shared_ptr<RequestHandle::Channel> channel;
    Clock::time_point submitted, started, first_token;
    Usage usage;

    bool cancelled() const { return channel->cancelled; }
    // Its whole prompt goes through logits(), except for the last row where a token is to follow.
    bool wants_prompt_logits() const { return sink || request.prompt_logprobs >= 0; }
  };

  Impl(std::unique_ptr<StepRunner> the_runner, const EngineLimits& the_limits)
      : runner(std::move(the_runner)),
        limits(the_limits),
        pools(runner->page_tokens(), limits.attention_chunk, limits.kv_pages),
        encoder(limits.encoder_rows, limits.tokens_per_tile, limits.max_step_tiles),
        sequence(pools) {
    L4_CHECK(limits.vocab > 0 && limits.max_context > 0 && limits.max_step_rows > 0 && limits.max_out_rows > 0);
  }

  std::shared_ptr<RequestHandle::Channel> submit(Request request, LogitsSink sink, std::function<void()> wake);
  void serve_all();
  void serve(Job& job);
  void finish(Job& job, Finished finished);
  void fail_all(const std::string& why);

  FinishReason generate(Job& job);
  void begin_sequence(Job& job);
  bool run_prompt(Job& job, int64_t end);
  TokenChoice next_token(const Job& job);
  StepPlan plan_step(int64_t end, OutRows out);
  int64_t encode_images(int64_t end);
  void commit();
  bool ends_answer(const Job& job, int32_t id) const;

  std::unique_ptr<StepRunner> runner;
  const EngineLimits limits;
  KvPools pools;
  EncoderCache encoder;
  Sequence sequence;  // of the running request; between requests its KV waits for one that begins like it

  std::mutex mutex;
  std::condition_variable work;
  std::deque<std::unique_ptr<Job>> queue;
  std::atomic<bool> quit{false};
  std::string device_failure;  // empty: the device works
  std::thread thread;
};

EngineLoop::EngineLoop(std::unique_ptr<StepRunner> runner, const EngineLimits& limits)
    : impl_(std::make_unique<Impl>(std::move(runner), limits)) {
  impl_->thread = std::thread([impl = impl_.get()] { impl->serve_all(); });
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

RequestHandle EngineLoop::submit(Request request, std::function<void()> wake) {
  return RequestHandle(impl_->submit(std::move(request), {}, std::move(wake)));
}

void EngineLoop::logits(std::vector<int32_t> ids, std::vector<ImageInput> images, LogitsSink sink) {
  Request request;
  request.ids = std::move(ids);
  request.images = std::move(images);
  request.max_tokens = 0;
  RequestHandle handle(impl_->submit(std::move(request), std::move(sink), {}));
  while (auto event = handle.next()) {
    const Finished* finished = std::get_if<Finished>(&*event);
    if (!finished) continue;
    if (finished->reason == FinishReason::error) throw Error(finished->error_kind, finished->error);
    if (finished->reason == FinishReason::cancelled) fail(ErrorKind::internal, "the engine was shut down");
  }
}

std::shared_ptr<RequestHandle::Channel> EngineLoop::Impl::submit(Request request, LogitsSink sink,
                                                                 std::function<void()> wake) {
  check_request(request, limits);
  auto job = std::make_unique<Job>();
  job->images = locate_images(request.ids, request.images, limits.image_token_id, limits.tokens_per_tile);
  job->request = std::move(request);
  job->sink = std::move(sink);
  job->channel = std::make_shared<RequestHandle::Channel>();
  job->channel->wake = std::move(wake);
  job->submitted = Clock::now();
  job->usage.prompt_tokens = int64_t(job->request.ids.size());
  auto channel = job->channel;
  {
    std::lock_guard lock(mutex);
    if (!device_failure.empty()) throw Error(ErrorKind::device, device_failure);
    queue.push_back(std::move(job));
  }
  work.notify_one();
  return channel;
}

void EngineLoop::Impl::serve_all() {
  for (;;) {
    std::unique_ptr<Job> job;
    {
      std::unique_lock lock(mutex);
      work.wait(lock, [&] { return quit || !queue.empty(); });
      if (queue.empty()) return;
      job = std::move(queue.front());
      queue.pop_front();
    }
    job->started = Clock::now();
    serve(*job);
  }
}

void EngineLoop::Impl::serve(Job& job) {
  Finished end;
  try {
    end.reason = generate(job);
    for (SequenceImage& image : sequence.images()) image.input.pixels.reset();
  } catch (const Error& e) {
    end.reason = FinishReason::error;
    end.error_kind = e.kind();
    end.error = e.message();
  } catch (const std::exception& e) {
    end.reason = FinishReason::error;
    end.error = cat("unexpected failure: ", e.what());
  }
  if (end.reason == FinishReason::error) sequence = Sequence(pools);
  const bool device_failed = end.reason == FinishReason::error && end.error_kind == ErrorKind::device;
  const std::string why = end.error;
  if (device_failed) {  // before anybody can hear of it, so that nobody's next request is taken
    std::lock_guard lock(mutex);
    device_failure = why;
  }
  finish(job, std::move(end));
  if (device_failed) fail_all(why);
}

void EngineLoop::Impl::fail_all(const std::string& why) {
  std::deque<std::unique_ptr<Job>> waiting;
  {
    std::lock_guard lock(mutex);
    std::swap(waiting, queue);
  }
  for (auto& job : waiting) {
    Finished end;
    end.reason = FinishReason::error;
    end.error_kind = ErrorKind::device;
    end.error = why;
    job->started = Clock::now();
    finish(*job, std::move(end));
  }
}

void EngineLoop::Impl::finish(Job& job, Finished end) {
  const auto now = Clock::now();
  const bool answered = job.usage.completion_tokens > 0;
  end.usage = job.usage;
  end.timings.queue_ms = ms_between(job.submitted, job.started);
  end.timings.prompt_ms = ms_between(job.started, answered ? job.first_token : now);
  end.timings.predicted_ms = answered ? ms_between(job.first_token, now) : 0;
  job.channel->push(std::move(end));
}

// ---- one request ----------------------------------------------------------------------------------------------------

FinishReason EngineLoop::Impl::generate(Job& job) {
  const Request& request = job.request;
  const auto stopped = [&] { return quit || job.cancelled(); };
  if (stopped()) return FinishReason::cancelled;

  begin_sequence(job);
  const bool only_prompt = request.max_tokens == 0;
  const int64_t n_prompt = job.usage.prompt_tokens;
  if (!run_prompt(job, only_prompt ? n_prompt : n_prompt - 1)) return FinishReason::cancelled;
  if (only_prompt) return FinishReason::length;

  for (;;) {
    TokenChoice choice = next_token(job);
    const int32_t id = choice.id;
    L4_CHECK(id >= 0 && id < limits.vocab, "token ", id, " of ", limits.vocab);
    if (job.usage.completion_tokens++ == 0) job.first_token = Clock::now();
    sequence.append(id);
    job.channel->push(std::move(choice));
    if (ends_answer(job, id)) return FinishReason::stop;
    if (job.usage.completion_tokens == request.max_tokens || sequence.length() >= limits.max_context)
      return FinishReason::length;
    if (stopped()) return FinishReason::cancelled;
  }
}

// The last row must be computed (its logits choose the first token), with prompt logits every row.
void EngineLoop::Impl::begin_sequence(Job& job) {
  const int64_t max_keep = job.wants_prompt_logits() ? 0 : job.usage.prompt_tokens - 1;
  job.usage.cached_tokens = sequence.restart(job.request.ids, std::move(job.images), max_keep);
}

// Computes the prompt up to `end`, except that what fits in one step with the token to follow is left to that step.
// False when cancelled.
bool EngineLoop::Impl::run_prompt(Job& job, int64_t end) {
  const int64_t n_prompt = job.usage.prompt_tokens;
  const bool with_logits = job.wants_prompt_logits();
  const int64_t max_rows = with_logits ? std::min(limits.max_step_rows, limits.max_out_rows) : limits.max_step_rows;
  while (sequence.n_committed() < end) {
    if (quit || job.cancelled()) return false;
    const int64_t begin = sequence.n_committed();
    const int64_t stop =
        encode_images(prefill_step_end(begin, with_logits ? end : n_prompt, max_rows, limits.attention_chunk));
    if (stop == n_prompt && end < n_prompt) break;
    const StepPlan plan = plan_step(stop, with_logits ? OutRows::all : OutRows::none);
    PromptProgress progress{stop, n_prompt, {}};
    if (with_logits) {
      const std::vector<float> rows = runner->logits(plan);
      L4_CHECK(int64_t(rows.size()) == plan.n_out() * limits.vocab);
      if (job.sink) job.sink(begin, rows);
      if (job.request.prompt_logprobs >= 0)
        progress.logprobs = prompt_logprobs(rows, limits.vocab, sequence.ids(), begin, job.request.prompt_logprobs);
    } else {
      runner->step(plan, {});
    }
    commit();
    job.channel->push(std::move(progress));
  }
  return true;
}

// The step of all rows that are known and not computed, and the choice of the token behind them.
TokenChoice EngineLoop::Impl::next_token(const Job& job) {
  const Request& request = job.request;
  const StepPlan plan = plan_step(encode_images(sequence.length()), OutRows::last);
  L4_CHECK(sequence.n_committed() + plan.n_rows() == sequence.length());

  const std::span<const int32_t> ids = sequence.ids();
  SamplingRow row;
  row.params = request.sampling;
  row.position = sequence.length();
  row.prompt = ids.first(size_t(job.usage.prompt_tokens));
  row.output = ids.subspan(size_t(job.usage.prompt_tokens));
  row.logit_bias = request.logit_bias;
  std::vector<int32_t> forbidden;
  const bool too_early = job.usage.completion_tokens < request.min_tokens;
  if (too_early) {
    forbidden = limits.eos_ids;
    forbidden.insert(forbidden.end(), request.stop_ids.begin(), request.stop_ids.end());
  }
  std::erase_if(forbidden, [&](int32_t id) { return id < 0 || id >= limits.vocab; });
  row.forbidden = forbidden;

  std::vector<TokenChoice> choices = runner->step(plan, std::span(&row, 1));
  L4_CHECK(choices.size() == 1);
  commit();
  return std::move(choices.front());
}

StepPlan EngineLoop::Impl::plan_step(int64_t end, OutRows out) {
  if (!sequence.reserve(end - sequence.n_committed()))
    fail(ErrorKind::memory, "the KV cache is full: ", limits.kv_pages[size_t(AttentionKind::global)], " global and ",
         limits.kv_pages[size_t(AttentionKind::chunked)], " chunked pages of ", pools.page_tokens,
         " tokens do not hold a sequence of ", end);
  const StepPart part{&sequence, out};
  return build_step(std::span(&part, 1), limits.tokens_per_tile);
}

// Encodes the pictures whose rows come up before `end`. Where the next one has no room in the encoder cache until rows
// of earlier ones are used, the step must end before it: returns where.
int64_t EngineLoop::Impl::encode_images(int64_t end) {
  const int64_t begin = sequence.n_committed();
  for (SequenceImage& image : sequence.images()) {
    const auto next = std::lower_bound(image.positions.begin(), image.positions.end(), begin);
    if (next == image.positions.end()) continue;
    if (*next >= end) break;
    const int64_t tile = (next - image.positions.begin()) / limits.tokens_per_tile;
    if (image.slots[size_t(tile)]) continue;
    if (!encoder.encode(*runner, image.input, tile, image.slots)) {
      L4_CHECK(*next > begin, "an image of ", image.input.n_tiles, " tiles, ", encoder.n_free(), " free");
      return *next;
    }
  }
  return end;
}

void EngineLoop::Impl::commit() {
  sequence.commit(sequence.n_reserved());
  for (SequenceImage& image : sequence.images())
    for (size_t tile = 0; tile < image.slots.size(); ++tile)
      if (image.positions[(tile + 1) * size_t(limits.tokens_per_tile) - 1] < sequence.n_committed())
        image.slots[tile].reset();
}

bool EngineLoop::Impl::ends_answer(const Job& job, int32_t id) const {
  const auto& stop_ids = job.request.stop_ids;
  if (limits.is_eos(id) && !job.request.ignore_eos) return true;
  return std::find(stop_ids.begin(), stop_ids.end(), id) != stop_ids.end();
}

}  // namespace l4
