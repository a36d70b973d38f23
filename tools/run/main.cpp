// l4-run: the flags. What they set in motion is in one_shot.cpp, repl.cpp and text_tasks.cpp.
#include "tools/common/signals.h"
#include "tools/entry.h"
#include "tools/run/batch_command.h"
#include "tools/run/one_shot.h"
#include "tools/run/options.h"
#include "tools/run/repl.h"
#include "tools/run/text_tasks.h"

namespace {

using l4::ErrorKind;
using l4::run::RunOptions;
using l4::tools::Flags;

void add_prompt_flags(Flags& flags, RunOptions& o) {
  flags.group("Prompt (without one: a chat, or the text from a pipe)");
  flags.text("-p,--prompt", "TEXT", "answer this and leave", &o.prompt);
  flags.list("-f,--file", "FILE", "the same with a file's text, after -p's; - is standard input; repeatable",
             [&](const std::string& path) { o.files.push_back(path); });
  flags.list("--image", "FILE", "a picture that the prompt is about; repeatable",
             [&](const std::string& path) { o.images.push_back(path); });
  flags.text("-sys,--system,--system-prompt", "TEXT", "the system message", &o.system);
  flags.toggle("-i,--interactive", "chat, also where input is no terminal; -p is the first message", &o.interactive);
  flags.toggle("--raw,--no-chat,-no-cnv,--no-conversation", "complete the text as it is, without the chat template",
               &o.raw);
  flags.text("--ids", "IDS", "the prompt as token ids, 1,2,3 or @FILE", &o.ids);
  flags.toggle("-sp,--special", "special tokens by their names, in --raw and --tokenize text and in answers",
               &o.special);
  l4::run::add_prompt_cache_flags(flags, o.prompt_cache);
}

void add_output_flags(Flags& flags, RunOptions& o) {
  flags.group("Output");
  flags.toggle("--json", "one JSON object: text, ids, finish_reason, usage, timings, ...", &o.json);
  flags.toggle("--output-ids", "the answer's token ids as one JSON array", &o.output_ids);
  flags.toggle("--stats,!--no-stats", "a line with speed and context after each answer (on a terminal: always)",
               &o.stats);
  flags.value("--color,--colors", "auto|always|never", "auto: on a terminal, unless NO_COLOR is set",
              [&](const std::string& name) { o.color = l4::tools::parse_color_mode(name); });
  flags.path("--history", "FILE", "of lines typed; default: ~/.local/state/l4/history", &o.history_file);
  flags.toggle("--no-history", "neither read nor write it", &o.no_history);
}

struct Tasks {
  bool tokenize = false, detokenize = false, dry_run = false, list_devices = false;
};

void add_task_flags(Flags& flags, RunOptions& o, Tasks& tasks) {
  flags.group("Instead of an answer");
  flags.toggle("--dry-run", "what loading would take, without reading weights", &tasks.dry_run);
  flags.toggle("--list-devices", "what this program could run on", &tasks.list_devices);
  flags.toggle("--tokenize", "the prompt's token ids as one JSON array", &tasks.tokenize);
  flags.toggle("--detokenize", "the text of --ids", &tasks.detokenize);
  flags.path("--render", "FILE", "the prompt text of a JSON object with messages, tools, ...; with --tokenize its ids",
             &o.render_file);
  flags.path("--batch", "FILE", "answer each line's request, in OpenAI's batch format; goes on where it was stopped",
             &o.batch_file);
  flags.path("-o,--output", "FILE", "the answers of --batch, in its order", &o.output_file);
}

void choose_task(RunOptions& o, const Tasks& tasks) {
  using Task = RunOptions::Task;
  const bool render = !o.render_file.empty(), batch = !o.batch_file.empty();
  if (tasks.list_devices + tasks.dry_run + tasks.detokenize + (tasks.tokenize || render) + batch > 1)
    l4::fail(ErrorKind::usage,
             "--dry-run, --list-devices, --batch, --detokenize and --tokenize or --render: one of them at a time");
  if (batch) o.task = Task::batch;
  if (tasks.list_devices) o.task = Task::list_devices;
  if (tasks.dry_run) o.task = Task::dry_run;
  if (tasks.detokenize) o.task = Task::detokenize;
  if (render) o.task = Task::render;
  if (tasks.tokenize) o.task = Task::tokenize;
}

void check_batch(const RunOptions& o) {
  if (o.batch_file.empty() != o.output_file.empty())
    l4::fail(ErrorKind::usage, "--batch FILE and -o FILE: the requests and where their answers go, both or none");
  if (o.batch_file.empty()) return;
  if (o.prompt || !o.files.empty() || o.ids || o.system || o.raw || o.grammar.any() || !o.images.empty() ||
      o.interactive || o.json || o.output_ids)
    l4::fail(ErrorKind::usage,
             "--batch: its requests bring their prompts: without -p, -f, --ids, --system, --raw, --image, --grammar, "
             "--json-schema, --interactive, --json and --output-ids");
  if (!o.prompt_cache.file.empty() && !o.prompt_cache.read_only)
    l4::fail(ErrorKind::usage, "--batch: --prompt-cache is read, not written: with --prompt-cache-ro");
}

void check(const RunOptions& o) {
  if (o.ids && (o.prompt || !o.files.empty()))
    l4::fail(ErrorKind::usage, "--ids is a prompt, and so are -p and -f: one of them");
  if (o.ids && o.system) l4::fail(ErrorKind::usage, "--ids is a whole prompt: --system has no place in it");
  if (o.json && o.output_ids) l4::fail(ErrorKind::usage, "--json holds the ids already: without --output-ids");
  if (o.interactive && (o.json || o.output_ids || o.ids))
    l4::fail(ErrorKind::usage, "--interactive is a chat: without --json, --output-ids and --ids");
}

}  // namespace

