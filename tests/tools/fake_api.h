// The API without a network and without a model: an Exchange that keeps what was sent, and an engine that says what it
// was told to.
#pragma once

#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>

#include "support/test.h"
#include "tools/run_tool.h"
#include "tools/serve/api/routes.h"

namespace l4::test {

// The demo's tokenizer, template and config; loaded once.
inline const std::shared_ptr<const Frontend>& demo_frontend() {
  static const std::shared_ptr<const Frontend> frontend = Frontend::load(demo_model());
  return frontend;
}

class FakeExchange final : public serve::Exchange {
 public:
  explicit FakeExchange(std::string method, std::string path, std::string body) {
    request_.method = std::move(method);
    request_.path = std::move(path);
    request_.body = std::move(body);
    request_.id = "test";
  }

  const serve::HttpRequest& request() const override { return request_; }
  serve::HttpRequest& request() override { return request_; }
  void reply(serve::HttpResponse response) override {
    const std::lock_guard lock(mutex_);
    CHECK(!replied_);
    CHECK(!streaming_);
    replied_ = ended_ = true;
    response_ = std::move(response);
    changed_.notify_all();
  }
  void begin_events(serve::HeaderList) override {
    const std::lock_guard lock(mutex_);
    CHECK(!replied_);
    CHECK(!streaming_);
    streaming_ = true;
  }
  void send_event(std::string_view data, std::string_view name) override {
    const std::lock_guard lock(mutex_);
    CHECK(streaming_);
    CHECK(!ended_);
    events_.emplace_back(name, data);
    changed_.notify_all();
  }
  void end_events() override {
    const std::lock_guard lock(mutex_);
    CHECK(streaming_);
    CHECK(!ended_);
    ended_ = true;
    changed_.notify_all();
  }
  void on_closed(std::function<void()> call) override {
    const std::lock_guard lock(mutex_);
    on_closed_ = std::move(call);
  }
  bool is_closed() const override { return false; }

  void close() {  // the client leaves
    std::function<void()> call;
    {
      const std::lock_guard lock(mutex_);
      call = on_closed_;
    }
    call();
  }
  void wait() {
    std::unique_lock lock(mutex_);
    const bool in_time = changed_.wait_for(lock, std::chrono::seconds(30), [&] { return ended_; });
    CHECK_MESSAGE(in_time, "the answer does not end");
  }
  const serve::HttpResponse& response() {
    wait();
    CHECK(replied_);
    return response_;
  }
  Json json() { return parse_json(response().body, "response"); }
  // Name and data of each event, whole streams only.
  std::vector<std::pair<std::string, std::string>> events() {
    wait();
    CHECK(streaming_);
    return events_;
  }
  size_t n_events() {
    const std::lock_guard lock(mutex_);
    return events_.size();
  }

 private:
  serve::HttpRequest request_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool replied_ = false, streaming_ = false, ended_ = false;
  serve::HttpResponse response_;
  std::vector<std::pair<std::string, std::string>> events_;
  std::function<void()> on_closed_;
};

// What one answer will say: pieces of text, one a token, then the end.
struct Script {
  std::vector<std::string> pieces;
  FinishReason reason = FinishReason::stop;
  std::optional<std::string> stop_text = {};
  std::string error = {};
  ErrorKind error_kind = ErrorKind::internal;
  bool never_ends = false;
};

class ScriptedSource final : public serve::AnswerSource {
 public:
  struct Started {
    Prompt prompt;
    GenerationOptions options;
    int n;
  };

  explicit ScriptedSource(int64_t max_context = 4096) : max_context_(max_context) {}
  void will_say(Script script) { scripts_.push_back(std::move(script)); }

