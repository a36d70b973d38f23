// l4-eval: the word after the name says what is measured.
#include <string_view>

#include "base/version.h"
#include "tools/common/signals.h"
#include "tools/common/terminal.h"
#include "tools/entry.h"
#include "tools/eval/generate.h"
#include "tools/eval/logits.h"

namespace {

using l4::tools::Flags;

int logits_main(int argc, char** argv) {
  l4::eval::LogitsOptions o;
  Flags flags("l4-eval logits", "Writes the logits of every token of a prompt as a NumPy file, float32 [T, vocab].");
  flags.usage("l4-eval logits -m DIR --ids 1,2,3|@FILE [--image FILE ...] -o OUT.npy");
  flags.examples(
      "l4-eval logits -m Llama-4-Scout-17B-16E-Instruct --ids 200000,200005,15651 -o ours.npy\n"
      "scripts/hf_logits.py Llama-4-Scout-17B-16E-Instruct --ids 200000,200005,15651 --out hf.npy\n"
      "scripts/compare_logits.py hf.npy ours.npy");
  flags.group("Prompt");
  flags.value("--ids", "IDS", "the prompt as token ids, 1,2,3 or @FILE",
              [&](const std::string& text) { o.ids = text; });
  flags.list("--image", "FILE",
             "the pictures of the prompt, in order: of its runs of image tokens, or of its <|image|> tokens",
             [&](const std::string& path) { o.images.push_back(path); });
  flags.path("-o,--out", "FILE", "what is written", &o.out);
  flags.path("--activations", "DIR", "also what each layer gives, DIR/layers.0.ffn.npy and so on", &o.activations);
  l4::tools::add_model_flags(flags, o.model);
  l4::tools::add_log_flags(flags);
  if (const std::optional<int> status = flags.parse(argc, argv)) return *status;
  if (o.ids.empty()) l4::fail(l4::ErrorKind::usage, "--ids: expected token ids, found none");
  if (o.out.empty()) l4::fail(l4::ErrorKind::usage, "-o: expected the file to write, found none");
  o.model.complete();
  l4::tools::install_signal_handlers();
  const l4::tools::EndAtInterrupt end_at_interrupt;
  return l4::eval::run_logits(o);
}

int generate_main(int argc, char** argv) {
  l4::eval::GenerateOptions o;
  Flags flags("l4-eval generate", "Answers many prompts with one engine, always taking the likeliest token.");
  flags.usage("l4-eval generate -m DIR --requests FILE -o OUT.jsonl");
  flags.examples("l4-eval generate -m core/demo --requests items.jsonl -o answers.jsonl --dtype float32");
  flags.group("Prompts");
  flags.path("--requests", "FILE",
             "one JSON object a line: \"messages\" (and \"tools\") or \"ids\", \"images\" (files, seen from the "
             "FILE's folder), \"id\"",
             &o.requests);
  std::optional<int64_t> max_tokens;
  flags.number<int64_t>("-n,--max-tokens", "N", "longest answer (default 400)", &max_tokens, 0, INT32_MAX);
  flags.path("-o,--out", "FILE", "what is written, one JSON object a request", &o.out);
  flags.path("--activations", "DIR", "also what each layer gives, for request 0 DIR/0/layers.0.ffn.npy and so on",
             &o.activations);
  l4::tools::add_model_flags(flags, o.model);
  l4::tools::add_log_flags(flags);
  if (const std::optional<int> status = flags.parse(argc, argv)) return *status;
  if (o.requests.empty()) l4::fail(l4::ErrorKind::usage, "--requests: expected a file, found none");
  if (o.out.empty()) l4::fail(l4::ErrorKind::usage, "-o: expected the file to write, found none");
  o.max_tokens = max_tokens.value_or(o.max_tokens);
  o.model.complete();
  l4::tools::install_signal_handlers();
  const l4::tools::EndAtInterrupt end_at_interrupt;
  return l4::eval::run_generate(o);
}

constexpr const char* kUsage =
    "usage: l4-eval WHAT [ARGUMENTS]; l4-eval WHAT --help says more\n"
    "  logits    logits of every prompt token as a NumPy file, to compare with another implementation\n"
    "  generate  answers to many prompts, each token the likeliest\n"
    "  --version, --help\n";

}  // namespace

int l4_eval_main(int argc, char** argv) {
  const std::string_view word = argc > 1 ? argv[1] : "";
  if (word == "logits") return logits_main(argc - 1, argv + 1);
  if (word == "generate") return generate_main(argc - 1, argv + 1);
  if (word == "--version") {
    l4::tools::write_stdout(l4::version_line("l4-eval") + "\n");
    return 0;
  }
  if (word == "--help" || word == "-h") {
    l4::tools::write_stdout(kUsage);
    return 0;
  }
  if (word.empty()) l4::fail(l4::ErrorKind::usage, "expected what to measure: logits or generate");
  l4::fail(l4::ErrorKind::usage, "cannot measure ", l4::shown(word), "; expected logits or generate");
}
