// Many requests at once.
#include <algorithm>
#include <atomic>
#include <future>
#include <set>

#include "core/engine/engine_bench.h"
#include "support/test.h"

using namespace l4;
using namespace l4::test;

namespace {

// n sequences of `context` tokens would fit side by side, but for `scarcity` times fewer pages.
EngineLimits batch_limits(int64_t chunk, int64_t max_step_rows, int64_t n, int64_t scarcity = 1) {
  EngineLimits l = small_limits(chunk, max_step_rows, 120);
  l.max_out_rows = max_step_rows;
  l.max_sequences = n;
  for (int64_t& pages : l.kv_pages) pages += pages * (n - 1) / scarcity;
  return l;
}

// Holds the first step until released, so that everything submitted meanwhile is there when the second begins.
struct Gate {
  explicit Gate(SimulatedRunner& runner) {
    runner.on_step = [this](const StepPlan&) {
      if (!first.exchange(false)) return;
      entered.set_value();
      go.get_future().wait();
    };
  }
  std::atomic<bool> first{true};
  std::promise<void> entered, go;
};

// Allows the ids of `pattern` one after another, then the end.
class Pattern final : public TokenConstraint {
 public:
  Pattern(std::vector<int32_t> pattern, bool says_ended) : pattern_(std::move(pattern)), says_ended_(says_ended) {}
  bool fill_mask(std::span<uint32_t> mask) override {
    std::fill(mask.begin(), mask.end(), 0);
    const int32_t id = next_ < pattern_.size() ? pattern_[next_] : kEos;
    if (id < 0) return false;  // anything
    mask[size_t(id) / 32] |= 1u << (id % 32);
    return true;
  }
  bool accept(int32_t id) override {
    const bool right = next_ < pattern_.size() && (pattern_[next_] < 0 || pattern_[next_] == id);
    ++next_;
    return right;
  }
  bool ended() const override { return says_ended_ && next_ == pattern_.size(); }
  std::unique_ptr<TokenConstraint> clone() const override { return std::make_unique<Pattern>(*this); }

 private:
  std::vector<int32_t> pattern_;
  bool says_ended_;
  size_t next_ = 0;
};

}  // namespace

TEST_CASE("engine_loop: many at once, with pictures and too few pages: each answer is as if it were alone") {
  int64_t preemptions = 0, hits = 0;
  for (uint32_t seed = 0; seed < 24; ++seed) {
    CAPTURE(seed);
    std::mt19937 random(seed);
    const int64_t chunk = int64_t(random() % 4) * 8, rows = 6 + int64_t(random() % 30);
    EngineLimits limits = batch_limits(chunk, rows, 2 + int64_t(random() % 5), 4 + int64_t(random() % 12));
    if (seed % 2 == 1) {  // one slab
      limits.kv_block_pages = 1 + int64_t(random() % 3);
      limits.kv_pages[0] += (limits.kv_pages[1] + limits.kv_block_pages - 1) / limits.kv_block_pages;
      limits.kv_pages[1] = limits.kv_pages[0] * limits.kv_block_pages;
    }
    Loop loop(limits, {.prefix_cache = seed % 4 != 0, .ngram_drafts = seed % 3 == 0 ? 3 : 0});
    struct Sent {
      std::vector<int32_t> expected;
      RequestHandle handle;
    };
    std::vector<Sent> sent;
    std::optional<Gate> gate;  // all are there when the first step ends, or come when they come
    if (seed % 2 == 0) gate.emplace(*loop.runner);
    const std::vector<int32_t> common = random_ids(seed + 1000, 30);
    for (int i = 0; i < 25; ++i) {
      std::vector<int32_t> ids(common.begin(), common.begin() + int64_t(random() % 30));
      append(ids, random_ids(random(), 1 + int64_t(random() % 20)));
      std::vector<ImageInput> images;
      for (int k = int(random() % 5); k > 3; --k) {
        images.push_back(random_image(random() % 3, 1 + int64_t(random() % 3)));
        append(ids, std::vector<int32_t>(size_t(images.back().n_tiles * 3), kPatch));
        append(ids, random_ids(random(), int64_t(random() % 3)));
      }
      const int64_t n = 1 + int64_t(random() % 50);
      Request request = request_of(ids, n, images);
      request.priority = int32_t(random() % 3);
      sent.push_back({reference_answer(ids, images, n, chunk), loop.engine->submit(request)});
      if (random() % 8 == 0) loop.engine->submit(request);  // dropped at once
    }
    if (gate) gate->go.set_value();
    for (Sent& one : sent) {
      const Answer answer = collect(std::move(one.handle));
      CHECK(answer.finished.error == "");
      CHECK(answer.ids == one.expected);
    }
    loop.engine->submit(request_of({1}, 1)).next();
    EngineStats stats = loop.engine->stats();
    while (stats.n_running + stats.n_waiting > 0) stats = loop.engine->stats();  // those dropped last
    CHECK(stats.kv_pages_used == std::array<int64_t, 2>{0, 0});
    CHECK(stats.generated_tokens >= 25);
    if (seed % 4 == 0) CHECK(stats.kv_pages_cached == std::array<int64_t, 2>{0, 0});
    preemptions += stats.preemptions;
    hits += stats.prefix_hit_tokens;
  }
  CHECK(preemptions > 10);
  CHECK(hits > 1000);
}