  const Frontend& frontend() const override { return *demo_frontend(); }
  int64_t max_context() const override { return max_context_; }
  EngineStats stats() const override { return stats_value; }
  std::vector<std::unique_ptr<serve::AnswerStream>> start(Prompt prompt, const GenerationOptions& options, int n,
                                                          std::function<void()> wake) override {
    const std::lock_guard lock(mutex_);
    std::vector<std::unique_ptr<serve::AnswerStream>> out;
    for (int i = 0; i < n; ++i) {
      Script script = {.pieces = {"Hello", ",", " world"}};
      if (!scripts_.empty()) {
        script = scripts_.front();
        scripts_.pop_front();
      }
      out.push_back(std::make_unique<Stream>(*this, std::move(script), int64_t(prompt.ids.size()), options));
    }
    started_.push_back({std::move(prompt), options, n});
    wake();
    return out;
  }
  Started last() {
    const std::lock_guard lock(mutex_);
    REQUIRE(!started_.empty());
    return started_.back();
  }
  bool nothing_started() {
    const std::lock_guard lock(mutex_);
    return started_.empty();
  }
  int n_alive() const { return alive_; }

  EngineStats stats_value;

 private:
  class Stream final : public serve::AnswerStream {
   public:
    Stream(ScriptedSource& source, Script script, int64_t n_prompt, const GenerationOptions& options)
        : source_(source), script_(std::move(script)), n_prompt_(n_prompt), options_(options) {
      ++source_.alive_;
    }
    ~Stream() override { --source_.alive_; }
    std::optional<GenerationEvent> next() override {
      if (done_) return std::nullopt;
      GenerationEvent event;
      if (cancelled_) return end(event, FinishReason::cancelled);
      if (next_ < script_.pieces.size()) {
        event.text = script_.pieces[next_++];
        event.token.id = int32_t(100 + next_);
        event.token.logprob = -0.5f * float(next_);
        for (int i = 0; i < options_.sampling.n_logprobs; ++i)
          event.token.top.push_back({int32_t(100 + int(next_) + i), -0.5f * float(int(next_) + i)});
        return event;
      }
      if (script_.never_ends) return std::nullopt;
      return end(event, script_.reason);
    }
    bool done() const override { return done_; }
    void cancel() override { cancelled_ = true; }

   private:
    GenerationEvent end(GenerationEvent& event, FinishReason reason) {
      done_ = true;
      event.kind = GenerationEvent::Kind::finished;
      event.finished.reason = reason;
      event.finished.error = script_.error;
      event.finished.error_kind = script_.error_kind;
      event.finished.usage = {n_prompt_, 3, int64_t(next_)};
      event.finished.timings = {1, 20, 40};
      event.stop_text = script_.stop_text;
      return event;
    }
    ScriptedSource& source_;
    Script script_;
    int64_t n_prompt_;
    GenerationOptions options_;
    size_t next_ = 0;
    bool done_ = false;
    std::atomic<bool> cancelled_{false};
  };

  const int64_t max_context_;
  std::mutex mutex_;
  std::deque<Script> scripts_;
  std::vector<Started> started_;
  std::atomic<int> alive_{0};
};

// Both put together: asks as a client would.
class FakeServer {
 public:
  explicit FakeServer(int64_t max_context = 4096) : source(max_context), api(source, nullptr, options()) {
    api.add_routes(router);
  }

  std::shared_ptr<FakeExchange> ask(const std::string& path, const std::string& body,
                                    const std::string& method = "POST") {
    auto exchange = std::make_shared<FakeExchange>(method, path, body);
    const serve::Router::Match match = router.find(method, path);
    REQUIRE_MESSAGE(match.route, path);
    exchange->request().wildcard = match.wildcard;
    // As the server answers what handlers throw.
    try {
      match.route->handler(exchange);
    } catch (const serve::ApiError& error) {
      exchange->reply(match.route->options.error_format(error.body()));
    } catch (const Error& error) {
      exchange->reply(match.route->options.error_format(serve::api_error_of(error)));
    }
    return exchange;
  }
  std::shared_ptr<FakeExchange> ask(const std::string& path, const Json& body) {
    return ask(path, dump_json(body, JsonStyle::compact));
  }

  serve::Api::Options options() {
    serve::Api::Options out;
    out.settings.model_names = {"demo", "gpt"};
    out.hooks.metrics = &engine_metrics;
    return out;
  }

  serve::Metrics metrics;
  serve::EngineMetrics engine_metrics{metrics, "demo"};
  ScriptedSource source;
  serve::Router router;
  serve::Api api;
};

}  // namespace l4::test