int l4_run_main(int argc, char** argv) {
  RunOptions o;
  Tasks tasks;
  Flags flags("l4-run", "Chat with a Llama 4 model, or get one answer.");
  flags.usage(
      "l4-run [-m DIR]                       chat (/help lists its commands)\n"
      "l4-run [-m DIR] -p TEXT [--image F]   one answer\n"
      "COMMAND | l4-run [-m DIR]             one answer to a command's output");
  flags.examples(
      "l4-run -m Llama-4-Scout-17B-16E-Instruct\n"
      "l4-run -m Llama-4-Scout-17B-16E-Instruct -p 'What is on this picture?' --image dog.jpg\n"
      "git diff | l4-run -m Llama-4-Scout-17B-16E-Instruct -p 'Review this change.' -f -\n"
      "l4-run -m Llama-4-Scout-17B-16E-Instruct -p 'Name a colour.' --temp 0 -n 20 --json\n"
      "l4-run -m Llama-4-Maverick-17B-128E-Instruct -tp 8 -c 1M --dry-run\n"
      "l4-run --raw -p 'Once upon a time' --seed 7\n"
      "l4-run -p 'A person, as JSON.' --json-schema '{\"type\": \"object\", \"properties\": {\"age\": {\"type\": "
      "\"integer\"}}}'\n"
      "l4-run -m Llama-4-Scout-17B-16E-Instruct --batch requests.jsonl -o answers.jsonl");
  add_prompt_flags(flags, o);
  l4::tools::add_model_flags(flags, o.model);
  l4::tools::add_engine_flags(flags, o.model);
  l4::tools::add_sampling_flags(flags, o.sampling);
  l4::run::add_grammar_flags(flags, o.grammar);
  add_output_flags(flags, o);
  add_task_flags(flags, o, tasks);
  l4::tools::add_media_flags(flags, o.media);
  l4::tools::add_log_flags(flags);
  if (const std::optional<int> status = flags.parse(argc, argv)) return *status;
  o.no_stats = flags.was_given("--stats") && !o.stats;
  choose_task(o, tasks);
  check(o);
  check_batch(o);
  o.prompt_cache.check();

  if (o.task == RunOptions::Task::list_devices) return l4::run::run_text_task(o);
  o.model.complete();
  if (o.task == RunOptions::Task::batch) {
    l4::tools::install_signal_handlers();
    return l4::run::run_batch_command(o);
  }
  if (o.task != RunOptions::Task::chat) return l4::run::run_text_task(o);
  l4::tools::install_signal_handlers();
  const bool has_prompt = o.prompt || !o.files.empty() || o.ids;
  if (o.interactive || (!has_prompt && l4::tools::is_terminal(stdin))) return l4::run::run_repl(o);
  return l4::run::run_one_shot(o);
}
