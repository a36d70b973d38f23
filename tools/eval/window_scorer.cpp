#include "tools/eval/window_scorer.h"

#include <deque>

#include "base/error.h"
#include "base/log.h"
#include "tools/common/terminal.h"

namespace l4::eval {

namespace {

std::string folder_name(const fs::path& dir) {
  const fs::path plain = fs::absolute(dir).lexically_normal();
  return (plain.has_filename() ? plain : plain.parent_path()).filename().string();
}

class EngineScorer final : public WindowScorer {
 public:
  EngineScorer(LoadOptions load, int64_t window) : model_(folder_name(load.model_dir)) {
    if (load.max_context == 0) load.max_context = window + 1;
    load.kv_fills_memory = true;  // many windows side by side
    load.prefix_cache = false;    // log-probabilities need every row anyway
    tools::ProgressLine progress;
    load.on_progress = [&](uint64_t done, uint64_t total) { progress.bytes("loading", done, total); };
    engine_ = Engine::load(load);
    progress.clear();
    log_info(engine_->summary());
    // One more waits, so that the engine always has work.
    max_in_flight_ = size_t(engine_->concurrent_sequences(window + 1)) + 1;
  }

  std::string model() const override { return model_; }
  std::string device() const override { return engine_->device(); }
  std::vector<int32_t> encode(const std::string& text) override { return engine_->frontend().tokenizer().encode(text); }
  int32_t prefix_id() override {
    if (const std::optional<int32_t> id = engine_->frontend().tokenizer().bos_id()) return *id;
    fail_input("the tokenizer has no beginning-of-text token; --prefix-id says which token stands before the first");
  }

  void score(const Next& next, const Done& done) override {
    struct Live {
      Generation generation;
      int64_t n_scored;
    };
    std::deque<Live> live;  // in order
    GenerationOptions options;
    options.max_tokens = 0;
    options.prompt_logprobs = 0;
    bool ended = false;
    for (int64_t index = 0; !ended || !live.empty(); ++index) {
      while (!ended && live.size() < max_in_flight_) {
        std::optional<Window> window = next();
        ended = !window;
        if (!window) break;
        live.push_back({engine_->start({std::move(window->ids), {}}, options), window->n_scored});
      }
      if (live.empty()) break;
      std::vector<float> logprobs;
      while (const std::optional<GenerationEvent> event = live.front().generation.next()) {
        for (const TokenChoice& token : event->prompt.logprobs) logprobs.push_back(token.logprob);
        if (event->kind == GenerationEvent::Kind::finished && event->finished.reason == FinishReason::error)
          throw Error(event->finished.error_kind, event->finished.error);
      }
      const int64_t n_scored = live.front().n_scored;
      live.pop_front();
      L4_CHECK(int64_t(logprobs.size()) >= n_scored);
      logprobs.erase(logprobs.begin(), logprobs.end() - n_scored);
      done(index, std::move(logprobs));
    }
  }

 private:
  std::string model_;
  std::unique_ptr<Engine> engine_;
  size_t max_in_flight_ = 1;
};

}  // namespace

std::unique_ptr<WindowScorer> engine_scorer(LoadOptions load, int64_t window) {
  return std::make_unique<EngineScorer>(std::move(load), window);
}

}  // namespace l4::eval
