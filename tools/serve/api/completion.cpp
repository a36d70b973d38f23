#include "tools/serve/api/completion.h"

#include <algorithm>
#include <atomic>
#include <chrono>

#include "base/log.h"
#include "tools/serve/api/reply_parts.h"

namespace l4::serve {

using Clock = std::chrono::steady_clock;

namespace {
double seconds(Clock::duration time) {
  return std::chrono::duration<double>(time).count();
}
}  // namespace

class Completion final : public Tasks::Task {
 public:
  Completion(Completions& all, Ask ask, std::unique_ptr<Dialect> dialect, std::shared_ptr<Exchange> exchange)
      : all_(all), ask_(std::move(ask)), dialect_(std::move(dialect)), exchange_(std::move(exchange)) {}

  void start() {
    log_prompts();
    const std::weak_ptr<Completion> weak = self();
    const auto wake = [weak, tasks = all_.tasks_] {
      if (const std::shared_ptr<Completion> completion = weak.lock()) completion->wake(*tasks);
    };
    const std::unique_lock lock(mutex_);  // what wakes us meanwhile waits in run()
    for (Prompt& prompt : ask_.prompts) {
      const int64_t length = int64_t(prompt.ids.size());
      for (auto& stream : all_.source_.start(std::move(prompt), ask_.options, ask_.n, wake)) {
        parts_.emplace_back(ask_.tool_names, ask_.parallel_calls);
        answers_.emplace_back().usage.prompt_tokens = length;
        streams_.push_back(std::move(stream));
      }
    }
    last_token_.resize(streams_.size(), ask_.arrival);
    cut_.resize(streams_.size());
    last_id_.resize(streams_.size(), -1);
    if (ask_.stream) {
      exchange_->begin_events();
      dialect_->accepted(ask_, *exchange_);
    }
  }

  // Outside of start(), whose lock it may need.
  void watch_client() {
    exchange_->on_closed([weak = std::weak_ptr(self()), tasks = all_.tasks_] {
      const std::shared_ptr<Completion> completion = weak.lock();
      if (!completion) return;
      completion->gone_ = true;
      completion->wake(*tasks);
    });
    wake(*all_.tasks_);  // for a scripted source, which may have had all events before
  }

 private:
  std::shared_ptr<Completion> self() { return std::static_pointer_cast<Completion>(shared_from_this()); }

  void run() noexcept override {
    const std::unique_lock lock(mutex_);
    if (streams_.empty()) return;  // was at its end
    try {
      if (gone_) return give_up();
      for (size_t i = 0; i < streams_.size(); ++i) take_events(i);
      if (std::all_of(streams_.begin(), streams_.end(), [](const auto& stream) { return stream->done(); })) finish();
    } catch (const ApiError& error) {
      fail(error.body());
    } catch (const Error& error) {
      all_.report(error, exchange_->request().id);
      fail(api_error_of(error));
    } catch (const std::exception& error) {
      const Error internal(ErrorKind::internal, error.what());
      all_.report(internal, exchange_->request().id);
      fail(api_error_of(internal));
    }
  }

  void take_events(size_t i) {
    Answer& answer = answers_[i];
    Delta delta;
    delta.index = int(i);
    delta.first_token = answer.tokens.size();
    delta.first_prompt_token = answer.prompt_tokens.size();
    bool any = false;
    while (std::optional<GenerationEvent> event = streams_[i]->next()) {
      any = true;
      take_event(i, std::move(*event), delta);
    }
    if (any && ask_.stream) dialect_->delta(ask_, answers_, delta, *exchange_);
  }

  void take_event(size_t i, GenerationEvent event, Delta& delta) {
    Answer& answer = answers_[i];
    switch (event.kind) {
      case GenerationEvent::Kind::prompt:
        if (ask_.tokens)
          for (TokenChoice& token : event.prompt.logprobs) answer.prompt_tokens.push_back(std::move(token));
        return;
      case GenerationEvent::Kind::token:
        meter_token(i);
        ++answer.usage.completion_tokens;
        last_id_[i] = event.token.id;
        if (ask_.tokens) answer.tokens.push_back(std::move(event.token));
        add_text(i, event.text, delta);
        return;
      case GenerationEvent::Kind::finished:
        return take_end(i, event, delta);
    }
  }

