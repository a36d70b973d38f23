#include "l4/text_stream.h"

#include <algorithm>

#include "core/l4/tiny_checkpoint.h"
#include "support/test.h"

using namespace l4;

namespace {

// Chooses the given tokens one after the other, then eos.
class Script final : public StepRunner {
 public:
  Script(std::vector<int32_t> ids, int32_t eos) : ids_(std::move(ids)), eos_(eos) {}
  void begin_step(const StepPlan&) override {}
  std::vector<ChosenRow> end_step(std::span<const SamplingRow> rows) override {
    if (rows.empty()) return {};
    const int32_t id = next_ < ids_.size() ? ids_[next_] : eos_;
    ++next_;
    return {{{id, -0.5f, {}}, std::nullopt}};
  }
  std::vector<float> end_step_with_logits() override { return {}; }
  void encode_tiles(std::span<const BFloat16>, int64_t, int64_t) override {}
  int64_t page_tokens() const override { return 4; }
  int64_t page_bytes(AttentionKind) const override { return 0; }
  void read_page(AttentionKind, int32_t, std::span<std::byte>) override {}
  void write_page(AttentionKind, int32_t, std::span<const std::byte>) override {}

 private:
  std::vector<int32_t> ids_;
  int32_t eos_;
  size_t next_ = 0;
};

struct Answer {
  std::string text;
  std::vector<int32_t> ids;
  GenerationEvent last;
};

Answer collect(TextStream& stream) {
  Answer answer;
  while (auto event = stream.next(std::nullopt)) {
    CHECK(is_valid_utf8(event->text));
    answer.text += event->text;
    if (event->kind == GenerationEvent::Kind::token) answer.ids.push_back(event->token.id);
    answer.last = *event;
  }
  CHECK(stream.done());
  CHECK(answer.last.kind == GenerationEvent::Kind::finished);
  return answer;
}

struct Setup {
  Setup() {
    test::TempDir dir;
    test::write_tiny_checkpoint(dir.path());
    frontend = Frontend::load(dir.path());
    eos = *frontend->tokenizer().special_id("<|eot|>");
  }
  std::shared_ptr<const Frontend> frontend;
  int32_t eos = -1;
  std::unique_ptr<EngineLoop> loop;

  TextStream start(std::vector<int32_t> ids, const GenerationOptions& options = {}) {
    EngineLimits limits;
    limits.vocab = frontend->config().text.vocab;
    limits.max_context = 1000;
    limits.kv_pages = {250, 250};
    limits.max_step_rows = limits.max_out_rows = 16;
    limits.eos_ids = {eos};
    loop = std::make_unique<EngineLoop>(std::make_unique<Script>(std::move(ids), eos), limits);
    Request request;
    request.ids = {1, 2, 3};
    request.max_tokens = options.max_tokens;
    request.stop_ids = options.stop_ids;
    return TextStream(loop->submit(std::move(request)), frontend, options);
  }
  std::vector<int32_t> encode(std::string_view text) const { return frontend->tokenizer().encode(text); }
};

}  // namespace

TEST_CASE("text_stream: text of the ids, whole characters, special tokens hidden or shown") {
  Setup setup;
  const std::string text = "Grüße, 世界 🦙!";
  TextStream stream = setup.start(setup.encode(text));
  Answer answer = collect(stream);
  CHECK(answer.text == text);
  CHECK(answer.ids.back() == setup.eos);
  CHECK(answer.last.finished.reason == FinishReason::stop);
  CHECK(answer.last.finished.usage.completion_tokens == int64_t(answer.ids.size()));
  CHECK(!answer.last.stop_text);

  stream = setup.start(setup.encode(text), {.show_special = true});
  CHECK(collect(stream).text == text + "<|eot|>");
}

TEST_CASE("text_stream: a stop id ends the answer; its text is part of it only where that is asked for") {
  Setup setup;
  const std::vector<int32_t> ids = setup.encode("One! Two! Three");
  const std::vector<int32_t> stop = setup.encode("!");
  REQUIRE(stop.size() == 1);
  for (bool shown : {false, true}) {
    TextStream stream = setup.start(ids, {.stop_ids = stop, .show_stop_id = shown});
    Answer answer = collect(stream);
    CHECK(answer.text == std::string(shown ? "One!" : "One"));
    CHECK(answer.ids.back() == stop[0]);
    CHECK(answer.last.finished.reason == FinishReason::stop);
    CHECK(answer.last.finished.usage.completion_tokens == int64_t(answer.ids.size()));
  }
  // What waits for a stop string is said all the same.
  TextStream stream = setup.start(ids, {.stop_ids = stop, .stop = {"One! "}});
  CHECK(collect(stream).text == "One");
}

TEST_CASE("text_stream: a character that never ends comes as U+FFFD with the last event") {
  Setup setup;
  std::vector<int32_t> ids = setup.encode("🦙");
  REQUIRE(ids.size() > 1);
  ids.pop_back();
  TextStream stream = setup.start(ids, {.max_tokens = int64_t(ids.size())});
  Answer answer = collect(stream);
  CHECK(answer.text == "\xEF\xBF\xBD");
  CHECK(answer.last.text == "\xEF\xBF\xBD");
  CHECK(answer.last.finished.reason == FinishReason::length);
}

TEST_CASE("text_stream: stop strings end the answer wherever the tokens are cut, and are not part of it") {
  Setup setup;
  const std::string text = "One two three. Four five six. Seven.";
  for (const char* stop : {"three", "e. F", ". ", "Seven", "five six. S"}) {
    CAPTURE(stop);
    TextStream stream = setup.start(setup.encode(text), {.stop = {"never", stop}});
    Answer answer = collect(stream);
    CHECK(answer.text == text.substr(0, text.find(stop)));
    CHECK(answer.last.finished.reason == FinishReason::stop);
    CHECK(answer.last.stop_text == stop);
    CHECK(answer.last.finished.usage.completion_tokens == int64_t(answer.ids.size()));
    // It ended with the token in which the stop string ends.
    const std::string all = setup.frontend->tokenizer().decode(std::span<const int32_t>(answer.ids));
    CHECK(all.find(stop) != std::string::npos);
    answer.ids.pop_back();
    CHECK(setup.frontend->tokenizer().decode(std::span<const int32_t>(answer.ids)).find(stop) == std::string::npos);
  }
  // Held back, then given up as text.
  TextStream stream = setup.start(setup.encode("One two"), {.stop = {"two and a half"}});
  CHECK(collect(stream).text == "One two");
}

TEST_CASE("text_stream: no stop string counts in the first min_tokens tokens") {
  Setup setup;
  const std::string text = "stop stop stop stop";
  const std::vector<int32_t> ids = setup.encode(text);
  TextStream stream = setup.start(ids, {.min_tokens = int64_t(ids.size()) - 1, .stop = {"stop"}});
  Answer answer = collect(stream);
  CHECK(answer.ids.size() >= ids.size() - 1);
  CHECK(answer.text.substr(0, 4) == "stop");
}
