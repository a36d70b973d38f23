#include "engine/engine_loop.h"

#include <atomic>
#include <cmath>
#include <future>
#include <random>

#include "core/engine/engine_bench.h"
#include "support/test.h"

using namespace l4;
using namespace l4::test;

TEST_CASE("engine_loop: answers are the reference's, whatever the prompt's length, chunks and steps") {
  for (int64_t chunk : {0, 4, 16, 32})
    for (int64_t max_rows : {1, 5, 12, 64}) {
      Loop loop(small_limits(chunk, max_rows));
      for (int64_t n : {1, 2, 12, 13, 15, 16, 17, 31, 32, 33, 50}) {
        CAPTURE(n);
        const std::vector<int32_t> ids = random_ids(uint32_t(n), n);
        Answer answer = collect(loop.engine->submit(request_of(ids, 20)));
        CHECK(answer.ids == reference_answer(ids, {}, 20, chunk));
        CHECK(answer.finished.reason == (answer.ids.back() == kEos ? FinishReason::stop : FinishReason::length));
        CHECK(answer.finished.usage.prompt_tokens == n);
      }
    }
}

TEST_CASE("engine_loop: a prompt is computed in steps of max_step_rows that end at chunk edges, with progress") {
  Loop loop(small_limits(16, 12));
  Answer answer = collect(loop.engine->submit(request_of(random_ids(1, 40), 2)));
  std::vector<int64_t> rows;
  for (const StepPlan& step : loop.runner->steps) rows.push_back(step.n_rows());
  CHECK(rows == std::vector<int64_t>{12, 4, 12, 12, 1});  // to 16, to 28, then the rest fits
  REQUIRE(answer.progress.size() == 3);
  CHECK(answer.progress[1].n_done == 16);
  CHECK(answer.progress[2].n_done == 28);
  CHECK(answer.progress[2].n_total == 40);
  CHECK(loop.runner->steps[2].n_out() == 0);
  CHECK(loop.runner->steps[3].n_out() == 1);
}

TEST_CASE("engine_loop: a conversation's next turn computes only what is new") {
  Loop loop(small_limits(64, 12));
  std::vector<int32_t> ids = random_ids(3, 30);
  Answer first = collect(loop.engine->submit(request_of(ids, 5)));
  CHECK(first.finished.usage.cached_tokens == 0);
  append(ids, first.ids);
  append(ids, random_ids(4, 7));
  const size_t before = loop.runner->steps.size();
  Answer second = collect(loop.engine->submit(request_of(ids, 5)));
  CHECK(second.finished.usage.cached_tokens == 34);  // the last token of the answer was never computed
  CHECK(loop.runner->steps[before].n_rows() == 8);
  CHECK(second.ids == reference_answer(ids, {}, 5, 64));
  // The same again: all but the last token, whose logits are needed.
  Answer third = collect(loop.engine->submit(request_of(ids, 5)));
  CHECK(third.finished.usage.cached_tokens == 41);
  CHECK(third.ids == second.ids);
  // Another beginning: nothing.
  ids[0] += 1;
  CHECK(collect(loop.engine->submit(request_of(ids, 5))).finished.usage.cached_tokens == 0);
}

TEST_CASE("engine_loop: random conversations reuse prefixes across chunk edges and stay right") {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    CAPTURE(seed);
    std::mt19937 random(seed);
    const int64_t chunk = int64_t(random() % 5) * 4;
    Loop loop(small_limits(chunk, 1 + int64_t(random() % 20)));
    std::vector<int32_t> ids = random_ids(seed, 20);
    int64_t cached = 0;
    for (int turn = 0; turn < 12; ++turn) {
      ids.resize(1 + random() % ids.size());
      append(ids, random_ids(uint32_t(random()), int64_t(random() % 30)));
      Answer answer = collect(loop.engine->submit(request_of(ids, 8)));
      CHECK(answer.ids == reference_answer(ids, {}, 8, chunk));
      cached += answer.finished.usage.cached_tokens;
      for (int32_t id : answer.ids) ids.push_back(id == kPatch ? 0 : id);  // an image token needs an image
    }
    CHECK(cached > 0);
  }
}

