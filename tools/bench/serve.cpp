#include "tools/bench/serve.h"

#include <algorithm>
#include <map>
#include <unordered_map>

#include "base/error.h"
#include "base/log.h"
#include "tools/bench/bench.h"
#include "tools/bench/environment.h"
#include "tools/bench/serve_load.h"
#include "tools/bench/serve_plots.h"
#include "tools/common/statistics.h"
#include "tools/common/terminal.h"

namespace l4::bench {

using tools::HttpAnswer;
using tools::HttpCall;
using tools::HttpClient;
using tools::median;
using tools::percentile;

namespace {

// ---- the endpoint ---------------------------------------------------------------------------------------------------

// vLLM's and ours: {"model", "prompt"} -> {"count", "tokens"}.
std::optional<int64_t> count_of(const HttpAnswer& answer) {
  if (!answer.ok()) return std::nullopt;
  try {
    const Json json = parse_json(answer.body, "/tokenize");
    const Json *count = json.find("count"), *tokens = json.find("tokens");
    if (count && count->is_integer()) return count->as_integer();
    if (tokens && tokens->is_array()) return int64_t(tokens->as_array().size());
  } catch (const Error&) {
    // no JSON: another kind of route
  }
  return std::nullopt;
}

// Asks for each text, once.
class TokenCounter {
 public:
  TokenCounter(HttpClient& client, std::string model) : client_(client), model_(std::move(model)) {}

  std::optional<std::vector<int64_t>> operator()(const std::vector<std::string>& texts) {
    std::vector<std::string> unknown;
    for (const std::string& text : texts)
      if (!counts_.count(text)) unknown.push_back(text);
    // The first alone: it tells whether there is such a route.
    if (missing_ || !ask(unknown, 0, std::min<size_t>(1, unknown.size())) || !ask(unknown, 1, unknown.size())) {
      missing_ = true;
      return std::nullopt;
    }
    std::vector<int64_t> out;
    for (const std::string& text : texts) out.push_back(counts_.at(text));
    return out;
  }

 private:
  static constexpr int kAtOnce = 16;

  bool ask(const std::vector<std::string>& texts, size_t begin, size_t end) {
    bool ok = true;
    std::function<void()> ask_next = [&] {
      if (begin >= end || !ok) return;
      const std::string& text = texts[begin++];
      HttpCall call;
      call.path = "/tokenize";
      call.body = dump_json(Json(Json::Object{{"model", model_}, {"prompt", text}, {"add_special_tokens", false}}));
      call.on_done = [&](HttpAnswer& answer) {
        const std::optional<int64_t> n = count_of(answer);
        ok = ok && n;
        counts_[text] = n.value_or(0);
        ask_next();
      };
      client_.start(std::move(call));
    };
    for (int i = 0; i < kAtOnce; ++i) ask_next();
    client_.run();
    return ok;
  }

