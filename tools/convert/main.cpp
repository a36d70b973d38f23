// l4-convert: a BF16 checkpoint becomes an FP8 or INT4 one.
#include "tools/common/model_flags.h"
#include "tools/common/signals.h"
#include "tools/common/terminal.h"
#include "tools/common/text_sequences.h"
#include "tools/convert/convert.h"
#include "tools/convert/verify.h"
#include "tools/entry.h"

namespace {

using l4::ErrorKind;
using l4::fail;
using l4::convert::Sequences;

constexpr int64_t kDefaultTokens = 128 * 2048, kDefaultLength = 2048;

struct TextFlags {
  l4::fs::path calibration;
  std::optional<int64_t> tokens, length;
  bool verify = false;
  std::optional<float> max_kl;
};

// Reads the text for both purposes; what is verified on follows what calibrated, where there is as much of it.
Sequences read_texts(const TextFlags& flags, l4::convert::ConvertOptions& o) {
  const auto frontend = l4::Frontend::load(o.source);
  const l4::TextConfig& text = frontend->config().text;
  if (flags.calibration.empty()) {
    Sequences built_in = {frontend->prompt_from_text(l4::tools::kBuiltInText).ids};
    built_in[0].resize(size_t(std::min<int64_t>(int64_t(built_in[0].size()), text.max_positions)));
    return built_in;
  }
  const int64_t length = flags.length.value_or(std::min(kDefaultLength, text.max_positions));
  if (length > text.max_positions)
    fail(ErrorKind::usage, "--calibration-seqlen ", length, ": longer than the ", text.max_positions, " positions of ",
         frontend->config().source);
  const int64_t wanted = flags.tokens.value_or(kDefaultTokens);
  const int64_t most = wanted + (flags.verify ? l4::convert::kVerifyTokens : 0);
  Sequences all = l4::tools::read_sequences(flags.calibration, *frontend, length, most);
  const int64_t n_tokens = l4::tools::count_tokens(all);
  if (flags.tokens && n_tokens < wanted)
    l4::fail_input(flags.calibration.string(), ": has ", n_tokens, " tokens in sequences of up to ", length,
                   ", --calibration-tokens asks for ", wanted);
  o.calibration = l4::tools::take_tokens(all, wanted);
  if (2 * l4::tools::count_tokens(all) < l4::convert::kVerifyTokens) all = o.calibration;  // too little follows
  all = l4::tools::take_tokens(all, l4::convert::kVerifyTokens);
  for (auto& ids : all) ids.resize(std::min(ids.size(), size_t(l4::convert::kVerifyLength)));
  return all;
}

}  // namespace

int l4_convert_main(int argc, char** argv) {
  using l4::tools::Flags;
  l4::convert::ConvertOptions o;
  Flags flags("l4-convert",
              "Converts a BF16, F16 or F32 checkpoint to FP8 or INT4, as vLLM and transformers read them.");
  flags.usage(
      "l4-convert SOURCE TARGET [--preset NAME] [--group-size N] [--rule PATTERN=FORMAT ...] [--calibration FILE]");
  flags.examples(
      "l4-convert Llama-4-Scout-17B-16E-Instruct Scout-FP8\n"
      "l4-convert Llama-4-Scout-17B-16E-Instruct Scout-INT4 --preset w4a16 --dry-run\n"
      "l4-convert Scout Scout-INT4 --preset w4a16 --calibration texts.jsonl --verify\n"
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
  flags.group("Calibration");
  TextFlags text;
  std::optional<bool> gptq;
  flags.path(
      "--calibration", "FILE",
      "text to run the model on: plain, or JSON lines (.jsonl) with \"text\" or \"messages\"; INT4 codes are then "
      "chosen by GPTQ",
      &text.calibration);
  flags.value("--method", "rtn|gptq",
              "of INT4: rounding to nearest with a searched scale, or GPTQ (default where there is a text)",
              [&](const std::string& name) {
                if (name != "rtn" && name != "gptq") l4::tools::wrong_value("rtn or gptq", name);
                gptq = name == "gptq";
              });
  flags.number<int64_t>("--calibration-tokens", "N", "so many tokens of it (default 262144, or all there are)",
                        &text.tokens, 1, int64_t(1) << 32);
  flags.number<int64_t>("--calibration-seqlen", "N", "longest sequence in tokens (default 2048)", &text.length, 2,
                        INT32_MAX);
  flags.toggle("--kv-scales", "write scales for an FP8 cache, from the largest keys and values in the text",
               &o.recipe.kv_scales);
  flags.value("-dev,--device", "auto|cpu|cuda", "where the model runs on the text; auto: on a GPU where there is one",
              [&](const std::string& name) { o.device = l4::parse_device(name); });
  flags.toggle("--verify", "load the result and compare its logits with the source's", &text.verify);
  flags.number<float>("--max-kl", "X", "with --verify: fail where the mean KL divergence is larger", &text.max_kl, 0,
                      1e9);
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

  if (text.max_kl) text.verify = true;
  if (!dry_run && text.calibration.empty()) {
    if (gptq.value_or(false)) fail(ErrorKind::usage, "--method gptq: expected a text (--calibration), found none");
    if (o.recipe.kv_scales) fail(ErrorKind::usage, "--kv-scales: expected a text (--calibration), found none");
    if (text.tokens || text.length)
      fail(ErrorKind::usage, text.tokens ? "--calibration-tokens" : "--calibration-seqlen",
           ": expected a text (--calibration), found none");
  }
  if (dry_run) {
    l4::tools::write_stdout(l4::convert::dry_run(o));
    return 0;
  }
  l4::tools::install_signal_handlers();
  const l4::tools::EndAtInterrupt end_at_interrupt;  // the next run goes on from there
  Sequences to_verify;
  if (!text.calibration.empty() || text.verify) to_verify = read_texts(text, o);
  o.gptq = gptq.value_or(!o.calibration.empty());
  std::optional<l4::tools::ProgressLine> progress(std::in_place);
  o.on_progress = [&](uint64_t done, uint64_t total) { progress->bytes("converting", done, total); };
  o.on_calibration = [&](int64_t done, int64_t total) {
    progress->tokens("calibrating", done, total);
    if (done == total) progress.emplace();  // the next one has its own clock
  };
  const std::string table = l4::convert::convert(o);
  progress.emplace();
  l4::tools::write_stdout(table);
  if (!text.verify) return 0;
  const std::string found = l4::convert::verify(
      o, to_verify, text.max_kl, [&](int64_t done, int64_t total) { progress->tokens("verifying", done, total); });
  progress.reset();
  l4::tools::write_stdout(found);
  return 0;
}
