// l4-convert: a BF16 checkpoint becomes an FP8 or INT4 one.
#include "tools/common/model_flags.h"
#include "tools/common/signals.h"
#include "tools/common/terminal.h"
#include "tools/convert/convert.h"
#include "tools/entry.h"

int l4_convert_main(int argc, char** argv) {
  using l4::tools::Flags;
  l4::convert::ConvertOptions o;
  Flags flags("l4-convert",
              "Converts a BF16, F16 or F32 checkpoint to FP8 or INT4, as vLLM and transformers read them.");
  flags.usage("l4-convert SOURCE TARGET [--preset NAME] [--group-size N] [--rule PATTERN=FORMAT ...]");
  flags.examples(
      "l4-convert Llama-4-Scout-17B-16E-Instruct Scout-FP8\n"
      "l4-convert Llama-4-Scout-17B-16E-Instruct Scout-INT4 --preset w4a16 --dry-run\n"
      "l4-convert Scout Scout-mix --preset w4a16 --rule '*.shared_expert.*=fp8' --rule '*.layers.0.*=bf16'");
  flags.positional("SOURCE", "the folder of the checkpoint to read", [&](const std::string& path) { o.source = path; });
  flags.positional("TARGET", "the folder to make", [&](const std::string& path) { o.target = path; });
  flags.group("Formats");
  flags.value("--preset", l4::join(l4::convert::preset_names(), "|"),
              "what is quantised (default fp8): fp8, w4a16: routed and shared experts, dense MLPs; -all: attention as "
              "well; fp8-experts: routed experts only; none: what rules say",
              [&](const std::string& name) { o.recipe.preset = name; });
  std::optional<int64_t> group;
  flags.number<int64_t>("--group-size", "32|64|128", "columns that share a scale in INT4 (default 128)", &group, 1,
                        1024);
  flags.list(
      "--rule", "PATTERN=fp8|int4|bf16",
      "another format for the modules whose name the pattern matches, a glob or re: and a regular expression; of "
      "several rules the last that matches; bf16: stays as it is",
      [&](const std::string& text) { o.recipe.rules.emplace_back(text); });
  flags.group("Target");
  int64_t max_shard = int64_t(o.max_shard_bytes);
  flags.size("--max-shard-size", "largest file (default 5 GB); a larger tensor has one to itself", &max_shard, 1);
  flags.toggle("--overwrite", "replace the model in TARGET", &o.overwrite);
  flags.path("--report", "FILE", "errors by tensor (default TARGET/quantization_report.json)", &o.report);
  bool dry_run = false;
  flags.toggle("--dry-run", "print what would be done, tensor by tensor, and do nothing", &dry_run);
  std::optional<int> threads;
  flags.number<int>("-t,--threads", "N", "threads (default: one a core, at most 32)", &threads, 1, 256);
  l4::tools::add_log_flags(flags);
  if (const std::optional<int> status = flags.parse(argc, argv)) return *status;
  if (o.source.empty()) l4::fail(l4::ErrorKind::usage, "expected the checkpoint to convert, found none");
  if (o.target.empty() && !dry_run) l4::fail(l4::ErrorKind::usage, "expected the folder to make, found none");
  o.recipe.group = group.value_or(o.recipe.group);
  o.max_shard_bytes = uint64_t(max_shard);
  o.threads = threads.value_or(0);

  if (dry_run) {
    l4::tools::write_stdout(l4::convert::dry_run(o));
    return 0;
  }
  l4::tools::install_signal_handlers();
  const l4::tools::EndAtInterrupt end_at_interrupt;  // the next run goes on from there
  l4::tools::ProgressLine progress;
  o.on_progress = [&](uint64_t done, uint64_t total) { progress.bytes("converting", done, total); };
  const std::string table = l4::convert::convert(o);
  progress.clear();
  l4::tools::write_stdout(table);
  return 0;
}
