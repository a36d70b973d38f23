// The flags of l4-eval mmlu-pro.
#include "tools/eval/mmlu_pro.h"

#include "tools/eval/commands.h"
#include "tools/eval/task_command.h"

namespace l4::eval {

int mmlu_pro_main(int argc, char** argv) {
  TaskOptions o;
  MmluProOptions mmlu;
  bool no_template = false, one_turn = false;
  tools::Flags flags("l4-eval mmlu-pro", "MMLU-Pro: questions of 14 subjects with up to ten options.");
  flags.usage(
      "l4-eval mmlu-pro -m DIR --data FOLDER -o OUT.jsonl [--recipe lm-eval|llama|tiger]\n"
      "l4-eval mmlu-pro --url URL --data FOLDER -o OUT.jsonl");
  flags.examples("l4-eval mmlu-pro -m Llama-4-Scout-17B-16E-Instruct --data mmlu_pro --recipe llama -o scout.jsonl");
  add_task_flags(flags, o, "DIR", "a folder with test.jsonl and, for shots, validation.jsonl");
  flags.group("Questions");
  flags.value("--recipe", "lm-eval|llama|tiger", "whose prompts and rules (default lm-eval)",
              [&](const std::string& name) { mmlu.recipe = name; });
  flags.number<int64_t>("--shots", "N", "examples before each question (default: the recipe's)", &mmlu.shots, 0, 100);
  flags.toggle("--no-chat-template", "prompts are texts to go on with", &no_template);
  flags.toggle("--one-turn", "all shots in one message, not as turns of their own", &one_turn);
  if (const std::optional<int> status = parse_task_flags(flags, o, argc, argv)) return *status;
  mmlu.data = o.data;
  mmlu.limit = o.limit.value_or(0);
  mmlu.categories = o.categories;
  mmlu.seed = uint64_t(o.seed.value_or(0));
  mmlu.max_tokens = o.max_tokens;
  mmlu.chat = !no_template;
  mmlu.fewshot_as_multiturn = !one_turn;
  const Task task = mmlu_pro_task(mmlu);
  std::vector<fs::path> files = {o.data / "test.jsonl"};
  if (task.shots > 0) files.push_back(o.data / "validation.jsonl");
  Json settings = common_settings(o, files);
  settings.set("chat", mmlu.chat);
  settings.set("fewshot_as_multiturn", mmlu.fewshot_as_multiturn);
  return run_task_command(o, task, std::move(settings));
}

}  // namespace l4::eval
