// Tokens a second through l4-serve's chat API from an engine that does nothing, l4-bench's client in the same process.
// Not among the tests (a machine's speed is nothing to pass or fail): build/l4-tests -ns -tc='bench: serve api*'
#include <fcntl.h>
#include <sys/resource.h>

#include <chrono>
#include <cstdio>

#include "tools/bench/serve_load.h"
#include "tools/fake_api.h"
#include "tools/serve/http/server.h"

using namespace l4;
using namespace l4::serve;

namespace {

// A token for every answer in each step, the next step after `pause_us`; or, without a pause, as fast as they are
// taken.
class NullSource final : public AnswerSource {
 public:
  explicit NullSource(int pause_us) : pause_us_(pause_us), thread_([this] { run(); }) {}
  ~NullSource() override {
    ends_ = true;
    thread_.join();
  }
  const Frontend& frontend() const override { return *test::demo_frontend(); }
  int64_t max_context() const override { return 1 << 20; }
  EngineStats stats() const override { return {}; }
  std::vector<std::unique_ptr<AnswerStream>> start(Prompt prompt, const GenerationOptions& options, int,
                                                   std::function<void()> wake) override {
    const auto state = std::make_shared<State>();
    state->n_tokens = options.max_tokens;
    state->n_prompt = int64_t(prompt.ids.size());
    state->wake = std::move(wake);
    const std::lock_guard lock(mutex_);
    states_.push_back(state);
    std::vector<std::unique_ptr<AnswerStream>> out;
    out.push_back(std::make_unique<Stream>(state));
    return out;
  }

 private:
  struct State {
    std::atomic<int64_t> n_made{0}, n_taken{0};
    std::atomic<bool> over{false};
    int64_t n_tokens = 0, n_prompt = 0;
    std::function<void()> wake;
  };
  class Stream final : public AnswerStream {
   public:
    explicit Stream(std::shared_ptr<State> state) : state_(std::move(state)) {}
    ~Stream() override { state_->over = true; }
    std::optional<GenerationEvent> next() override {
      State& s = *state_;
      if (done_ || s.n_taken == s.n_made) return std::nullopt;
      GenerationEvent event;
      event.text = " word";
      event.token.id = 100;
      if (++s.n_taken < s.n_tokens) return event;
      done_ = true;
      event.kind = GenerationEvent::Kind::finished;
      event.finished.reason = FinishReason::length;
      event.finished.usage = {s.n_prompt, 0, s.n_tokens};
      return event;
    }
    bool done() const override { return done_; }
    void cancel() override { state_->over = true; }

   private:
    std::shared_ptr<State> state_;
    bool done_ = false;
  };

  void run() {
    while (!ends_) {
      std::vector<std::shared_ptr<State>> states;
      {
        const std::lock_guard lock(mutex_);
        std::erase_if(states_, [](const auto& s) { return s->over || s->n_made == s->n_tokens; });
        states = states_;
      }
      bool idle = true;
      for (const auto& s : states) {
        if (pause_us_ == 0 && s->n_made > s->n_taken) continue;  // so that no chunk has two
        ++s->n_made;
        s->wake();
        idle = false;
      }
      if (pause_us_ > 0 || idle) std::this_thread::sleep_for(std::chrono::microseconds(std::max(pause_us_, 100)));
    }
  }

  const int pause_us_;
  std::mutex mutex_;
  std::vector<std::shared_ptr<State>> states_;
  std::atomic<bool> ends_{false};
  std::thread thread_;
};

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) { return double(t.tv_sec) + double(t.tv_usec) * 1e-6; };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

void measure(int n_streams, int n_tokens, int pause_us) {
  const int null = ::open("/dev/null", O_WRONLY | O_CLOEXEC);
  const ServeLog log(LogFormat::json, null);
  Metrics metrics;
  EngineMetrics engine_metrics(metrics, "demo");
  NullSource source(pause_us);
  Api::Options api_options;
  api_options.settings.model_names = {"demo"};
  api_options.hooks.metrics = &engine_metrics;
  Api api(source, nullptr, std::move(api_options));
  Router router;
  api.add_routes(router);
  ServerOptions options;
  options.port = 0;
  options.max_requests = 1 << 20;
  Server server(options, router, metrics, log);
  server.start();

  tools::HttpClientOptions client_options;
  client_options.base = tools::parse_url(server.url());
  tools::HttpClient client(client_options);
  bench::Load load;
  load.path = "/v1/chat/completions";
  for (int i = 0; i < n_streams; ++i)
    load.bodies.push_back(
        cat(R"({"model": "demo", "stream": true, "stream_options": {"include_usage": true}, "max_tokens": )", n_tokens,
            R"(, "messages": [{"role": "user", "content": "Say it )", i, R"("}]})"));
  load.due_s.assign(load.bodies.size(), 0);
  const double cpu_begin = cpu_seconds();
  const bench::LoadResult result = run_load(client, load);
  const double cpu = cpu_seconds() - cpu_begin;
  const bench::ServeMetrics m = bench::measure(result.records);
  for (const bench::ServeRecord& r : result.records) CHECK(r.error == "");
  CHECK(m.output_tokens == int64_t(n_streams) * n_tokens);
  size_t n_pieces = 0;
  for (const bench::ServeRecord& r : result.records) n_pieces += r.pieces_s.size();
  std::printf(
      "%5d streams of %5d tokens, %6d us a step: %8.0f tokens/s, %8.0f chunks/s, %.2f cores, %8.0f tokens a core "
      "second, "
      "client %2.0f %%\n",
      n_streams, n_tokens, pause_us, m.output_per_s, double(n_pieces) / m.duration_s, cpu / m.duration_s,
      double(m.output_tokens) / cpu, result.busy * 100);
  server.stop();
  ::close(null);
}

}  // namespace

TEST_CASE("bench: serve api tokens a second" * doctest::skip(true)) {
  measure(1, 5'000, 0);
  measure(16, 3'000, 0);
  measure(64, 1'000, 0);
  measure(256, 300, 0);
  measure(1000, 100, 0);
  measure(64, 200, 10'000);  // an engine that steps every 10 ms
  measure(1000, 50, 20'000);
}