TEST_CASE("engine_loop: pictures are encoded when their rows come up, and may span several steps") {
  for (int64_t max_rows : {1, 2, 5, 64}) {
    CAPTURE(max_rows);
    Loop loop(small_limits(16, max_rows));
    // 4 + 3 + 2 tiles do not fit into the encoder cache of 4 at once
    const std::vector<ImageInput> images{random_image(1, 4), random_image(2, 3), random_image(3, 2)};
    std::vector<int32_t> ids = random_ids(9, 3);
    for (const ImageInput& image : images) {
      append(ids, std::vector<int32_t>(size_t(image.n_tiles * 3), kPatch));
      append(ids, random_ids(uint32_t(ids.size()), 2));
    }
    Answer answer = collect(loop.engine->submit(request_of(ids, 6, images)));
    REQUIRE(answer.finished.error == "");
    CHECK(answer.ids == reference_answer(ids, images, 6, 16));
    int64_t tiles = 0;
    for (int64_t n : loop.runner->encoded_tiles) tiles += n;
    CHECK(tiles == 9);

    // Same ids, another second picture: what is before it is kept (chunks allowing), and the answer follows the
    // picture.
    std::vector<ImageInput> others = images;
    others[1] = random_image(7, 3);
    Answer other = collect(loop.engine->submit(request_of(ids, 6, others)));
    CHECK(other.ids == reference_answer(ids, others, 6, 16));
    // 17 tokens are before the picture. Where the pages of the chunk before have gone, back to the edge.
    CHECK(other.finished.usage.cached_tokens >= 16);
    CHECK(other.finished.usage.cached_tokens <= 17);
    // Only the tiles that are still needed are encoded: none of the first picture but its tail behind token 16.
    tiles = 0;
    for (int64_t n : loop.runner->encoded_tiles) tiles += n;
    CHECK(tiles == 9 + 5);
  }
}

TEST_CASE("engine_loop: bad requests are refused with one line") {
  Loop loop;
  auto error = [&](auto change) {
    Request request = request_of({1, 2, 3}, 5);
    change(request);
    return error_of([&] { loop.engine->submit(request); });
  };
  CHECK(error([](Request& r) { r.ids = {}; }) == "the prompt is empty");
  CHECK(error([](Request& r) { r.ids = {1, 100}; }) == "prompt: token id 100 is outside the vocabulary of 100");
  CHECK(error([](Request& r) { r.ids = {-1}; }) == "prompt: token id -1 is outside the vocabulary of 100");
  CHECK(error([](Request& r) { r.ids = std::vector<int32_t>(200, 1); }) ==
        "the prompt has 200 tokens, which leaves no room in the context of 200 (set by -c)");
  CHECK(error([](Request& r) { r.max_tokens = -2; }) ==
        "max_tokens must be -1 (until the context is full) or more, not -2");
  CHECK(error([](Request& r) { r.min_tokens = 6; }) == "min_tokens (6) is more than max_tokens (5)");
  CHECK(error([](Request& r) { r.sampling.temperature = NAN; }).find("temperature must be 0 or more") == 0);
  CHECK(error([](Request& r) { r.sampling.temperature = -1; }).find("temperature must be 0 or more") == 0);
  CHECK(error([](Request& r) { r.sampling.top_p = 1.5; }).find("top_p must be from 0 to 1") == 0);
  CHECK(error([](Request& r) { r.sampling.repetition_penalty = 0; }).find("repetition_penalty must be more than 0") ==
        0);
  CHECK(error([](Request& r) { r.sampling.n_logprobs = 101; }).find("logprobs must be") == 0);
  CHECK(error([](Request& r) { r.logit_bias = {{100, 1.0f}}; }).find("logit_bias: token id 100") == 0);
  CHECK(error([](Request& r) { r.logit_bias = {{1, INFINITY}}; }).find("logit_bias of token 1") == 0);
  CHECK(error([](Request& r) { r.prompt_logprobs = 101; }).find("prompt_logprobs must be") == 0);
  CHECK(error([](Request& r) { r.ids = {1, kPatch}; }) == "the prompt has 1 image tokens (id 96), its 0 images need 0");
  CHECK(error([](Request& r) { r.images = {random_image(1, 5)}; }) ==
        "an image of 5 tiles is too large: the encoder cache holds 4");
  CHECK(loop.runner->steps.empty());
}

TEST_CASE("engine_loop: the answer ends where the context is full") {
  Loop loop(small_limits(16, 12, 20));
  Answer answer = collect(loop.engine->submit(request_of(random_ids(5, 15), -1)));
  CHECK(answer.finished.reason == FinishReason::length);
  CHECK(answer.ids.size() == 5);
  answer =
      collect(loop.engine->submit(request_of(random_ids(6, 20), 0)));  // only the prompt: a full context is no obstacle
  CHECK(answer.finished.reason == FinishReason::length);
  CHECK(answer.ids.empty());
}

