// The flags of l4-eval logits.
#include "base/error.h"
#include "tools/common/signals.h"
#include "tools/eval/commands.h"
#include "tools/eval/logits.h"

namespace l4::eval {

int logits_main(int argc, char** argv) {
  LogitsOptions o;
  tools::Flags flags("l4-eval logits",
                     "Writes the logits of every token of a prompt as a NumPy file, float32 [T, vocab].");
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
  tools::add_model_flags(flags, o.model);
  tools::add_log_flags(flags);
  if (const std::optional<int> status = flags.parse(argc, argv)) return *status;
  if (o.ids.empty()) fail(ErrorKind::usage, "--ids: expected token ids, found none");
  if (o.out.empty()) fail(ErrorKind::usage, "-o: expected the file to write, found none");
  o.model.complete();
  tools::install_signal_handlers();
  const tools::EndAtInterrupt end_at_interrupt;
  return run_logits(o);
}

}  // namespace l4::eval