TEST_CASE("engine_loop: an answer gets its row in every step while long prompts are read") {
  Loop loop(batch_limits(0, 8, 4));
  Gate gate(*loop.runner);
  Request request = request_of(random_ids(1, 3), 12);
  request.ignore_eos = true;
  RequestHandle answer = loop.engine->submit(request);
  gate.entered.get_future().wait();
  std::vector<RequestHandle> prompts;
  for (uint32_t i = 0; i < 2; ++i) prompts.push_back(loop.engine->submit(request_of(random_ids(i + 2, 40), 2)));
  gate.go.set_value();
  CHECK(collect(std::move(answer)).ids == [&] {
    std::vector<int32_t> ids;
    std::vector<uint64_t> inputs = token_inputs(random_ids(1, 3));
    for (int i = 0; i < 12; ++i) {
      ids.push_back(greedy_choice(reference_tags(inputs, 0).back(), 100));
      inputs.push_back(token_input(ids.back()));
    }
    return ids;
  }());
  for (RequestHandle& prompt : prompts) CHECK(collect(std::move(prompt)).ids.size() > 0);
  for (size_t i = 1; i < 12; ++i) {
    CHECK(loop.runner->steps[i].positions[0] == int32_t(i + 2));
    if (i < 10) CHECK(loop.runner->steps[i].n_rows() == 8);  // the rest goes to the prompts
  }
}

TEST_CASE("engine_loop: who has the lower priority value is served first, among equals who came first") {
  Loop loop(batch_limits(0, 16, 1));
  Gate gate(*loop.runner);
  RequestHandle running = loop.engine->submit(request_of({50}, 2));
  gate.entered.get_future().wait();
  std::vector<RequestHandle> handles;
  int32_t first = 1;
  for (int32_t priority : {1, 0, 1, 0, -3}) {
    Request request = request_of({first++}, 1);
    request.priority = priority;
    handles.push_back(loop.engine->submit(request));
  }
  CHECK(loop.engine->stats().n_waiting == 5);
  gate.go.set_value();
  for (RequestHandle& handle : handles) collect(std::move(handle));
  std::vector<int32_t> order;
  for (const StepPlan& step : loop.runner->steps)
    if (step.positions[0] == 0 && step.ids[0] < 50) order.push_back(step.ids[0]);
  CHECK(order == std::vector<int32_t>{5, 2, 4, 1, 3});
}

