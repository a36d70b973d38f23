// Answers do not depend on what is computed beside them: the demo model's, alone and together, to the last bit.
#include <algorithm>
#include <random>
#include <thread>

#include "core/demo_items.h"
#include "grammar/grammar.h"

using namespace l4;
using namespace l4::test;

TEST_CASE("l4: the demo model's answers, ids and logprobs, are the same alone and together") {
  LoadOptions options = demo_options(1);
  options.prefix_cache = false;
  std::unique_ptr<Engine> engine = Engine::load(options);
  std::vector<Item> all = items(engine->frontend(), 20);
  for (Item& item : all) item.alone = collect(engine->start(item.prompt, item.options));

  struct Way {
    int64_t sequences, batch_tokens;
    bool cache;
    int drafts;
  };
  for (const Way& way : {Way{16, 0, true, 0}, Way{5, 64, false, 0}, Way{16, 200, true, 4}}) {
    CAPTURE(way.sequences);
    CAPTURE(way.batch_tokens);
    LoadOptions together = demo_options(way.sequences);
    together.batch_tokens = way.batch_tokens;
    together.prefix_cache = way.cache;
    together.ngram_speculation = way.drafts;
    engine.reset();
    engine = Engine::load(together);
    std::mt19937 random(uint32_t(way.sequences + way.drafts));
    std::vector<size_t> order;
    for (size_t i = 0; i < all.size(); ++i) order.insert(order.end(), {i, i});
    std::shuffle(order.begin(), order.end(), random);
    std::vector<std::pair<size_t, Generation>> running;
    for (size_t i : order) {
      running.emplace_back(i, engine->start(all[i].prompt, all[i].options));
      if (random() % 3 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(random() % 20));
    }
    for (auto& [i, generation] : running) {
      CAPTURE(i);
      CHECK(collect(std::move(generation)) == all[i].alone);
    }
    const EngineStats stats = engine->stats();
    CHECK(stats.step_rows > stats.n_steps);
    if (way.cache) CHECK(stats.prefix_hit_tokens > 0);
    if (way.drafts > 0) CHECK(stats.accepted_draft_tokens > 0);
  }
}

TEST_CASE("l4: n answers of the demo model are those of n requests with the seeds after the first") {
  LoadOptions options = demo_options(4);
  const std::unique_ptr<Engine> engine = Engine::load(options);
  Item item = items(engine->frontend(), 1).front();
  item.options.sampling = {};
  item.options.sampling.seed = 100;
  item.options.sampling.n_logprobs = 2;
  std::vector<Generation> together = engine->start(item.prompt, item.options, 6);  // two have to wait
  REQUIRE(together.size() == 6);
  for (Generation& generation : together) {
    const Answer answer = collect(std::move(generation)), alone = collect(engine->start(item.prompt, item.options));
    CHECK(answer == alone);
    ++item.options.sampling.seed;
  }
  CHECK(error_of([&] { engine->start(item.prompt, item.options, 0); }) == "n must be 1 or more, not 0");
  CHECK(engine->concurrent_sequences(4095) >= 1);
  CHECK(engine->concurrent_sequences(1) == 4);
}

TEST_CASE("l4: with a grammar the demo model says what it allows, with drafts and without") {
  for (int drafts : {0, 4}) {
    LoadOptions options = demo_options(4);
    options.ngram_speculation = drafts;
    const std::unique_ptr<Engine> engine = Engine::load(options);
    const Tokenizer& tokenizer = engine->frontend().tokenizer();
    const ModelConfig& config = engine->config();
    std::vector<std::string> bytes(static_cast<size_t>(config.text.vocab));
    std::vector<uint8_t> is_special(bytes.size(), 0);
    for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
      is_special[size_t(id)] = tokenizer.is_special(id);
      if (!is_special[size_t(id)]) bytes[size_t(id)] = tokenizer.decode(id);
    }
    const GrammarVocabPtr vocab = make_grammar_vocab(
        bytes, is_special, config.generation.eos_ids.empty() ? config.eos_ids : config.generation.eos_ids);
    const std::vector<std::string> choices{"apples and pears", "apples and more apples and more apples", "pears"};
    std::vector<Generation> running;
    for (uint64_t seed = 0; seed < 6; ++seed) {
      GenerationOptions o;
      o.sampling.seed = seed;
      o.grammar = seed % 2 ? compile_regex(vocab, "(ab){5}c") : compile_choice(vocab, choices);
      o.cache_salt = cat(seed);
      running.push_back(engine->start(engine->frontend().prompt_from_text("What is there?"), o));
    }
    for (size_t i = 0; i < running.size(); ++i) {
      std::string text;
      while (auto event = running[i].next()) {
        text += event->text;
        if (event->kind == GenerationEvent::Kind::finished) CHECK(event->finished.reason == FinishReason::stop);
      }
      if (i % 2)
        CHECK(text ==
              "ababababab"
              "c");
      else
        CHECK(std::count(choices.begin(), choices.end(), text) == 1);
    }
  }
}
