// The flags of l4-eval generate.
#include "base/error.h"
#include "tools/common/signals.h"
#include "tools/eval/commands.h"
#include "tools/eval/generate.h"

namespace l4::eval {

int generate_main(int argc, char** argv) {
  GenerateOptions o;
  tools::Flags flags("l4-eval generate", "Answers many prompts with one engine, always taking the likeliest token.");
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
  tools::add_model_flags(flags, o.model);
  tools::add_log_flags(flags);
  if (const std::optional<int> status = flags.parse(argc, argv)) return *status;
  if (o.requests.empty()) fail(ErrorKind::usage, "--requests: expected a file, found none");
  if (o.out.empty()) fail(ErrorKind::usage, "-o: expected the file to write, found none");
  o.max_tokens = max_tokens.value_or(o.max_tokens);
  o.model.complete();
  tools::install_signal_handlers();
  const tools::EndAtInterrupt end_at_interrupt;
  return run_generate(o);
}

}  // namespace l4::eval
