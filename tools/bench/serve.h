// l4-bench serve: load for any OpenAI endpoint, as vLLM's `bench serve` makes and reports it.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "tools/bench/report.h"
#include "tools/bench/serve_dataset.h"
#include "tools/bench/serve_metrics.h"
#include "tools/common/openai_endpoint.h"

namespace l4::bench {

enum class DatasetKind { random, jsonl, sharegpt };

struct ServeOptions {
  tools::EndpointFlags endpoint{.url = "http://127.0.0.1:8000"};
  bool chat = false;                 // else completions
  std::optional<std::string> model;  // else the first of /v1/models
  Json extra_body;                   // an object: fields of every request

  DatasetKind dataset = DatasetKind::random;
  fs::path dataset_path;
  RandomOptions random;
  std::optional<int64_t> output_len;     // of files' prompts that do not say
  std::vector<int64_t> n_prompts{1000};  // one for all, or one for each concurrency
  bool ignore_eos = false;
  double temperature = 0;
  int64_t seed = 0;

  std::optional<double> request_rate;
  double burstiness = 1;
  std::vector<int64_t> max_concurrency{0};  // 0: no limit; several: a run each
  int64_t warmup = 1;

  Goodput goodput;
  std::vector<Latency> latencies{std::begin(kLatencies), std::end(kLatencies)};
  std::vector<double> percentiles{90, 99};
  Format out = Format::none;  // none: the block; json, jsonl
  bool save_result = false, save_detailed = false;
  fs::path result_path, plot_path;  // empty: a name by the date; no plot
};

void run_serve(const ServeOptions& options);

// The flags, then run_serve(); an exit status.
int serve_main(int argc, char** argv);

}  // namespace l4::bench
