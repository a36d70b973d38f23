// The demo model's held-out items as requests, and their answers to the last bit.
#pragma once

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/paths.h"
#include "base/strings.h"
#include "formats/json.h"
#include "l4.h"
#include "support/test.h"

namespace l4::test {

struct Answer {
  std::vector<TokenChoice> tokens;
  Finished finished;
  bool operator==(const Answer& other) const {
    return std::equal(tokens.begin(), tokens.end(), other.tokens.begin(), other.tokens.end(),
                      [](const TokenChoice& a, const TokenChoice& b) {
                        return a.id == b.id && a.logprob == b.logprob &&
                               std::equal(a.top.begin(), a.top.end(), b.top.begin(), b.top.end(),
                                          [](auto& x, auto& y) { return x.id == y.id && x.logprob == y.logprob; });
                      });
  }
};

inline Answer collect(Generation generation) {
  Answer answer;
  while (auto event = generation.next()) {
    if (event->kind == GenerationEvent::Kind::token) answer.tokens.push_back(event->token);
    if (event->kind == GenerationEvent::Kind::finished) answer.finished = event->finished;
  }
  CHECK(answer.finished.error == "");
  return answer;
}

struct Item {
  Prompt prompt;
  GenerationOptions options;
  Answer alone;
};

inline LoadOptions demo_options(int64_t max_num_seqs) {
  LoadOptions options;
  options.model_dir = demo_model_dir();
  options.device = Device::cpu;
  options.max_num_seqs = max_num_seqs;
  options.max_context = 4096;
  return options;
}

// Of the demo's held-out items: short and long, with pictures and without; greedy, drawn, filtered and penalised.
inline std::vector<Item> items(const Frontend& frontend, size_t n) {
  std::vector<Item> all;
  for (const std::string& line : split(read_file(golden("demo/requests.jsonl"), 1 << 24), '\n')) {
    if (line.empty()) continue;
    const Json item = parse_json(line, "requests.jsonl");
    Item one;
    for (const Json& id : item.find("ids")->as_array()) one.prompt.ids.push_back(int32_t(id.as_integer()));
    for (const Json& name : item.find("images")->as_array()) {
      const std::string bytes = read_file(golden("demo/" + name.as_string()), 1 << 24);
      const PreparedImage image = frontend.prepare_image(std::as_bytes(std::span(bytes)), "an image");
      one.prompt.images.push_back({{image, &image->pixels}, image->n_tiles, image->digest});
    }
    all.push_back(std::move(one));
  }
  std::mt19937 random(5);
  std::shuffle(all.begin(), all.end(), random);
  all.resize(std::min(n, all.size()));
  for (size_t i = 0; i < all.size(); ++i) {
    GenerationOptions& o = all[i].options;
    o.max_tokens = 20;
    o.ignore_eos = true;
    o.sampling.temperature = i % 3 == 0 ? 0 : 1;
    o.sampling.seed = i;
    o.sampling.n_logprobs = 3;
    if (i % 4 == 1) o.sampling.top_p = 0.9f, o.sampling.top_k = 40;
    if (i % 5 == 2) o.sampling.repetition_penalty = 1.3f, o.sampling.frequency_penalty = 0.5f;
  }
  return all;
}

// What one engine answers another one answers with the KV of all but the prompt's last token from a file.
inline void check_prompt_files(const LoadOptions& options, std::vector<Item>& all) {
  const TempDir dir;
  std::unique_ptr<Engine> engine = Engine::load(options);
  for (size_t i = 0; i < all.size(); ++i) {
    all[i].alone = collect(engine->start(all[i].prompt, all[i].options));
    CHECK(engine->save_prompt(all[i].prompt, dir / cat(i)) >= int64_t(all[i].prompt.ids.size()) - 1);
  }
  engine = Engine::load(options);
  for (size_t i = 0; i < all.size(); ++i) {
    CAPTURE(i);
    const int64_t n = int64_t(all[i].prompt.ids.size());
    CHECK(engine->load_prompt(dir / cat(i), cat("salt ", i)) >= n - 1);
    all[i].options.cache_salt = cat("salt ", i);
    const Answer again = collect(engine->start(all[i].prompt, all[i].options));
    CHECK(again == all[i].alone);
    CHECK(again.finished.usage.cached_tokens == n - 1);
  }
}

}  // namespace l4::test
