// The flags of l4-eval needle, and who counts the tokens of its prompts.
#include <algorithm>

#include "base/error.h"
#include "base/log.h"
#include "tools/common/terminal.h"
#include "tools/eval/commands.h"
#include "tools/eval/needle.h"
#include "tools/eval/prompt_queue.h"
#include "tools/eval/task_command.h"

namespace l4::eval {

namespace {

using tools::HttpAnswer;
using tools::HttpCall;

// By the endpoint's /tokenize, as vLLM has it; nothing where there is none.
class EndpointCounter {
 public:
  explicit EndpointCounter(const TaskOptions& o) : client_(o.endpoint.client_options()) {
    model_ = o.model.load.model_dir.string();
    if (model_.empty()) model_ = tools::first_model(tools::ask_models(client_), o.endpoint.url);
  }

  std::optional<int64_t> count(const Query& query) {
    Json body(Json::Object{{"model", model_}});
    if (query.turns.empty()) {
      body.set("prompt", query.text);
    } else {
      Json messages{Json::Array{}};
      for (const Query::Turn& turn : query.turns)
        messages.push_back(Json::Object{{"role", turn.role}, {"content", turn.text}});
      body.set("messages", std::move(messages));
    }
    HttpCall call;
    call.path = "/tokenize";
    call.body = dump_json(body, JsonStyle::compact);
    const HttpAnswer answer = client_.ask(std::move(call));
    if (!answer.ok()) return std::nullopt;
    try {
      const Json json = parse_json(answer.body, "/tokenize");
      const Json *n = json.find("count"), *context = json.find("max_model_len");
      if (context && context->is_integer()) max_context_ = context->as_integer();
      if (n && n->is_integer() && n->as_integer() > 0) return n->as_integer();
    } catch (const Error&) {
      // no JSON: another kind of route
    }
    return std::nullopt;
  }
  int64_t max_context() const { return max_context_; }  // 0: it did not say