TEST_CASE("engine_loop: cancelling frees everything within one step") {
  Loop loop(batch_limits(16, 12, 4), {.prefix_cache = false});
  Gate gate(*loop.runner);
  Request request = request_of(random_ids(1, 9), -1);
  request.ignore_eos = true;
  std::vector<RequestHandle> handles;
  std::vector<ImageInput> images{random_image(1, 4)};
  std::vector<int32_t> with_image = random_ids(2, 14);
  append(with_image, std::vector<int32_t>(12, kPatch));
  handles.push_back(loop.engine->submit(request));
  gate.entered.get_future().wait();
  for (int i = 0; i < 4; ++i) handles.push_back(loop.engine->submit(request_of(with_image, 5, images)));  // one waits
  for (RequestHandle& handle : handles) handle.cancel();
  gate.go.set_value();
  for (RequestHandle& handle : handles) CHECK(collect(std::move(handle)).finished.reason == FinishReason::cancelled);
  CHECK(loop.runner->steps.size() == 1);
  const EngineStats stats = loop.engine->stats();
  CHECK(stats.n_cancelled == 5);
  CHECK(stats.n_running == 0);
  CHECK(stats.n_waiting == 0);
  CHECK(stats.kv_pages_used == std::array<int64_t, 2>{0, 0});
}

TEST_CASE("engine_loop: n answers compute their prompt once and share its pages") {
  for (bool cache : {true, false})
    for (int64_t n_prompt : {1, 15, 16, 17, 42}) {
      CAPTURE(n_prompt);
      Loop loop(batch_limits(16, 48, 4), {.prefix_cache = cache});
      Request request = request_of(random_ids(3, n_prompt), 10);
      request.ignore_eos = true;
      request.sampling.seed = 7;
      std::vector<std::vector<int32_t>> alone;
      for (int i = 0; i < 3; ++i) {
        request.sampling.seed = 7 + uint64_t(i);
        alone.push_back(collect(loop.engine->submit(request)).ids);
      }
      request.sampling.seed = 7;
      request.cache_salt = "anew";
      const size_t before = loop.runner->steps.size();
      std::vector<RequestHandle> handles = loop.engine->submit(request, 3);
      for (size_t i = 0; i < 3; ++i) CHECK(collect(std::move(handles[i])).ids == alone[i]);
      CHECK(std::set<std::vector<int32_t>>(alone.begin(), alone.end()).size() == 3);
      int64_t rows = 0, most_pages = 0;
      for (size_t i = before; i < loop.runner->steps.size(); ++i) {
        const StepPlan& step = loop.runner->steps[i];
        rows += step.n_rows();
        const auto& pages = step.of(AttentionKind::global).pages;
        most_pages = std::max(most_pages, int64_t(std::set<int32_t>(pages.begin(), pages.end()).size()));
      }
      CHECK(rows == n_prompt + 2 + 3 * 9);  // the other two compute the prompt's last row again
      // Each of the three has pages of its own from the last partial one of the prompt on.
      CHECK(most_pages <= n_prompt / 4 + 3 * (10 / 4 + 2));
    }
}

TEST_CASE("engine_loop: where the first of n answers is cancelled the others compute the prompt") {
  Loop loop(batch_limits(16, 6, 4));
  Gate gate(*loop.runner);
  Request request = request_of(random_ids(3, 20), 4);
  std::vector<RequestHandle> handles = loop.engine->submit(request, 3);
  gate.entered.get_future().wait();
  handles[0].cancel();
  handles[2].cancel();
  gate.go.set_value();
  CHECK(collect(std::move(handles[0])).finished.reason == FinishReason::cancelled);
  CHECK(collect(std::move(handles[2])).finished.reason == FinishReason::cancelled);
  request.sampling.seed = 1;
  const std::vector<int32_t> expected = collect(loop.engine->submit(request)).ids;
  CHECK(collect(std::move(handles[1])).ids == expected);
}

