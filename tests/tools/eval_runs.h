// Run files in memory, for what reads them.
#pragma once

#include <string>
#include <vector>

#include "base/strings.h"
#include "tools/eval/record.h"

namespace l4::test {

inline eval::RunHeader mmlu_pro_header(std::string model, int64_t n_items) {
  eval::RunHeader h;
  h.task = "mmlu_pro", h.recipe = "lm-eval", h.version = "3.1", h.group_name = "subject";
  h.model = std::move(model), h.device = "CPU, 2 threads";
  h.shots = 5, h.n_items = n_items;
  h.settings =
      Json::Object{{"chat", true}, {"dtype", "float32"}, {"kv_dtype", "bf16"}, {"data_sha256", std::string(64, 'a')}};
  return h;
}

// What would be markup, or an order to a terminal, where text is taken for more than it is.
inline constexpr const char* kHostile =
    "</pre><script>alert(1)</script> | a `b` ``` c ````\n# head\n![x](http://evil/x.png) \x1b[31m \u202e & \"q\" 'r'";

// Answered with `extracted` ("": nothing found), where `target` is right.
inline eval::Record answered(std::string id, std::string group, const std::string& extracted, std::string target) {
  eval::Record r;
  const bool right = extracted == target;
  r.prompt_sha256 = std::string(56, '0') + std::string(8 - std::min<size_t>(8, id.size()), '0') + id.substr(0, 8);
  r.id = std::move(id), r.group = std::move(group), r.target = std::move(target);
  r.reply.text = extracted.empty() ? "I do not know." : cat("So the answer is (", extracted, ").");
  r.reply.finish_reason = "stop";
  r.reply.prompt_tokens = 100, r.reply.completion_tokens = 10;
  if (!extracted.empty()) r.score.extracted = extracted, r.score.rule = "answer is";
  r.score.metrics = {{"exact_match", right ? 1.0 : 0.0}};
  return r;
}

inline eval::Record failed(std::string id, std::string group, std::string error) {
  eval::Record r;
  r.id = std::move(id), r.group = std::move(group), r.target = "A";
  r.reply.error = std::move(error), r.reply.attempts = 5;
  return r;
}

}  // namespace l4::test
