// The flags of l4-eval questions.
#include "tools/eval/commands.h"
#include "tools/eval/questions.h"
#include "tools/eval/task_command.h"

namespace l4::eval {

int questions_main(int argc, char** argv) {
  TaskOptions o;
  bool no_template = false;
  tools::Flags flags("l4-eval questions", "Asks your own questions and counts the right answers.");
  flags.usage(
      "l4-eval questions -m DIR --data FILE -o OUT.jsonl\n"
      "l4-eval questions --url URL --data FILE -o OUT.jsonl");
  flags.examples(
      "l4-eval questions -m core/demo --data sums.jsonl -o sums-bf16.jsonl\n"
      "l4-eval questions --url http://127.0.0.1:8000 --data sums.jsonl -o sums-served.jsonl --resume");
  add_task_flags(flags, o, "FILE",
                 "a JSON object a line: \"prompt\" or \"messages\", \"images\", \"answer\" or \"answers\", \"match\" "
                 "(exact, contains, number, letter, relaxed), \"id\", \"group\"");
  flags.group("Questions");
  flags.toggle("--no-chat-template", "prompts are texts to go on with", &no_template);
  if (const std::optional<int> status = parse_task_flags(flags, o, argc, argv)) return *status;
  QuestionsOptions questions;
  questions.data = o.data;
  questions.limit = o.limit.value_or(0);
  questions.categories = o.categories;
  questions.seed = uint64_t(o.seed.value_or(0));
  questions.chat = !no_template;
  questions.max_tokens = o.max_tokens.value_or(questions.max_tokens);
  Json settings = common_settings(o, {o.data});
  settings.set("chat", questions.chat);
  settings.set("max_tokens", questions.max_tokens);
  return run_task_command(o, questions_task(questions), std::move(settings));
}

}  // namespace l4::eval