TEST_CASE("engine_loop: KV is reused for equal ids, equal pictures and equal salts only") {
  Loop loop(batch_limits(0, 64, 2));
  std::vector<int32_t> ids = random_ids(5, 10);
  append(ids, std::vector<int32_t>(6, kPatch));
  append(ids, random_ids(6, 10));
  auto run = [&](uint32_t image, const std::string& salt) {
    Request request = request_of(ids, 3, {random_image(image, 2)});
    request.cache_salt = salt;
    Answer answer = collect(loop.engine->submit(request));
    CHECK(answer.ids == reference_answer(ids, request.images, 3, 0));
    return answer.finished.usage.cached_tokens;
  };
  CHECK(run(1, "") == 0);
  CHECK(run(1, "") == 25);
  CHECK(run(2, "") == 10);  // another picture of the same size: what is before it
  CHECK(run(2, "") == 25);
  CHECK(run(1, "a") == 0);
  CHECK(run(1, "b") == 0);
  CHECK(run(1, "a") == 25);
  CHECK(run(1, "") == 25);
  const EngineStats stats = loop.engine->stats();
  CHECK(stats.prefix_query_tokens == 8 * 26);
  CHECK(stats.prefix_hit_tokens == 4 * 25 + 10);
}

TEST_CASE("engine_loop: a row without numbers fails its request alone, and nobody inherits its KV") {
  Loop loop(batch_limits(16, 40, 4));
  const std::vector<int32_t> bad = random_ids(1, 20), good = random_ids(2, 20);
  loop.runner->on_row = [&](const SamplingRow& row) -> std::optional<Error> {
    if (row.prompt[0] == bad[0] && row.output.size() == 2) return Error(ErrorKind::internal, "row 0 holds NaN");
    return std::nullopt;
  };
  RequestHandle a = loop.engine->submit(request_of(bad, 8)), b = loop.engine->submit(request_of(good, 8));
  const Answer failed = collect(std::move(a));
  CHECK(failed.finished.error == "row 0 holds NaN");
  CHECK(failed.ids.size() == 2);
  CHECK(collect(std::move(b)).ids == reference_answer(good, {}, 8, 16));
  loop.runner->on_row = {};
  CHECK(collect(loop.engine->submit(request_of(bad, 8))).finished.usage.cached_tokens == 0);
  CHECK(loop.engine->stats().n_failed == 1);
}

TEST_CASE("engine_loop: prompts whose logits are wanted take turns with answers") {
  Loop loop(batch_limits(16, 10, 4));
  Gate gate(*loop.runner);
  Request endless = request_of(random_ids(1, 3), 20);
  endless.ignore_eos = true;
  RequestHandle answer = loop.engine->submit(endless);
  gate.entered.get_future().wait();
  Request scored = request_of(random_ids(2, 40), 3);
  scored.prompt_logprobs = 1;
  RequestHandle prompt = loop.engine->submit(scored);
  gate.go.set_value();
  const Answer a = collect(std::move(prompt)), b = collect(std::move(answer));
  CHECK(b.ids.size() == 20);
  CHECK(a.ids == reference_answer(scored.ids, {}, 3, 16));
  size_t n = 0;
  for (const PromptProgress& p : a.progress) n += p.logprobs.size();
  CHECK(n == 39);
  for (size_t i = 1; i < 8; ++i) {  // never two steps without the answer's row
    const bool now = loop.runner->steps[i].n_rows() == 1, next = loop.runner->steps[i + 1].n_rows() == 1;
    CHECK(now != next);
  }
}