TEST_CASE("engine_loop: eos and stop ids end the answer, are counted, and wait for min_tokens") {
  Loop loop;
  // A prompt whose unrestricted answer is long enough, and the third token of it as stop id.
  std::vector<int32_t> ids, free_answer;
  for (uint32_t seed = 0; free_answer.size() < 8; ++seed) {
    ids = random_ids(seed, 10);
    free_answer = reference_answer(ids, {}, 8, 16);
    if (std::count(free_answer.begin(), free_answer.begin() + 3, free_answer[2]) > 1) free_answer.clear();
  }
  Request request = request_of(ids, 8);
  request.stop_ids = {free_answer[2], 12345};  // an id outside the vocabulary stops nothing and harms nothing
  Answer answer = collect(loop.engine->submit(request));
  CHECK(answer.finished.reason == FinishReason::stop);
  CHECK(answer.ids == std::vector<int32_t>(free_answer.begin(), free_answer.begin() + 3));

  request.min_tokens = 5;
  loop.runner->forbidden.clear();
  answer = collect(loop.engine->submit(request));
  CHECK(answer.ids.size() >= 5);
  CHECK(loop.runner->forbidden[0] == std::vector<int32_t>{kEos, free_answer[2]});
  CHECK(loop.runner->forbidden[4] == std::vector<int32_t>{kEos, free_answer[2]});
  if (loop.runner->forbidden.size() > 5) CHECK(loop.runner->forbidden[5].empty());

  request = request_of(ids, 8);
  request.ignore_eos = true;
  loop.runner->forbidden.clear();
  collect(loop.engine->submit(request));
  CHECK(loop.runner->forbidden[7].empty());
}

TEST_CASE("engine_loop: an eos id that is chosen ends the answer") {
  Loop loop;
  bool seen = false;
  for (uint32_t seed = 0; seed < 60 && !seen; ++seed) {
    const std::vector<int32_t> ids = random_ids(seed, 6);
    const std::vector<int32_t> expected = reference_answer(ids, {}, 30, 16);
    if (expected.size() == 30) continue;
    seen = true;
    Answer answer = collect(loop.engine->submit(request_of(ids, 30)));
    CHECK(answer.ids == expected);
    CHECK(answer.ids.back() == kEos);

    Request request = request_of(ids, 30);
    request.ignore_eos = true;
    const Answer longer = collect(loop.engine->submit(request));
    CHECK(longer.ids.size() == 30);
    CHECK(std::equal(expected.begin(), expected.end(), longer.ids.begin()));
    CHECK(longer.finished.reason == FinishReason::length);
    request.stop_ids = {kEos};  // asked for by name
    CHECK(collect(loop.engine->submit(request)).ids == expected);
    CHECK(answer.finished.reason == FinishReason::stop);
  }
  CHECK(seen);
}

TEST_CASE("engine_loop: logits of a prompt come in order, all rows, in steps of max_out_rows") {
  Loop loop;
  const std::vector<int32_t> ids = random_ids(11, 23);
  collect(loop.engine->submit(request_of(ids, 3)));  // nothing of it may be reused
  std::vector<float> all;
  loop.engine->logits(ids, {}, [&](int64_t first, std::span<const float> rows) {
    CHECK(first * 100 == int64_t(all.size()));
    CHECK(rows.size() <= 500);
    all.insert(all.end(), rows.begin(), rows.end());
  });
  std::vector<float> expected;
  for (uint64_t tag : reference_tags(token_inputs(ids), 16))
    for (float z : tag_logits(tag, 100)) expected.push_back(z);
  CHECK(all == expected);
  CHECK(error_of([&] {
          loop.engine->logits(ids, {}, [](int64_t, std::span<const float>) { fail(ErrorKind::io, "disk full"); });
        }) == "disk full");
}

TEST_CASE("engine_loop: prompt logprobs are the log softmax of the row before, best ids beside them") {
  Loop loop;
  const std::vector<int32_t> ids = random_ids(12, 13);
  Request request = request_of(ids, 4);
  request.prompt_logprobs = 2;
  Answer answer = collect(loop.engine->submit(request));
  CHECK(answer.ids == reference_answer(ids, {}, 4, 16));
  std::vector<TokenChoice> all;
  for (const PromptProgress& p : answer.progress) {
    all.insert(all.end(), p.logprobs.begin(), p.logprobs.end());
    CHECK(int64_t(all.size()) == p.n_done);
  }
  REQUIRE(all.size() == 12);
  const std::vector<uint64_t> tags = reference_tags(token_inputs(ids), 16);
  for (size_t i = 0; i < all.size(); ++i) {
    CHECK(all[i].id == ids[i + 1]);
    const std::vector<float> logits = tag_logits(tags[i], 100);
    double sum = 0;
    for (float z : logits) sum += std::exp(double(z));
    CHECK(all[i].logprob == doctest::Approx(logits[size_t(ids[i + 1])] - std::log(sum)).epsilon(1e-6));
    REQUIRE(all[i].top.size() == 2);
    CHECK(all[i].top[0].id == greedy_choice(tags[i], 100));
    CHECK(all[i].top[0].logprob == doctest::Approx(5.0 - std::log(sum)).epsilon(1e-6));
    CHECK(all[i].top[0].logprob >= all[i].top[1].logprob);
  }
  // Without an answer the prompt is scored all the same.
  request.max_tokens = 0;
  answer = collect(loop.engine->submit(request));
  size_t n = 0;
  for (const PromptProgress& p : answer.progress) n += p.logprobs.size();
  CHECK(n == 12);
}

