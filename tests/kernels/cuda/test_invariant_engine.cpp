// --batch-invariant through the whole engine: the demo model's answers, ids and logprobs, alone and together.
#include <algorithm>

#include "base/paths.h"
#include "core/demo_items.h"
#include "kernels/cuda/gpu_testing.h"

using namespace l4;
using namespace l4::test;

namespace {

#ifdef L4_EMULATED  // a step takes it seconds; the shortest items
constexpr size_t kItems = 5;
constexpr int64_t kTokens = 3;
#else
constexpr size_t kItems = 32;
constexpr int64_t kTokens = 40;
#endif

LoadOptions demo_options(int64_t max_num_seqs, const LoadOptions& like) {
  LoadOptions options = like;
  options.model_dir = demo_model_dir();
  options.device = Device::cuda;
  options.max_num_seqs = max_num_seqs;
  options.max_context = 4096;
  options.batch_invariant = true;
  return options;
}

// Of all lengths, with pictures and without.
std::vector<Item> some_items(const Frontend& frontend) {
#ifdef L4_EMULATED
  std::vector<Item> all = items(frontend, 1000);
  std::sort(all.begin(), all.end(), [](auto& a, auto& b) { return a.prompt.ids.size() < b.prompt.ids.size(); });
  all.resize(kItems);
  return all;
#else
  return items(frontend, kItems);
#endif
}

void check_alone_and_together(const LoadOptions& like) {
  LoadOptions alone = demo_options(1, like);
  alone.prefix_cache = false;
  std::unique_ptr<Engine> engine = Engine::load(alone);
  std::vector<Item> all = some_items(engine->frontend());
  for (Item& item : all) {
    item.options.max_tokens = kTokens;
    item.alone = collect(engine->start(item.prompt, item.options));
    CHECK(int64_t(item.alone.tokens.size()) == kTokens);
  }
  struct Way {
    int64_t batch_tokens;
    bool cache;
    int drafts;
  };
  for (const Way& way : {Way{0, true, 0}, Way{64, false, 0}, Way{200, true, 4}}) {
    CAPTURE(way.batch_tokens);
    LoadOptions together = demo_options(int64_t(kItems), like);
    together.batch_tokens = way.batch_tokens;
    together.prefix_cache = way.cache;
    together.record_ahead = way.cache;
    together.ngram_speculation = way.drafts;
    engine.reset();
    engine = Engine::load(together);
    std::vector<Generation> running;
    for (const Item& item : all) running.push_back(std::move(engine->start(item.prompt, item.options)));
    for (size_t i = 0; i < all.size(); ++i) {
      CAPTURE(i);
      CHECK(collect(std::move(running[i])) == all[i].alone);
    }
    const EngineStats stats = engine->stats();
    CHECK(stats.step_rows > stats.n_steps);
#ifdef L4_EMULATED
    break;
#endif
  }
}

}  // namespace

TEST_CASE("cuda invariant: the demo model's answers are the same alone and together") {
  skip_without_gpu();
  check_alone_and_together({.gpus = {0}});
}

#ifndef L4_EMULATED
TEST_CASE("cuda invariant: the demo model's answers with an FP8 cache, with FP8 attention and head, and in float32") {
  skip_without_gpu();
  check_alone_and_together({.gpus = {0}, .kv_dtype = DType::f8_e4m3});
  check_alone_and_together({.gpus = {0}, .fp8_attention = true, .fp8_head = true});
  check_alone_and_together({.gpus = {0}, .dtype = DType::f32});
}

TEST_CASE("cuda invariant: a prompt's KV from a file gives the same answers") {
  skip_without_gpu();
  for (const LoadOptions& like : {LoadOptions{.gpus = {0}}, LoadOptions{.gpus = {0}, .kv_dtype = DType::f8_e4m3}}) {
    const LoadOptions options = demo_options(4, like);
    std::vector<Item> all = items(*Frontend::load(demo_model_dir()), 8);
    std::vector<int32_t>& ids = all[0].prompt.ids;  // one that ends in a later chunk, and within a page
    if (all[0].prompt.images.empty())
      while (ids.size() < 1111) ids.push_back(ids[ids.size() / 2]);
    check_prompt_files(options, all);
  }
}
#endif

TEST_CASE("cuda invariant: the demo model's answers from two GPUs") {
  skip_without_gpu(2);
  LoadOptions options{.gpus = {0, 1}};
  options.topology.tp = 2;
  check_alone_and_together(options);
  std::vector<Item> all = some_items(*Frontend::load(demo_model_dir()));
  check_prompt_files(demo_options(4, options), all);
}