TEST_CASE("engine_loop: a constraint's masks decide what is said and where it ends") {
  for (bool says_ended : {true, false})
    for (int drafts : {0, 4}) {
      Loop loop(batch_limits(0, 20, 2), {.ngram_drafts = drafts});
      const std::vector<int32_t> pattern{5, 6, 7, 5, 6, 7, 5, 6, 7, 5, 6, 7, -1, 5, 6, 7, 5, 6, 7};
      Request request = request_of(random_ids(1, 5), 50);
      request.constraint = std::make_shared<Pattern>(pattern, says_ended);
      for (const auto& answer : {collect(loop.engine->submit(request)), collect(loop.engine->submit(request))}) {
        CHECK(answer.finished.error == "");
        CHECK(answer.finished.reason == FinishReason::stop);
        std::vector<int32_t> expected = pattern;
        if (answer.ids.size() > 12) expected[12] = answer.ids[12];
        if (!says_ended) expected.push_back(kEos);
        CHECK(answer.ids == expected);
      }
      if (drafts > 0) CHECK(loop.engine->stats().accepted_draft_tokens > 4);
    }
}

TEST_CASE("engine_loop: drafts change nothing but the number of steps") {
  int64_t accepted = 0, drafted = 0;
  for (uint32_t seed = 1; seed < 30; ++seed) {
    CAPTURE(seed);
    EngineLimits limits = batch_limits(seed % 2 * 8, 24, 3, 1 + seed % 3);
    limits.vocab = 3;  // repeats itself soon
    limits.eos_ids = {};
    limits.image_token_id = -1;
    std::vector<int32_t> ids = random_ids(seed, 6);
    for (int32_t& id : ids) id %= 3;
    Request request = request_of(ids, int64_t(10 + seed));
    request.sampling.seed = seed % 4;
    if (seed % 5 == 0) request.max_tokens = -1;
    if (seed % 7 == 0) request.stop_ids = {2}, request.min_tokens = 12;
    std::vector<int32_t> expected;
    size_t n_steps = 0;
    for (int drafts : {0, 1, 5}) {
      Loop loop(limits, {.ngram_drafts = drafts});
      std::vector<RequestHandle> handles;
      for (int i = 0; i < 3; ++i) handles.push_back(loop.engine->submit(request));
      for (RequestHandle& handle : handles) {
        const Answer answer = collect(std::move(handle));
        if (expected.empty()) expected = answer.ids;
        CHECK(answer.ids == expected);
      }
      const EngineStats stats = loop.engine->stats();
      CHECK(stats.accepted_draft_tokens <= stats.draft_tokens);
      accepted += stats.accepted_draft_tokens;
      drafted += stats.draft_tokens;
      if (drafts == 0) n_steps = loop.runner->steps.size();
      if (stats.accepted_draft_tokens > 10) CHECK(loop.runner->steps.size() < n_steps);
    }
  }
  CHECK(accepted > 100);
  CHECK(drafted > accepted);
}

TEST_CASE("engine_loop: a step that does not end in time fails everybody, and the engine says so") {
  std::promise<std::string> stalled;
  Loop loop(batch_limits(0, 8, 2),
            {.step_limit_s = 0.05, .on_stall = [&](const std::string& what) { stalled.set_value(what); }});
  CHECK(collect(loop.engine->submit(request_of({1, 2, 3}, 5))).finished.error == "");
  Gate gate(*loop.runner);
  RequestHandle a = loop.engine->submit(request_of({1, 2, 4}, 5));
  gate.entered.get_future().wait();
  RequestHandle b = loop.engine->submit(request_of({1, 2, 5}, 5));
  const std::string what = stalled.get_future().get();
  CHECK(what == "a step took longer than 0.05 s: the device does not answer");
  for (RequestHandle* handle : {&a, &b}) {
    std::optional<Event> last;
    while (auto event = handle->next()) last = std::move(event);
    CHECK(std::get<Finished>(*last).error == what);
    CHECK(std::get<Finished>(*last).error_kind == ErrorKind::device);
  }
  CHECK(error_of([&] { loop.engine->submit(request_of({1}, 1)); }) == what);
  gate.go.set_value();
}