  void add_text(size_t i, const std::string& text, Delta& delta) {
    if (cut_[i]) return;
    parts_[i].push(text, answers_[i], delta);
    if (!parts_[i].has_enough()) return;
    cut_[i] = true;  // one call is all that may be
    streams_[i]->cancel();
  }

  void take_end(size_t i, const GenerationEvent& event, Delta& delta) {
    Answer& answer = answers_[i];
    const Finished& finished = event.finished;
    if (finished.reason == FinishReason::error) throw Error(finished.error_kind, finished.error);
    if (finished.reason == FinishReason::cancelled && !cut_[i])
      throw ApiError(api_error(503, "the server is shutting down"));
    add_text(i, event.text, delta);
    answer.stop_text = event.stop_text;
    if (ask_.keep_stop_text && event.stop_text) add_text(i, *event.stop_text, delta);
    parts_[i].finish(answer, delta);
    answer.usage = finished.usage;
    answer.timings = finished.timings;
    answer.end = finished.reason == FinishReason::length ? AnswerEnd::length
                 : answer.calls.empty()                  ? AnswerEnd::stop
                                                         : AnswerEnd::calls;
    const std::vector<int32_t>& ids = ask_.options.stop_ids;
    if (finished.reason == FinishReason::stop && !event.stop_text &&
        std::find(ids.begin(), ids.end(), last_id_[i]) != ids.end())
      answer.stop_id = last_id_[i];
    delta.ended = true;
    meter_end(answer);
  }

  void finish() {
    streams_.clear();  // all is free again before the client knows
    write_log();
    if (ask_.stream) {
      dialect_->end(ask_, answers_, *exchange_);
      exchange_->end_events();
    } else {
      exchange_->reply({.body = dialect_->whole(ask_, answers_)});
    }
    leave();
  }

  void fail(const ErrorBody& error) {
    streams_.clear();
    if (ask_.stream) {
      dialect_->broken(error, *exchange_);
      exchange_->end_events();
    } else {
      exchange_->reply(dialect_->refusal(error));
    }
    count("error");
    leave();
  }

  void give_up() {
    streams_.clear();
    count("abort");
    leave();
  }

  void leave() {
    const std::lock_guard lock(all_.mutex_);
    all_.running_.erase(self());
  }

  void write_log() {
    const ServeLog* log = all_.hooks_.log;
    if (!log) return;
    const Totals totals = totals_of(ask_, answers_);
    LogFields fields = {{"id", exchange_->request().id},
                        {"model", ask_.model},
                        {"answers", int64_t(answers_.size())},
                        {"prompt_tokens", totals.usage.prompt_tokens},
                        {"cached_tokens", totals.usage.cached_tokens},
                        {"completion_tokens", totals.usage.completion_tokens},
                        {"queue_ms", totals.timings.queue_ms},
                        {"prompt_ms", totals.timings.prompt_ms},
                        {"predicted_ms", totals.timings.predicted_ms}};
    if (all_.hooks_.log_texts)
      for (const Answer& answer : answers_) fields.emplace_back("text", answer.text);
    log->write(LogLevel::info, "answer", fields);
  }

  // Before the prompts are given away.
  void log_prompts() {
    const Frontend& frontend = all_.source_.frontend();
    if (!all_.hooks_.log || !all_.hooks_.log_texts || !frontend.has_tokenizer()) return;
    for (const Prompt& prompt : ask_.prompts)
      all_.hooks_.log->write(LogLevel::info, "prompt",
                             {{"id", exchange_->request().id},
                              {"text", utf8_replace_invalid(frontend.tokenizer().decode(prompt.ids, false))}});
  }

  void count(const std::string& how) {
    if (!all_.hooks_.metrics) return;
    for (const Answer& answer : answers_)
      if (answer.end == AnswerEnd::open) all_.hooks_.metrics->request_success(how).add();
  }

