// The flags of l4-eval chartqa.
#include "tools/eval/chartqa.h"

#include "tools/eval/commands.h"
#include "tools/eval/task_command.h"

namespace l4::eval {

int chartqa_main(int argc, char** argv) {
  TaskOptions o;
  ChartQaOptions chartqa;
  tools::Flags flags("l4-eval chartqa", "ChartQA: questions about charts, by people and made from summaries.");
  flags.usage(
      "l4-eval chartqa -m DIR --data FILE -o OUT.jsonl [--recipe lm-eval|llama|lmms-eval]\n"
      "l4-eval chartqa --url URL --data FILE -o OUT.jsonl");
  flags.examples(
      "l4-eval chartqa -m Llama-4-Scout-17B-16E-Instruct --data chartqa/test.jsonl --recipe llama -o scout.jsonl");
  add_task_flags(flags, o, "FILE", "questions, JSONL; pictures are seen from its folder");
  flags.group("Questions");
  flags.value("--recipe", "lm-eval|llama|lmms-eval", "whose prompts and rules (default lm-eval)",
              [&](const std::string& name) { chartqa.recipe = name; });
  if (const std::optional<int> status = parse_task_flags(flags, o, argc, argv)) return *status;
  chartqa.data = o.data;
  chartqa.limit = o.limit.value_or(0);
  chartqa.categories = o.categories;
  chartqa.seed = uint64_t(o.seed.value_or(0));
  chartqa.max_tokens = o.max_tokens;
  return run_task_command(o, chartqa_task(chartqa), common_settings(o, {o.data}));
}

}  // namespace l4::eval
