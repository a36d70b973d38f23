// l4-bench: the word after the name says what is measured; without one, llama-bench's table.
#include <string_view>

#include "tools/bench/ceilings.h"
#include "tools/bench/checkpoint.h"
#include "tools/bench/lists.h"
#include "tools/bench/modes.h"
#include "tools/bench/op.h"
#include "tools/bench/serve.h"
#include "tools/common/model_flags.h"
#include "tools/common/signals.h"
#include "tools/common/terminal.h"
#include "tools/entry.h"

namespace {

using l4::tools::Flags;
using namespace l4::bench;

void add_repeat_flags(Flags& flags, CommonOptions& o, const char* help) {
  flags.number<int64_t>("-r,--repetitions", "N", help, &o.repeats, 1, 10000);
  flags.toggle("--warmup,!--no-warmup", "steps before that are not timed, and look at the experts hit (default on)",
               &o.warmup);
}

// Parses, then runs; an exit status.
template <class Options>
int parse_and_run(Flags& flags, Options& o, void (*run)(const Options&), int argc, char** argv) {
  add_common_flags(flags, o.common);
  l4::tools::add_log_flags(flags);
  if (const std::optional<int> status = flags.parse(argc, argv)) return *status;
  if (o.common.synthetic.n_layers && !o.common.synthetic.on)
    l4::fail(l4::ErrorKind::usage, "--layers: only a synthetic model can be cut; add --synthetic");
  if (o.common.synthetic.format != "bf16" && !o.common.synthetic.on)
    l4::fail(l4::ErrorKind::usage, "--format: a checkpoint's weights are stored as they are; add --synthetic");
  if (o.common.models.empty()) o.common.models.emplace_back();
  l4::tools::install_signal_handlers();
  const l4::tools::EndAtInterrupt end_at_interrupt;
  run(o);
  return 0;
}

int table_main(int argc, char** argv) {
  TableOptions o;
  Flags flags("l4-bench", "Measures speed, and how close it is to what the device allows.");
  flags.usage(
      "l4-bench [-m DIR ...] [-p N,...] [-n N,...] [-pg P,N] [-d N,...]\n"
      "l4-bench decode|prefill|latency|load|op|ceilings [FLAGS]   (l4-bench decode --help says more)\n"
      "l4-bench serve --url URL [FLAGS]\n"
      "l4-bench write-checkpoint DIR [FLAGS]");
  flags.examples(
      "l4-bench -m Llama-4-Scout-17B-16E-Instruct -p 512,8K -n 128 -d 0,32K\n"
      "l4-bench -m scout --synthetic --layers 16 -o jsonl > results.jsonl\n"
      "l4-bench decode -m DIR --batch 1,8,32 --context 1K,8K");
  flags.group("What is measured");
  add_list_flag(flags, "-p,--n-prompt", "tokens of a prompt that is read (default 512); 0: none", 0, kMostTokens,
                &o.prompts);
  add_list_flag(flags, "-n,--n-gen", "tokens decoded one by one (default 128); 0: none", 0, kMostTokens, &o.answers);
  flags.list("-pg,--prompt-gen", "P,N", "a prompt and then an answer; may be repeated",
             [&o](const std::string& text) { o.pairs.push_back(parse_pair(text, kMostTokens)); });
  add_list_flag(flags, "-d,--n-depth", "tokens that are in the KV cache before (default 0)", 0, kMostTokens, &o.depths);
  add_list_flag(flags, "-b,--batch-size", "rows of the largest step of a prompt (default 512 on the CPU, 8192 on GPUs)",
                1, 1 << 20, &o.batches);
  add_repeat_flags(flags, o.common, "how often each test is run (default 5)");
  return parse_and_run(flags, o, run_table, argc, argv);
}

constexpr int64_t kMostSequences = 4096;

int decode_main(int argc, char** argv) {
  DecodeOptions o;
  Flags flags("l4-bench decode", "Times single steps of several sequences whose contexts grow.");
  flags.usage("l4-bench decode [-m DIR] [--batch N,...] [--context N,...] [-n N]");
  flags.group("What is measured");
  add_list_flag(flags, "--batch,-np,--parallel", "sequences decoded together (default 1)", 1, kMostSequences,
                &o.batches);
  add_list_flag(flags, "--context", "tokens in the KV cache before the first step (default 1K)", 1, kMostTokens,
                &o.contexts);
  flags.size("-n,--n-gen", "steps, each one sample (default 200)", &o.n_steps, 1);
  flags.size("-b,--batch-size", "rows of the largest step that fills the cache (default 512 on the CPU, 8192 on GPUs)",
             &o.fill_rows, 1);
  add_repeat_flags(flags, o.common, "not used: each step is a sample");
  return parse_and_run(flags, o, run_decode, argc, argv);
}

int prefill_main(int argc, char** argv) {
  PrefillOptions o;
  Flags flags("l4-bench prefill", "Times whole prompts up to the choice of the first token.");
  flags.usage("l4-bench prefill [-m DIR] [-p N,...] [-b N,...]");
  flags.group("What is measured");
  add_list_flag(flags, "-p,--n-prompt", "tokens of the prompt (default 512,8K)", 1, kMostTokens, &o.prompts);
  add_list_flag(flags, "-b,--batch-size", "rows of the largest step (default 512 on the CPU, 8192 on GPUs)", 1, 1 << 20,
                &o.step_rows);
  add_repeat_flags(flags, o.common, "how often each prompt is read (default 3)");
  return parse_and_run(flags, o, run_prefill, argc, argv);
}

int latency_main(int argc, char** argv) {
  LatencyOptions o;
  Flags flags("l4-bench latency", "Times prompts that come at once: each one's first token, then each further token.");
  flags.usage("l4-bench latency [-m DIR] [--batch N,...] [-p N,...] [-n N]");
  flags.group("What is measured");
  add_list_flag(flags, "--batch,-np,--parallel", "prompts at once (default 1)", 1, kMostSequences, &o.batches);
  add_list_flag(flags, "-p,--n-prompt", "tokens of each prompt (default 1K)", 1, kMostTokens, &o.prompts);
  flags.size("-n,--n-gen", "tokens of each answer (default 128)", &o.n_gen, 2);
  add_repeat_flags(flags, o.common, "how often all of it is run (default 3)");
  return parse_and_run(flags, o, run_latency, argc, argv);
}

int op_main(int argc, char** argv) {
  OpOptions o;
  Flags flags("l4-bench op",
              "Times each stage of a layer by itself, beside its limit and cuBLASLt, after a look at whether it is right.");
  flags.usage("l4-bench op -m scout|maverick --synthetic [--batch N,...] [--context N,...] [-p N,...] [-tp N]");
  flags.group("What is measured");
  add_list_flag(flags, "--batch,-np,--parallel", "rows of decode steps, a sequence each (default 1,8)", 0, kMostSequences,
                &o.batches);
  add_list_flag(flags, "--context", "tokens that each of them sees (default 1K)", 1, kMostTokens, &o.contexts);
  add_list_flag(flags, "-p,--n-prompt", "rows of steps that read a prompt from its beginning", 1, 1 << 20, &o.prompts);
  flags.number<int>("--rotate", "N", "layers whose weights take turns, so that no cache holds them (default 4)",
                    &o.n_layers, 1, 48);
  flags.toggle("--experts-alone",
               "routed experts without the shared one: with --routing uniform --batch 256, 16 rows each",
               &o.experts_alone);
  flags.toggle("--check,!--no-check", "compare with the CPU backend before anything is timed (default on)", &o.check);
  add_repeat_flags(flags, o.common, "how often each stage is run on all of these layers (default 20)");
  return parse_and_run(flags, o, run_op, argc, argv);
}

int load_main(int argc, char** argv) {
  LoadTimeOptions o;
  Flags flags("l4-bench load",
              "Times a model's way from its files to the first token, from a start where nothing is warm.");
  flags.usage("l4-bench load -m DIR [-p N]");
  flags.group("What is measured");
  flags.size("-p,--n-prompt", "tokens of the prompt (default 16)", &o.n_prompt, 1);
  return parse_and_run(flags, o, run_load, argc, argv);
}

int write_main(int argc, char** argv) {
  WriteOptions o;
  Flags flags(
      "l4-bench write-checkpoint",
      "Writes a made-up quantised model in l4-convert's layout, as fast as the disk takes it: to time its loading.");
  flags.usage("l4-bench write-checkpoint DIR --format NAME [-m scout|maverick|tiny] [--layers N]");
  flags.examples("l4-bench write-checkpoint /dev/shm/scout --format int4-mix && l4-bench load -m /dev/shm/scout");
  flags.positional("DIR", "the folder to make", [&o](const std::string& path) { o.dir = path; });
  flags.group("Model");
  flags.value("-m,--model", "scout|maverick|tiny", "whose shapes (default scout)",
              [&o](const std::string& name) { o.model = name; });
  o.synthetic.format = "";
  add_synthetic_flags(flags, o.synthetic);
  flags.number<int>("-t,--threads", "N", "files written at once (default: one a core)", &o.threads, 0, 1024);
  l4::tools::add_log_flags(flags);
  if (const std::optional<int> status = flags.parse(argc, argv)) return *status;
  if (o.dir.empty()) l4::fail(l4::ErrorKind::usage, "expected the folder to make, found none");
  l4::tools::install_signal_handlers();
  const l4::tools::EndAtInterrupt end_at_interrupt;
  l4::tools::write_stdout(write_checkpoint(o));
  return 0;
}

int ceilings_main(int argc, char** argv) {
  CeilingsOptions o;
  Flags flags("l4-bench ceilings", "Measures what the devices can do at best: memory, matrix products, launches, links.");
  flags.usage("l4-bench ceilings [-dev auto|cpu|cuda] [-o FORMAT]");
  return parse_and_run(flags, o, run_ceilings, argc, argv);
}

}  // namespace

int l4_bench_main(int argc, char** argv) {
  const std::string_view word = argc > 1 ? argv[1] : "";
  if (word == "decode") return decode_main(argc - 1, argv + 1);
  if (word == "prefill") return prefill_main(argc - 1, argv + 1);
  if (word == "latency") return latency_main(argc - 1, argv + 1);
  if (word == "op") return op_main(argc - 1, argv + 1);
  if (word == "load") return load_main(argc - 1, argv + 1);
  if (word == "write-checkpoint") return write_main(argc - 1, argv + 1);
  if (word == "serve") return serve_main(argc - 1, argv + 1);
  if (word == "ceilings") return ceilings_main(argc - 1, argv + 1);
  if (!word.empty() && word[0] != '-')
    l4::fail(l4::ErrorKind::usage, "cannot measure ", l4::shown(word),
             "; expected decode, prefill, latency, load, op, ceilings, serve, write-checkpoint or flags");
  return table_main(argc, argv);
}
