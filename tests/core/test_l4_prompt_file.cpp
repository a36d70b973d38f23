// KV to disk and back (Engine::save_prompt, load_prompt): the demo model's answers are the same to the last bit.
#include "core/demo_items.h"

using namespace l4;
using namespace l4::test;

namespace {

Prompt long_prompt(const Frontend& frontend, int64_t n, int seed) {
  Prompt prompt = frontend.prompt_from_text("Once");
  std::mt19937 random(static_cast<uint32_t>(seed));
  while (int64_t(prompt.ids.size()) < n) prompt.ids.push_back(int32_t(100 + random() % 500));
  prompt.ids.resize(size_t(n));
  return prompt;
}

}  // namespace

TEST_CASE("l4: a prompt's KV from a file gives the same answers, texts and pictures") {
  std::vector<Item> all = items(*Frontend::load(demo_model_dir()), 12);
  CHECK(std::any_of(all.begin(), all.end(), [](const Item& item) { return !item.prompt.images.empty(); }));
  check_prompt_files(demo_options(4), all);
}

TEST_CASE("l4: a prompt's KV from a file gives the same answers at the edges of chunks and pages") {
  const std::shared_ptr<const Frontend> frontend = Frontend::load(demo_model_dir());
  std::vector<Item> all;
  for (int64_t n : {1, 2, 127, 128, 129, 511, 512, 513, 1023, 1024, 1025}) {
    Item item{long_prompt(*frontend, n, int(n)), {}, {}};
    item.options.max_tokens = 6;
    item.options.ignore_eos = true;
    item.options.sampling.n_logprobs = 3;
    all.push_back(std::move(item));
  }
  check_prompt_files(demo_options(2), all);
}

TEST_CASE("l4: a prompt's KV in other types and over ranks") {
  const std::shared_ptr<const Frontend> frontend = Frontend::load(demo_model_dir());
  LoadOptions fp8 = demo_options(2), ranks = demo_options(2), wide = demo_options(2);
  fp8.kv_dtype = DType::f8_e4m3;
  ranks.topology = {.tp = 2, .pp = 2, .ep = 1};
  wide.dtype = DType::f32;
  for (const LoadOptions& options : {fp8, ranks, wide}) {
    std::vector<Item> all{{long_prompt(*frontend, 700, 3), {}, {}}};
    all[0].options.max_tokens = 6;
    all[0].options.sampling.n_logprobs = 3;
    check_prompt_files(options, all);
  }

  const TempDir dir;
  const Prompt prompt = long_prompt(*frontend, 30, 4);
  const auto saved = [&](const LoadOptions& options) {
    const std::unique_ptr<Engine> engine = Engine::load(options);
    GenerationOptions o;
    o.max_tokens = 1;
    collect(engine->start(prompt, o));
    CHECK(engine->save_prompt(prompt, dir / "kv") == 30);
  };
  const auto refusal = [&](const LoadOptions& options) {
    const std::unique_ptr<Engine> engine = Engine::load(options);
    const std::string why = error_of([&] { engine->load_prompt(dir / "kv"); });
    CHECK(why.starts_with((dir / "kv").string() + ": "));
    return why.substr((dir / "kv").string().size() + 2);
  };
  saved(demo_options(2));
  CHECK(refusal(fp8) == "kv_dtype: expected \"F8_E4M3\", found \"BF16\"");
  CHECK(refusal(ranks) == "ranks: expected \"tp 2, pp 2, ep 1\", found \"tp 1, pp 1, ep 1\"");
  CHECK(refusal(wide) == "activations: expected \"F32\", found \"BF16\"");

  // The same model but for half of a shard, and but for a number in its config.
  const fs::path other = dir / "model";
  fs::copy(demo_model_dir(), other, fs::copy_options::recursive);
  const fs::path config = other / "config.json", shard = other / "model-00002-of-00003.safetensors";
  std::string bytes = read_file(shard, 1 << 30);
  for (size_t i = bytes.size() / 2; i < bytes.size(); ++i) bytes[i] = char(bytes[i] ^ 1);
  write_file_atomic(shard, bytes);
  LoadOptions options = demo_options(2);
  options.model_dir = other;
  saved(options);
  CHECK(refusal(demo_options(2)).starts_with("weights: expected "));
  std::string text = read_file(config, 1 << 20);
  const size_t at = text.find("\"attn_scale\": 0.1");
  REQUIRE(at != std::string::npos);
  text.replace(at, 17, "\"attn_scale\": 0.2");
  write_file_atomic(config, text);
  CHECK(refusal(options).starts_with("config: expected "));
}