TEST_CASE("engine_loop: requests are served in order, and cancelled ones at once") {
  Loop loop(small_limits(0, 12, 100000));
  std::promise<void> entered, go;
  std::atomic<bool> first{true};
  loop.runner->on_step = [&](const StepPlan&) {
    if (!first.exchange(false)) return;
    entered.set_value();
    go.get_future().wait();
  };
  std::atomic<int> wakes{0};
  RequestHandle a = loop.engine->submit(request_of(random_ids(1, 5), -1), [&] { ++wakes; });
  entered.get_future().wait();
  RequestHandle b = loop.engine->submit(request_of(random_ids(2, 5), 3));
  RequestHandle c = loop.engine->submit(request_of(random_ids(3, 5), 3));
  CHECK(!a.next(std::chrono::milliseconds(1)));
  a.cancel();
  b.cancel();
  go.set_value();
  Answer answer_a = collect(std::move(a));
  CHECK(answer_a.finished.reason == FinishReason::cancelled);
  CHECK(answer_a.ids.size() <= 1);
  Answer answer_b = collect(std::move(b));
  CHECK(answer_b.finished.reason == FinishReason::cancelled);
  CHECK(answer_b.ids.empty());
  CHECK(collect(std::move(c)).ids == reference_answer(random_ids(3, 5), {}, 3, 0));
  CHECK(wakes.load() == int(answer_a.ids.size()) + 1);
}

TEST_CASE("engine_loop: dropping a handle cancels, ending the engine cancels everything") {
  Loop loop(small_limits(0, 12, 100000));
  Request request = request_of(random_ids(3, 5), 50000);  // long enough to be missed
  request.ignore_eos = true;
  { RequestHandle dropped = loop.engine->submit(request); }
  CHECK(collect(loop.engine->submit(request_of(random_ids(2, 5), 3))).finished.reason == FinishReason::length);
  CHECK(loop.runner->steps.size() < 25000);
  RequestHandle endless[2];
  for (RequestHandle& handle : endless) handle = loop.engine->submit(request);
  auto first = endless[0].next();
  REQUIRE(first);
  CHECK(std::holds_alternative<TokenChoice>(*first));
  loop.engine.reset();
  for (RequestHandle& handle : endless) {
    std::optional<Event> last;
    while (auto event = handle.next()) last = std::move(event);
    CHECK(std::get<Finished>(*last).reason == FinishReason::cancelled);
  }
}

TEST_CASE("engine_loop: a failed step ends its request, and the next one starts anew") {
  Loop loop;
  const std::vector<int32_t> ids = random_ids(1, 30);
  int steps_left = 3;
  loop.runner->on_step = [&](const StepPlan&) {
    if (steps_left-- == 0) fail(ErrorKind::internal, "logits of row 0 are NaN");
  };
  Answer failed = collect(loop.engine->submit(request_of(ids, 5)));
  CHECK(failed.finished.reason == FinishReason::error);
  CHECK(failed.finished.error == "logits of row 0 are NaN");
  CHECK(failed.finished.error_kind == ErrorKind::internal);
  Answer answer = collect(loop.engine->submit(request_of(ids, 5)));
  CHECK(answer.ids == reference_answer(ids, {}, 5, 16));
  CHECK(answer.finished.usage.cached_tokens == 0);
}

TEST_CASE("engine_loop: a failed device ends every request and takes no more") {
  Loop loop;
  std::promise<void> entered, go;
  loop.runner->on_step = [&](const StepPlan&) {
    entered.set_value();
    go.get_future().wait();
    fail(ErrorKind::device, "CUDA: an illegal memory access was encountered");
  };
  RequestHandle a = loop.engine->submit(request_of(random_ids(1, 5), 3));
  entered.get_future().wait();
  RequestHandle b = loop.engine->submit(request_of(random_ids(2, 5), 3));
  go.set_value();
  for (RequestHandle* handle : {&a, &b}) {
    Answer answer = collect(std::move(*handle));
    CHECK(answer.finished.reason == FinishReason::error);
    CHECK(answer.finished.error_kind == ErrorKind::device);
    CHECK(answer.finished.error == "CUDA: an illegal memory access was encountered");
  }
  CHECK(error_of([&] { loop.engine->submit(request_of({1}, 1)); }) == "CUDA: an illegal memory access was encountered");
}