  HttpClient& client_;
  const std::string model_;
  std::unordered_map<std::string, int64_t> counts_;
  bool missing_ = false;
};

std::string request_body(const ServeOptions& o, const std::string& model, const ServePrompt& prompt) {
  Json body(Json::Object{{"model", model}});
  if (o.chat) {
    const Json one(Json::Array{Json(Json::Object{{"role", "user"}, {"content", prompt.input}})});
    body.set("messages", prompt.input.is_string() ? one : prompt.input);
    body.set("max_completion_tokens", prompt.output_tokens);
  } else {
    if (!prompt.input.is_string())
      fail(ErrorKind::usage, "--dataset-path has chat messages in it; add --endpoint chat");
    body.set("prompt", prompt.input);
    body.set("max_tokens", prompt.output_tokens);
  }
  body.set("temperature", o.temperature);
  body.set("stream", true);
  body.set("stream_options", Json(Json::Object{{"include_usage", true}}));
  if (o.ignore_eos) body.set("ignore_eos", true);
  if (o.extra_body.is_object())
    for (const auto& [key, value] : o.extra_body.as_object()) body.set(key, value);
  return dump_json(body);
}

Dataset make_dataset(const ServeOptions& o, int64_t n, uint64_t seed, const CountTokens& count) {
  switch (o.dataset) {
    case DatasetKind::random:
      return random_dataset(n, o.random, seed, count);
    case DatasetKind::jsonl:
      return jsonl_dataset(o.dataset_path, n, o.output_len.value_or(256), seed);
    case DatasetKind::sharegpt:
      break;
  }
  return sharegpt_dataset(o.dataset_path, n, o.output_len, seed, count);
}

// ---- what is said and kept ------------------------------------------------------------------------------------------

// What went wrong, the most frequent first.
std::string failures(const std::vector<ServeRecord>& records) {
  std::map<std::string, int64_t> counts;
  for (const ServeRecord& r : records)
    if (!r.error.empty()) ++counts[r.error];
  std::vector<std::pair<int64_t, std::string>> sorted;
  for (const auto& [error, n] : counts) sorted.emplace_back(-n, error);
  std::sort(sorted.begin(), sorted.end());
  std::string out;
  constexpr size_t kMost = 5;
  for (size_t i = 0; i < std::min(kMost, sorted.size()); ++i)
    out += cat(-sorted[i].first, " failed: ", sorted[i].second, "\n");
  if (sorted.size() > kMost) out += cat("and ", sorted.size() - kMost, " other reasons\n");
  return out;
}

Json detailed(const std::vector<ServeRecord>& records, double ServeRecord::*field) {
  Json out{Json::Array{}};
  for (const ServeRecord& r : records) out.push_back(r.*field);
  return out;
}

void add_details(Json& result, const std::vector<ServeRecord>& records) {
  result.set("start_times", detailed(records, &ServeRecord::start_s));
  result.set("end_times", detailed(records, &ServeRecord::end_s));
  Json inputs{Json::Array{}}, outputs{Json::Array{}}, pieces{Json::Array{}}, errors{Json::Array{}};
  for (const ServeRecord& r : records) {
    inputs.push_back(r.input_tokens);
    outputs.push_back(r.output_tokens);
    pieces.push_back(numbers(r.pieces_s, 1));
    errors.push_back(r.error);
  }
  result.set("input_lens", std::move(inputs));
  result.set("output_lens", std::move(outputs));
  result.set("piece_times", std::move(pieces));
  result.set("errors", std::move(errors));
}

// A line a run.
std::string sweep_table(const std::vector<SweepPoint>& sweep) {
  std::string out =
      "\n| concurrency | req/s | output tok/s | TTFT P50 / P99 ms | TPOT P50 / P99 ms | E2EL P50 / P99 ms |\n"
      "| ---: | ---: | ---: | ---: | ---: | ---: |\n";
  for (const SweepPoint& p : sweep) {
    const auto pair = [&](Latency what) {
      const std::vector<double>& s = p.metrics.samples(what);
      return cat(fixed(median(s) * 1e3, 2), " / ", fixed(percentile(s, 0.99) * 1e3, 2));
    };
    out += cat("| ", p.concurrency, " | ", fixed(p.metrics.requests_per_s, 2), " | ", fixed(p.metrics.output_per_s, 2),
               " | ", pair(Latency::ttft), " | ", pair(Latency::tpot), " | ", pair(Latency::e2el), " |\n");
  }
  return out;
}

std::string date_for_names() {
  std::string date = utc_now();  // "2026-11-21T09:30:00Z"
  std::erase_if(date, [](char c) { return c == '-' || c == ':' || c == 'Z'; });
  std::replace(date.begin(), date.end(), 'T', '-');
  return date;
}

void check_writable(const fs::path& path) {
  if (!path.empty()) AtomicFile{path};  // now, not after an hour of measuring
}

}  // namespace

void run_serve(const ServeOptions& o) {
  if (o.n_prompts.size() != 1 && o.n_prompts.size() != o.max_concurrency.size())
    fail(ErrorKind::usage, "--num-prompts: expected one number, or as many as --max-concurrency has");
  check_writable(o.result_path);
  check_writable(o.plot_path);
  tools::raise_descriptor_limit();
  HttpClient client(o.endpoint.client_options());
  const std::string model = o.model ? *o.model : tools::first_model(tools::ask_models(client), o.endpoint.url);
  TokenCounter counter(client, model);
  const CountTokens count = [&](const std::vector<std::string>& texts) { return counter(texts); };

  Load load;
  load.path = o.chat ? "/v1/chat/completions" : "/v1/completions";
  if (o.warmup > 0) {
    for (const ServePrompt& p : make_dataset(o, o.warmup, uint64_t(o.seed) ^ 0x9e3779b97f4a7c15, count).prompts)
      load.bodies.push_back(request_body(o, model, p));
    load.due_s.assign(load.bodies.size(), 0);
    load.max_concurrency = 16;
    for (const ServeRecord& r : run_load(client, load).records)
      if (!r.error.empty()) fail(ErrorKind::io, "the request before the measured ones failed: ", r.error);
  }

  Reporter reporter(o.out, stdout);
  Json results{Json::Array{}};
  std::vector<SweepPoint> sweep;
  std::vector<ServeRecord> last;
  int64_t n_ok = 0;
  for (size_t run = 0; run < o.max_concurrency.size(); ++run) {
    const int64_t n = o.n_prompts[o.n_prompts.size() == 1 ? 0 : run];
    const uint64_t seed = uint64_t(o.seed) + run;  // other prompts: nothing of the run before is cached
    Dataset data = make_dataset(o, n, seed, count);
    load.bodies.clear();
    for (const ServePrompt& p : data.prompts) load.bodies.push_back(request_body(o, model, p));
    load.due_s = arrival_times(n, o.request_rate, o.burstiness, seed);
    load.max_concurrency = o.max_concurrency[run];
    tools::ProgressLine progress;
    load.on_progress = [&](int64_t done) { progress.tokens("requests", done, n); };
    LoadResult result = run_load(client, load);
    progress.clear();

    const ServeMetrics metrics = measure(result.records, o.goodput);
    ServeBlock block;
    block.request_rate = o.request_rate;
    if (load.max_concurrency > 0) block.max_concurrency = load.max_concurrency;
    block.latencies = o.latencies;
    block.percentiles = o.percentiles;
    if (o.out == Format::none) tools::write_stdout(serve_block(metrics, block));
    if (metrics.n_failed > 0) log_warning(trim(failures(result.records)));
    if (!data.note.empty()) log_warning(data.note);
    if (result.busy > 0.8)
      log_warning("this program was busy for ", fixed(result.busy * 100, 0),
                  " % of the time: it may be what was measured");

    Json fields(Json::Object{{"date", utc_now()},
                             {"backend", o.chat ? "openai-chat" : "openai"},
                             {"model_id", model},
                             {"num_prompts", n},
                             {"burstiness", o.burstiness}});
    for (auto& [key, value] : serve_fields(metrics, block)) fields.set(key, std::move(value));
    fields.set("client_busy", result.busy);
    reporter.add_object(fields);
    if (o.save_detailed) add_details(fields, result.records);
    results.push_back(std::move(fields));
    n_ok += metrics.n_ok;
    last = std::move(result.records);
    sweep.push_back({load.max_concurrency, metrics});
  }
  const bool several = sweep.size() > 1;
  if (several && o.out == Format::none) tools::write_stdout(sweep_table(sweep));
  if (o.save_result || !o.result_path.empty()) {
    const fs::path path =
        o.result_path.empty() ? fs::path(cat("l4-bench-serve-", date_for_names(), ".json")) : o.result_path;
    write_file_atomic(path, dump_json(several ? results : results.as_array()[0], JsonStyle::python, 2) + "\n");
  }
  if (!o.plot_path.empty()) {
    const std::string subtitle = cat(model, " at ", o.endpoint.url, ", ", utc_now().substr(0, 10));
    write_file_atomic(o.plot_path,
                      to_svg(several ? plot_over_concurrency(sweep, subtitle) : plot_over_time(last, subtitle)));
  }
  if (n_ok == 0) fail(ErrorKind::io, "every request failed");
}

}  // namespace l4::bench
