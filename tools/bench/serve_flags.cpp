#include "base/error.h"
#include "tools/bench/bench.h"
#include "tools/bench/lists.h"
#include "tools/bench/serve.h"
#include "tools/common/model_flags.h"
#include "tools/common/signals.h"

namespace l4::bench {

namespace {

using tools::Flags;
using tools::wrong_value;

constexpr int64_t kMostRequests = 10'000'000;

double parse_number(const std::string& text, double low, double high, const char* expected) {
  const std::optional<double> value = parse_double(text);
  if (!value || !(*value >= low) || *value > high) wrong_value(expected, text);
  return *value;
}

void add_endpoint_flags(Flags& flags, ServeOptions& o) {
  flags.group("Endpoint");
  tools::add_endpoint_flags(flags, o.endpoint, "where it is (default http://127.0.0.1:8000)");
  flags.value("--endpoint", "completions|chat", "which route is asked (default completions)",
              [&o](const std::string& name) {
                if (name == "chat" || name == "/v1/chat/completions")
                  o.chat = true;
                else if (name == "completions" || name == "/v1/completions")
                  o.chat = false;
                else
                  wrong_value("chat or completions", name);
              });
  flags.text("-m,--model", "NAME", "the model's name there (default: the first of /v1/models)", &o.model);
  flags.value("--extra-body", "JSON", "fields of every request, like '{\"top_p\": 0.9}'",
              [&o](const std::string& text) {
                o.extra_body = parse_json(text, "JSON");
                if (!o.extra_body.is_object()) wrong_value("a JSON object", text);
              });
}

void add_dataset_flags(Flags& flags, ServeOptions& o) {
  flags.group("What is asked");
  flags.value(
      "--dataset-name", "random|custom|sharegpt",
      "random words, a file of lines {\"prompt\": ...} or {\"messages\": ...}, ShareGPT's JSON (default random)",
      [&o](const std::string& name) {
        if (name == "random")
          o.dataset = DatasetKind::random;
        else if (name == "custom" || name == "jsonl")
          o.dataset = DatasetKind::jsonl;
        else if (name == "sharegpt")
          o.dataset = DatasetKind::sharegpt;
        else
          wrong_value("random, custom or sharegpt", name);
      });
  flags.path("--dataset-path", "FILE", "the file", &o.dataset_path);
  add_list_flag(flags, "--num-prompts", "requests (default 1000); several: one for each --max-concurrency", 1,
                kMostRequests, &o.n_prompts);
  flags.size("--random-input-len,--input-len", "tokens of a random prompt (default 1024)", &o.random.input_len, 1);
  flags.size("--random-output-len", "tokens of its answer (default 128)", &o.random.output_len, 1);
  flags.size("--random-prefix-len", "tokens before it that all prompts share (default 0)", &o.random.prefix_len, 0);
  flags.value("--random-range-ratio", "R", "lengths vary by this share to both sides, below 1 (default 0)",
              [&o](const std::string& text) {
                o.random.range_ratio = parse_number(text, 0, 0.999999, "a share from 0 to below 1");
              });
  flags.value("--output-len,--custom-output-len,--sharegpt-output-len", "N",
              "tokens of an answer to a file's prompt (default: what the file says, else 256)",
              [&o](const std::string& text) {
                const std::optional<uint64_t> n = parse_size(text);
                if (!n || *n < 1 || *n > uint64_t(kMostTokens)) wrong_value("a number of tokens", text);
                o.output_len = int64_t(*n);
              });
  flags.toggle("--ignore-eos", "answers are as long as was asked for (not every endpoint knows it)", &o.ignore_eos);
  flags.value("--temperature", "T", "default 0",
              [&o](const std::string& text) { o.temperature = parse_number(text, 0, 100, "a number from 0 on"); });
  flags.value("--seed", "N", "of prompts and arrivals (default 0)", [&o](const std::string& text) {
    const std::optional<int64_t> seed = parse_int(text);
    if (!seed) wrong_value("a number", text);
    o.seed = *seed;
  });
}

void add_load_flags(Flags& flags, ServeOptions& o) {
  flags.group("Load");
  flags.value("--request-rate", "RPS", "requests a second, arriving by chance; inf: all at once (default)",
              [&o](const std::string& text) {
                if (text == "inf")
                  o.request_rate.reset();
                else
                  o.request_rate = parse_number(text, 1e-6, 1e6, "requests a second, or inf");
              });
  flags.value("--burstiness", "B", "1: a Poisson process (default); less: bursts; more: evenly",
              [&o](const std::string& text) { o.burstiness = parse_number(text, 1e-3, 1e6, "a number above 0"); });
  add_list_flag(flags, "--max-concurrency", "requests at once, others wait (default: no limit); several: a run each", 1,
                kMostRequests, &o.max_concurrency);
  flags.size("--num-warmups,--warmup", "requests before that are not measured, and must succeed (default 1)", &o.warmup,
             0);
}

void add_report_flags(Flags& flags, ServeOptions& o, std::vector<std::string>& goodput) {
  flags.group("Report");
  flags.value("--percentile-metrics", "NAME,...", "of ttft, tpot, itl, e2el those that are shown (default: all)",
              [&o](const std::string& text) {
                o.latencies.clear();
                for (const std::string& name : split(text, ','))
                  o.latencies.push_back(parse_latency(std::string(trim(name))));
              });
  flags.value("--metric-percentiles", "P,...", "which percentiles (default 90,99)", [&o](const std::string& text) {
    o.percentiles.clear();
    for (const std::string& p : split(text, ','))
      o.percentiles.push_back(parse_number(std::string(trim(p)), 0, 100, "percentiles like 50,99.9"));
  });
  flags.list("--goodput", "NAME:MS", "what a good request keeps: ttft:200 tpot:50 e2el:5000",
             [&goodput](const std::string& text) {
               for (const std::string& word : split(text, ',')) goodput.emplace_back(trim(word));
               parse_goodput(goodput);
             });
  flags.value("-o,--output", "text|json|jsonl", "on standard output (default text: vLLM's block)",
              [&o](const std::string& name) {
                if (name != "text" && name != "json" && name != "jsonl") wrong_value("text, json or jsonl", name);
                o.out = name == "text" ? Format::none : parse_format(name);
              });
  flags.toggle("--save-result", "write the numbers to a JSON file", &o.save_result);
  flags.toggle("--save-detailed", "and each request's times and lengths", &o.save_detailed);
  flags.path("--result-filename", "FILE", "its name (default l4-bench-serve-DATE.json)", &o.result_path);
  flags.path("--plot", "FILE", "an SVG picture: over time, or over concurrency where there are several", &o.plot_path);
}

// "--goodput ttft:200 tpot:50", as vLLM takes it: further words belong to the flag.
std::vector<std::string> joined_goodput(int argc, char** argv) {
  std::vector<std::string> words;
  for (int i = 0; i < argc; ++i) {
    const std::string word = argv[i];
    const bool in_goodput = words.size() > 1 && words[words.size() - 2] == "--goodput";
    if (in_goodput && word.find(':') != std::string::npos && word[0] != '-')
      words.back() += "," + word;
    else
      words.push_back(word);
  }
  return words;
}

}  // namespace

int serve_main(int argc, char** argv) {
  ServeOptions o;
  std::vector<std::string> goodput;
  Flags flags("l4-bench serve", "Puts a load on an OpenAI endpoint, ours or another engine's, and times its answers.");
  flags.usage("l4-bench serve [--url URL] [--request-rate RPS] [--max-concurrency N,...] [FLAGS]");
  flags.examples(
      "l4-bench serve --random-input-len 1K --random-output-len 1K --ignore-eos --max-concurrency 64 --num-prompts "
      "256\n"
      "l4-bench serve --endpoint chat --dataset-path ShareGPT.json --request-rate 4 --goodput ttft:500 tpot:50\n"
      "l4-bench serve --ignore-eos --max-concurrency 1,16,64 --num-prompts 8,64,256 --plot sweep.svg");
  add_endpoint_flags(flags, o);
  add_dataset_flags(flags, o);
  add_load_flags(flags, o);
  add_report_flags(flags, o, goodput);
  tools::add_log_flags(flags);

  std::vector<std::string> words = joined_goodput(argc, argv);
  std::vector<char*> pointers;
  for (std::string& word : words) pointers.push_back(word.data());
  if (const std::optional<int> status = flags.parse(int(pointers.size()), pointers.data())) return *status;
  o.goodput = parse_goodput(goodput);
  if (!flags.was_given("--dataset-name") && !o.dataset_path.empty())
    o.dataset = o.dataset_path.extension() == ".jsonl" ? DatasetKind::jsonl : DatasetKind::sharegpt;
  if (o.dataset != DatasetKind::random && o.dataset_path.empty())
    fail(ErrorKind::usage, "--dataset-path: expected the data set's file");
  if (o.dataset == DatasetKind::random && !o.dataset_path.empty())
    fail(ErrorKind::usage, "--dataset-path: random prompts come from no file; --dataset-name custom or sharegpt");
  tools::install_signal_handlers();
  const tools::EndAtInterrupt end_at_interrupt;
  run_serve(o);
  return 0;
}

}  // namespace l4::bench
