// l4-eval compare: two runs question by question, or two models' logits over the same tokens.
#include "tools/common/signals.h"
#include "tools/common/terminal.h"
#include "tools/eval/compare.h"
#include "tools/eval/compare_models.h"
#include "tools/eval/output_file.h"
#include "tools/eval/commands.h"

namespace l4::eval {

namespace {

struct Options {
  std::vector<fs::path> two, outputs;
  bool allow_different_prompts = false;
  tools::ModelFlags model;
  std::optional<DType> second_dtype, second_kv_dtype;
  bool has_second_dtype = false, has_second_kv_dtype = false;
  std::string ids;
  fs::path text, scratch;
  std::optional<int64_t> tokens, length;
  std::optional<float> max_kl;
};

constexpr int64_t kDefaultTokens = 2048, kDefaultLength = 512;

tools::Sequences read_tokens(const Options& o, const Frontend& frontend) {
  const int64_t positions = frontend.config().text.max_positions;
  const int64_t length = o.length.value_or(std::min(kDefaultLength, positions));
  if (length > positions)
    fail(ErrorKind::usage, "--length ", length, ": longer than the ", positions, " positions of ",
         frontend.config().source);
  if (!o.ids.empty()) return {tools::read_ids(o.ids, "--ids")};
  if (!o.text.empty()) return tools::read_sequences(o.text, frontend, length, o.tokens.value_or(kDefaultTokens));
  tools::Sequences built_in = {frontend.prompt_from_text(tools::kBuiltInText).ids};
  built_in[0].resize(size_t(std::min({int64_t(built_in[0].size()), length, o.tokens.value_or(kDefaultTokens)})));
  return built_in;
}

tools::LogitComparison compare_checkpoints(Options& o) {
  o.model.load.model_dir = o.two[0];
  o.model.complete();
  ModelComparison what{o.model.load, o.model.load, {}, o.scratch};
  what.second.model_dir = o.two[1];
  if (o.has_second_dtype) what.second.dtype = o.second_dtype;
  if (o.has_second_kv_dtype) what.second.kv_dtype = o.second_kv_dtype;
  const bool ids_only = !o.ids.empty();
  what.first.frontend = Frontend::load(o.two[0], what.first.chat_template, ids_only);
  what.second.frontend = Frontend::load(o.two[1], what.second.chat_template, true);
  check_same_vocabulary(what.first, what.second);
  what.sequences = read_tokens(o, *what.first.frontend);
  if (what.scratch.empty()) what.scratch = fs::temp_directory_path();
  tools::install_signal_handlers();
  const tools::EndAtInterrupt end_at_interrupt;
  return compare_models(what);
}

int report(const Options& o, const Document& document, const Json& json) {
  for (const fs::path& path : o.outputs)
    write_output(path,
                 {[&] { return json; }, [&] { return document.to_markdown(); }, [&] { return document.to_html(); }});
  tools::write_stdout(document.to_terminal());
  return 0;
}

bool is_folder(const fs::path& path) {
  std::error_code ec;
  return fs::is_directory(path, ec);
}

int compare_logits(Options& o, bool are_files) {
  const tools::LogitComparison found = are_files ? compare_logit_files(o.two[0], o.two[1]) : compare_checkpoints(o);
  const std::string first = o.two[0].string(), second = o.two[1].string();
  Json json = found.json();
  json.set("worst_row", found.worst_row);
  json.set("first", first);
  json.set("second", second);
  report(o, to_document(found, first, second), json);
  if (o.max_kl && !(found.mean_kl <= *o.max_kl))
    fail_input(second, ": the mean KL divergence from ", first, " is ", found.mean_kl, ", above --max-kl ", *o.max_kl);
  return 0;
}

}  // namespace

int compare_main(int argc, char** argv) {
  Options o;
  tools::Flags flags("l4-eval compare", "Compares two runs question by question, or two models' logits.");
  flags.usage(
      "l4-eval compare A.jsonl B.jsonl [-o FILE ...]\n"
      "l4-eval compare DIR_A DIR_B [--text FILE | --ids IDS] [-o FILE ...]\n"
      "l4-eval compare A.npy B.npy");
  flags.examples(
      "l4-eval compare bf16.jsonl int4.jsonl -o int4.html\n"
      "l4-eval compare Scout Scout-INT4 --text texts.jsonl --max-kl 0.02\n"
      "l4-eval compare Scout Scout --second-kv-cache-dtype fp8");
  const auto add = [&](const std::string& path) { o.two.emplace_back(path); };
  flags.positional("A", "a run's file (.jsonl), logits (.npy) or the folder of a checkpoint", add);
  flags.positional("B", "another of the same kind", add);
  flags.group("Results");
  add_output_flag(flags, o.outputs, "what was found, for people (.md, .html) or programs (.json)");
  flags.toggle("--allow-different-prompts", "of runs: also compare questions that were not asked in the same words",
               &o.allow_different_prompts);
  flags.number<float>("--max-kl", "X", "of logits: fail where the mean KL divergence is larger", &o.max_kl, 0, 1e9);
  flags.group("Tokens");
  flags.path("--text", "FILE",
             "what both models read: plain text, or JSON lines (.jsonl) with \"text\" or \"messages\"; without: "
             "some hundred words of English",
             &o.text);
  flags.value("--ids", "IDS", "the same as token ids, 1,2,3 or @FILE", [&](const std::string& ids) { o.ids = ids; });
  flags.number<int64_t>("--tokens", "N", "so many of the text (default 2048)", &o.tokens, 1, int64_t(1) << 32);
  flags.number<int64_t>("--length", "N", "longest sequence in tokens (default 512)", &o.length, 2, INT32_MAX);
  flags.path("--scratch", "DIR",
             "where the first model's logits lie meanwhile, tokens x vocabulary x 4 bytes (default: "
             "the system's folder for such)",
             &o.scratch);
  flags.group("Models");
  tools::add_load_flags(flags, o.model);
  flags.value("--second-dtype", "auto|bfloat16|float32", "of the second model, where it is another",
              [&](const std::string& name) { o.second_dtype = parse_dtype_option(name), o.has_second_dtype = true; });
  flags.value("--second-kv-cache-dtype", "auto|bf16|fp8", "the same of its cache", [&](const std::string& name) {
    o.second_kv_dtype = parse_kv_dtype_option(name), o.has_second_kv_dtype = true;
  });
  tools::add_log_flags(flags);
  if (const std::optional<int> status = flags.parse(argc, argv)) return *status;
  if (o.two.size() != 2) fail(ErrorKind::usage, "expected two runs or two models to compare, found ", o.two.size());
  if (!o.text.empty() && !o.ids.empty()) fail(ErrorKind::usage, "--text and --ids: expected one of them, found both");

  const auto both = [&](const auto& is) { return is(o.two[0]) && is(o.two[1]); };
  const bool are_models = both(is_folder);
  const bool are_logits = both([](const fs::path& p) { return p.extension() == ".npy"; });
  if (!are_models)
    for (const char* flag : {"--text", "--ids", "--tokens", "--length", "--scratch", "--second-dtype"})
      if (flags.was_typed(flag)) fail(ErrorKind::usage, flag, ": expected two folders of checkpoints to compare");
  if (are_models || are_logits) return compare_logits(o, are_logits);
  if (is_folder(o.two[0]) != is_folder(o.two[1]))
    fail(ErrorKind::usage, "expected two files or two folders, found ", shown(o.two[0].string()), " and ",
         shown(o.two[1].string()));
  if (o.max_kl) fail(ErrorKind::usage, "--max-kl: expected two models or their logits to compare");
  const RunComparison found = compare_runs(read_run_file(o.two[0]), read_run_file(o.two[1]), o.allow_different_prompts,
                                           o.two[0].string(), o.two[1].string());
  return report(o, to_document(found), to_json(found));
}

}  // namespace l4::eval