 private:
  tools::HttpClient client_;
  std::string model_;
  int64_t max_context_ = 0;
};

template <class T, class Parse>
std::vector<T> parse_list(const std::string& text, const char* expected, const Parse& parse) {
  std::vector<T> out;
  for (const std::string& word : tools::parse_names(text)) {
    const auto value = parse(word);
    if (!value) tools::wrong_value(expected, word);
    out.push_back(T(*value));
  }
  return out;
}

void check_context(const NeedleOptions& o, int64_t context, const std::string& whose) {
  const int64_t longest = *std::max_element(o.lengths.begin(), o.lengths.end());
  if (longest + answer_tokens(o) > context)
    fail(ErrorKind::usage, "--lengths: ", longest, " tokens and ", answer_tokens(o),
         " of the answer are longer than the context of ", whose, ", ", context);
}

Json settings_of(const NeedleOptions& n, const TaskOptions& o, const char* counted_by) {
  Json lengths{Json::Array{}}, depths{Json::Array{}};
  for (const int64_t length : n.lengths) lengths.push_back(length);
  for (const double depth : n.depths) depths.push_back(depth);
  Json settings = common_settings(o, {});
  for (auto& [name, value] : Json::Object{{"lengths", std::move(lengths)},
                                          {"depths", std::move(depths)},
                                          {"keys", n.keys},
                                          {"values", n.values},
                                          {"samples", n.samples},
                                          {"filler", filler_kind_name(n.filler)},
                                          {"chat", n.chat},
                                          {"max_tokens", answer_tokens(n)},
                                          {"lengths_counted_by", counted_by}})
    settings.set(name, value);
  return settings;
}

Task make_task(const NeedleOptions& n, const CountQuery& count) {
  tools::ProgressLine progress;
  return needle_task(n, count, [&](int64_t done, int64_t total) { progress.items("needle", "texts", done, total, 0); });
}

void write_plots(const std::vector<fs::path>& plots, const RunFile& run) {
  const tools::HeatMap map = needle_heat_map(run);
  for (const fs::path& path : plots) write_file_atomic(path, path.extension() == ".png" ? to_png(map) : to_svg(map));
}

// Loaded once, for counting and for the engine. Memory for no longer a context than is asked for.
int run_local(const NeedleOptions& n, TaskOptions o) {
  LoadOptions& load = o.model.load;
  load.frontend = Frontend::load(load.model_dir, load.chat_template);
  if (n.chat && !load.frontend->chat_template())
    fail(ErrorKind::usage, load.model_dir.string(),
         ": has no chat template; --chat-template NAME or --no-chat-template");
  check_context(n, load.max_context > 0 ? load.max_context : load.frontend->config().text.max_positions,
                load.model_dir.string());
  Json settings = settings_of(n, o, "tokenizer");
  const Task task =
      make_task(n, [&](const Query& query) { return int64_t(prompt_of(*load.frontend, query).ids.size()); });
  if (load.max_context == 0)
    load.max_context = *std::max_element(n.lengths.begin(), n.lengths.end()) + answer_tokens(n);
  return run_task_command(o, task, std::move(settings));
}

int run_endpoint(const NeedleOptions& n, const TaskOptions& o) {
  EndpointCounter counter(o);
  Query probe;
  probe.text = "a";
  const bool counts = counter.count(probe).has_value();
  if (!counts) log_warning("the endpoint has no /tokenize: four bytes of text count as a token");
  if (counter.max_context() > 0) check_context(n, counter.max_context(), o.endpoint.url);
  const Task task = make_task(n, [&](const Query& query) {
    if (!counts) return tokens_by_bytes(query);
    const std::optional<int64_t> tokens = counter.count(query);
    if (!tokens) fail(ErrorKind::io, o.endpoint.url, "/tokenize: no longer says how many tokens a text has");
    return *tokens;
  });
  return run_task_command(o, task, settings_of(n, o, counts ? "endpoint" : "bytes"));
}

}  // namespace

int needle_main(int argc, char** argv) {
  NeedleOptions n;
  n.lengths = {1 << 10, 4 << 10, 16 << 10};
  for (int depth = 0; depth <= 100; depth += 10) n.depths.push_back(depth);
  TaskOptions o;
  std::optional<int64_t> keys, values, samples;
  std::vector<fs::path> plots;
  bool no_template = false;
  tools::Flags flags("l4-eval needle", "Hides numbers in long texts and asks for them.");
  flags.usage(
      "l4-eval needle -m DIR --lengths 1K,16K,1M -o OUT.jsonl [--plot OUT.svg]\n"
      "l4-eval needle --url URL --lengths 1K,16K,1M -o OUT.jsonl [--plot OUT.svg]");
  flags.examples(
      "l4-eval needle -m core/demo --lengths 1K,2K,4K --depths 0,50,100 -o demo.jsonl --plot demo.svg\n"
      "l4-eval needle --url http://127.0.0.1:8000 --lengths 128K,1M --keys 4 --samples 5 -o recall.jsonl --resume");
  flags.group("Texts");
  flags.value(
      "--lengths", "N,...", "of the prompts in tokens, like 1K,16K,1M (default 1K,4K,16K)",
      [&](const std::string& text) { n.lengths = parse_list<int64_t>(text, "lengths like 1K,16K,1M", parse_size); });
  flags.value("--depths", "PERCENT,...", "where the needle stands, 0 the beginning (default 0,10,20 and so on to 100)",
              [&](const std::string& text) {
                n.depths =
                    parse_list<double>(text, "percents like 0,50,100", [](const auto& w) { return parse_double(w); });
              });
  flags.number<int64_t>("--keys", "N", "keys that are hidden, of which one is asked (default 1)", &keys, 1, INT32_MAX);
  flags.number<int64_t>("--values", "N", "numbers of the asked key, all wanted (default 1)", &values, 1, INT32_MAX);
  flags.number<int64_t>("--samples", "N", "texts for each length and depth (default 1)", &samples, 1, INT32_MAX);
  flags.value("--filler,--style", "sentences|essay",
              "what the needle is hidden in: short plain sentences, which the demo model knows (default), or long ones",
              [&](const std::string& name) { n.filler = parse_filler_kind(name); });
  flags.number<int64_t>("--seed", "N", "of the texts and numbers (default 0)", &o.seed, 0, INT32_MAX);
  flags.number<int64_t>("-n,--max-tokens", "N", "longest answer (default 16, and 16 more for each value)",
                        &o.max_tokens, 1, INT32_MAX);
  flags.toggle("--no-chat-template", "texts to go on with, for base models", &no_template);
  flags.list("--plot", "FILE", "a heat map as .svg or .png", [&](const std::string& path) {
    const fs::path plot = path;
    if (plot.extension() != ".svg" && plot.extension() != ".png")
      tools::wrong_value("a name that ends in .svg or .png", path);
    if (plot.has_parent_path() && !fs::is_directory(plot.parent_path()))
      tools::wrong_value("a file in a folder that exists", path);
    plots.push_back(plot);
  });
  add_run_flags(flags, o);
  if (const std::optional<int> status = parse_task_flags(flags, o, argc, argv)) return *status;
  n.keys = keys.value_or(n.keys);
  n.values = values.value_or(n.values);
  n.samples = samples.value_or(n.samples);
  n.seed = uint64_t(o.seed.value_or(0));
  n.max_tokens = o.max_tokens;
  n.chat = !no_template;
  // One after the other each finds its text's beginning in the prefix cache; side by side all would compute it.
  if (!o.concurrency) o.concurrency = 1;
  const int status = o.asks_endpoint() ? run_endpoint(n, o) : run_local(n, o);
  const RunFile run = read_run_file(o.out);
  tools::write_stdout("\n" + needle_table(run));
  write_plots(plots, run);
  return status;
}

}  // namespace l4::eval
