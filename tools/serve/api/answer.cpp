#include "tools/serve/api/answer.h"

#include <algorithm>
#include <utility>

namespace l4::serve {

Totals totals_of(const Ask& ask, const std::vector<Answer>& answers) {
  Totals out;
  for (size_t i = 0; i < answers.size(); ++i) {
    const Answer& a = answers[i];
    if (i % size_t(ask.n) == 0) {
      out.usage.prompt_tokens += a.usage.prompt_tokens;
      out.usage.cached_tokens += a.usage.cached_tokens;
    }
    out.usage.completion_tokens += a.usage.completion_tokens;
    out.timings.queue_ms = std::max(out.timings.queue_ms, a.timings.queue_ms);
    out.timings.prompt_ms = std::max(out.timings.prompt_ms, a.timings.prompt_ms);
    out.timings.predicted_ms = std::max(out.timings.predicted_ms, a.timings.predicted_ms);
  }
  return out;
}

namespace {

class EngineStream final : public AnswerStream {
 public:
  explicit EngineStream(Generation generation) : generation_(std::move(generation)) {}
  std::optional<GenerationEvent> next() override { return generation_.next(std::chrono::milliseconds(0)); }
  bool done() const override { return generation_.done(); }
  void cancel() override { generation_.cancel(); }

 private:
  Generation generation_;
};

}  // namespace

int64_t EngineSource::max_context() const {
  const Engine* engine = engine_;
  return engine ? engine->max_context() : 0;
}

EngineStats EngineSource::stats() const {
  const Engine* engine = engine_;
  return engine ? engine->stats() : EngineStats{};
}

std::vector<std::unique_ptr<AnswerStream>> EngineSource::start(Prompt prompt, const GenerationOptions& options, int n,
                                                               std::function<void()> wake) {
  Engine* engine = engine_;
  L4_CHECK(engine);
  std::vector<std::unique_ptr<AnswerStream>> out;
  for (Generation& generation : engine->start(std::move(prompt), options, n, std::move(wake)))
    out.push_back(std::make_unique<EngineStream>(std::move(generation)));
  return out;
}

}  // namespace l4::serve
