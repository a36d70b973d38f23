// Bodies of requests to all endpoints, behind them an engine that says the same to everything: each is answered once,
// with JSON, and by no failure of ours. The first byte chooses the endpoint.
#include <condition_variable>
#include <cstdlib>
#include <mutex>

#include "base/paths.h"
#include "tools/serve/api/routes.h"

using namespace l4;
using namespace l4::serve;

namespace {

void require(bool holds) {
  if (!holds) std::abort();
}

class Says final : public AnswerStream {
 public:
  explicit Says(int64_t n_prompt) : n_prompt_(n_prompt) {}
  std::optional<GenerationEvent> next() override {
    constexpr const char* kPieces[] = {"Well \"so\". ", "[f(a=", "1), g()]", " {\"name\": \"f\"", ", \"parameters\": {}}"};
    if (done_) return std::nullopt;
    GenerationEvent event;
    if (next_ < std::size(kPieces)) {
      event.text = kPieces[next_++];
      event.token = {int32_t(300 + next_), -1.0f, {{300, -0.5f}}};
      return event;
    }
    done_ = true;
    event.kind = GenerationEvent::Kind::finished;
    event.finished.usage = {n_prompt_, 0, int64_t(next_)};
    return event;
  }
  bool done() const override { return done_; }
  void cancel() override {}

 private:
  int64_t n_prompt_;
  size_t next_ = 0;
  bool done_ = false;
};

class Source final : public AnswerSource {
 public:
  const Frontend& frontend() const override { return *frontend_; }
  int64_t max_context() const override { return 4096; }
  EngineStats stats() const override { return {}; }
  std::vector<std::unique_ptr<AnswerStream>> start(Prompt prompt, const GenerationOptions& options, int n,
                                                   std::function<void()>) override {
    require(!prompt.ids.empty() && n >= 1 && n <= 128 && options.max_tokens >= -1 && options.min_tokens >= 0);
    for (int32_t id : prompt.ids) require(id >= 0 && id < frontend_->config().text.vocab);
    for (const auto& [id, bias] : options.logit_bias) require(id >= 0 && id < frontend_->config().text.vocab);
    std::vector<std::unique_ptr<AnswerStream>> out;
    for (int i = 0; i < n; ++i) out.push_back(std::make_unique<Says>(int64_t(prompt.ids.size())));
    return out;
  }

 private:
  std::shared_ptr<const Frontend> frontend_ = Frontend::load(demo_model_dir());
};

class OneAnswer final : public Exchange {
 public:
  explicit OneAnswer(std::string body) { request_.body = std::move(body); }
  const HttpRequest& request() const override { return request_; }
  HttpRequest& request() override { return request_; }
  void reply(HttpResponse response) override {
    require(response.status == 200 || response.status == 400 || response.status == 404);
    const Json body = parse_json(response.body, "answer");
    if (response.status != 200) require(body.find("error")->find("message")->is_string());
    end();
  }
  void begin_events(HeaderList) override { streams_ = true; }
  void send_event(std::string_view data, std::string_view) override {
    require(streams_ && !over_);
    if (data != "[DONE]") require(parse_json(data, "event").is_object());
  }
  void end_events() override { end(); }
  void on_closed(std::function<void()>) override {}
  bool is_closed() const override { return false; }
  void wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return over_; });
  }

 private:
  void end() {
    const std::lock_guard lock(mutex_);
    require(!over_);
    over_ = true;
    changed_.notify_all();
  }
  HttpRequest request_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool streams_ = false, over_ = false;
};

struct World {
  Source source;
  Router router;
  Api api{source, nullptr, {.settings = {.model_names = {"demo"}}, .hooks = {}}};
  World() { api.add_routes(router); }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static World* const world = new World;  // its threads outlive main's end
  constexpr const char* kPaths[] = {"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages",
                                    "/v1/messages/count_tokens", "/tokenize", "/detokenize"};
  if (size == 0) return 0;
  const Route* route = world->router.find("POST", kPaths[data[0] % std::size(kPaths)]).route;
  const auto exchange = std::make_shared<OneAnswer>(std::string(reinterpret_cast<const char*>(data) + 1, size - 1));
  try {
    route->handler(exchange);
  } catch (const ApiError& error) {
    exchange->reply(route->options.error_format(error.body()));
  } catch (const Error& error) {
    exchange->reply(route->options.error_format(api_error_of(error)));
  }
  exchange->wait();
  return 0;
}
