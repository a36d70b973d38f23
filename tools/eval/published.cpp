#include "tools/eval/published.h"

#include "base/strings.h"

namespace l4::eval {

namespace {

constexpr const char *kCard = "Meta's model card", *kSglang = "SGLang's documentation", *kVllm = "vLLM's CI";
constexpr const char* kCardMmluPro = "Meta's own harness, 0-shot, macro_avg/acc, BF16";
constexpr const char* kCardChartQa = "Meta's own harness, 0-shot, relaxed_accuracy, BF16";
constexpr const char* kChat = "lm-eval, 0-shot, chat template, at most 2,048 tokens, 8 x H100";

constexpr Published kPublished[] = {
    {"mmlu_pro", "llama", 0, "exact_match", "scout", 0.743, kCard, kCardMmluPro, true},
    {"mmlu_pro", "llama", 0, "exact_match", "maverick", 0.805, kCard, kCardMmluPro, true},
    {"mmlu_pro", "lm-eval", 0, "exact_match", "scout", 0.752, kSglang, kChat},
    {"mmlu_pro", "lm-eval", 0, "exact_match", "maverick", 0.807, kSglang, kChat},
    {"mmlu_pro", "lm-eval", 5, "exact_match", "maverick", 0.80, kVllm,
     "FP8, 5-shot, no chat template, 250 a subject; a gate with 5 % of tolerance"},
    {"chartqa", "llama", 0, "relaxed_accuracy", "scout", 0.888, kCard, kCardChartQa},
    {"chartqa", "llama", 0, "relaxed_accuracy", "maverick", 0.900, kCard, kCardChartQa},
    {"chartqa", "lm-eval", 0, "relaxed_accuracy", "maverick", 0.80, kVllm,
     "FP8, lm-eval's chartqa with chat template, the first 100 questions; a gate"},
};

// "no chat template" in how it was done, where the run says whether it used one.
bool same_template(const Published& p, const Json& settings) {
  const Json* chat = settings.find("chat");
  if (!chat || !chat->is_bool() || std::string_view(p.recipe) == "llama") return true;
  return chat->as_bool() == (std::string_view(p.how).find("no chat template") == std::string_view::npos);
}

}  // namespace

std::vector<Published> published_for(const Summary& s) {
  std::vector<Published> found;
  const std::string model = to_lower(s.header.model);
  for (const Published& p : kPublished)
    if (s.header.task == p.task && s.header.recipe == p.recipe && s.header.shots == p.shots && s.find(p.metric) &&
        model.find(p.model) != std::string::npos && same_template(p, s.header.settings))
      found.push_back(p);
  return found;
}

}  // namespace l4::eval