  void meter_token(size_t i) {
    const Clock::time_point now = Clock::now();
    if (EngineMetrics* m = all_.hooks_.metrics) {
      const bool is_first = answers_[i].usage.completion_tokens == 0;
      (is_first ? m->time_to_first_token_seconds : m->inter_token_latency_seconds)
          .observe(seconds(now - last_token_[i]));
    }
    last_token_[i] = now;
  }

  void meter_end(const Answer& answer) {
    EngineMetrics* m = all_.hooks_.metrics;
    if (!m) return;
    const Usage& u = answer.usage;
    const Timings& t = answer.timings;
    m->request_success(answer.end == AnswerEnd::length ? "length" : "stop").add();
    m->request_prompt_tokens.observe(double(u.prompt_tokens));
    m->request_generation_tokens.observe(double(u.completion_tokens));
    m->e2e_request_latency_seconds.observe(seconds(Clock::now() - ask_.arrival));
    m->request_queue_time_seconds.observe(t.queue_ms / 1000);
    m->request_prefill_time_seconds.observe(t.prompt_ms / 1000);
    m->request_decode_time_seconds.observe(t.predicted_ms / 1000);
    m->request_inference_time_seconds.observe((t.prompt_ms + t.predicted_ms) / 1000);
    if (u.completion_tokens > 1)
      m->request_time_per_output_token_seconds.observe(t.predicted_ms / 1000 / double(u.completion_tokens - 1));
  }

  friend class Completions;
  Completions& all_;
  Ask ask_;
  std::unique_ptr<Dialect> dialect_;
  std::shared_ptr<Exchange> exchange_;
  std::atomic<bool> gone_{false};

  std::mutex mutex_;  // what follows
  std::vector<std::unique_ptr<AnswerStream>> streams_;
  std::vector<ReplyParts> parts_;  // of each answer, as the next ones
  std::vector<Answer> answers_;
  std::vector<Clock::time_point> last_token_;
  std::vector<int32_t> last_id_;
  std::vector<char> cut_;  // no more text is wanted
};

Completions::Completions(AnswerSource& source, CompletionHooks hooks, int n_threads)
    : source_(source), hooks_(std::move(hooks)), tasks_(std::make_shared<Tasks>(n_threads)) {}

void Completions::report(const Error& error, const std::string& request_id) const {
  if (hooks_.log)
    hooks_.log->write(LogLevel::error, "failed", {{"id", request_id}, {"error", error.message()}});
  else
    log_line(LogLevel::error, cat("request ", request_id, ": ", error.message()));
  if (error.kind() == ErrorKind::device && hooks_.on_device_failure) hooks_.on_device_failure(error.message());
}

Completions::~Completions() {
  tasks_->stop();
  std::set<std::shared_ptr<Completion>> running;
  {
    const std::lock_guard lock(mutex_);
    running = running_;
  }
  for (const std::shared_ptr<Completion>& completion : running) {
    const std::lock_guard lock(completion->mutex_);
    if (!completion->streams_.empty()) completion->fail(api_error(503, "the server is shutting down"));
  }
}

void Completions::start(Ask ask, std::unique_ptr<Dialect> dialect, std::shared_ptr<Exchange> exchange) {
  const auto completion = std::make_shared<Completion>(*this, std::move(ask), std::move(dialect), std::move(exchange));
  {
    const std::lock_guard lock(mutex_);  // before it can end
    running_.insert(completion);
  }
  try {
    completion->start();
  } catch (const std::exception& failure) {
    {
      const std::lock_guard lock(mutex_);
      running_.erase(completion);
    }
    const Error* error = dynamic_cast<const Error*>(&failure);
    if (error && api_error_of(*error).status >= 500) report(*error, completion->exchange_->request().id);
    throw;
  }
  completion->watch_client();
}

size_t Completions::n_running() const {
  const std::lock_guard lock(mutex_);
  return running_.size();
}

}  // namespace l4::serve
