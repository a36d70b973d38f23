#include "tools/serve/metrics.h"

#include <algorithm>

#include "base/error.h"
#include "base/strings.h"

namespace l4::serve {

namespace {

void add_to(std::atomic<double>& target, double amount) {
  double old = target;
  while (!target.compare_exchange_weak(old, old + amount)) {
  }
}

std::string escaped(const std::string& text, bool quotes) {
  std::string out;
  for (char c : text) {
    if (c == '\\')
      out += "\\\\";
    else if (c == '\n')
      out += "\\n";
    else if (c == '"' && quotes)
      out += "\\\"";
    else
      out += c;
  }
  return out;
}

std::string label_text(const Labels& labels) {  // a="b",c="d"
  std::string out;
  for (const auto& [name, value] : labels) out += cat(out.empty() ? "" : ",", name, "=\"", escaped(value, true), "\"");
  return out;
}

std::string braces(const std::string& labels, const std::string& more = {}) {
  const std::string both = cat(labels, labels.empty() || more.empty() ? "" : ",", more);
  return both.empty() ? "" : "{" + both + "}";
}

}  // namespace

void Counter::add(double amount) {
  add_to(value_, amount);
}
void Counter::rise_to(double total) {
  double old = value_;
  while (total > old && !value_.compare_exchange_weak(old, total)) {
  }
}
void Gauge::add(double amount) {
  add_to(value_, amount);
}

Histogram::Histogram(std::vector<double> bounds) : bounds_(std::move(bounds)), counts_(bounds_.size() + 1) {}

void Histogram::observe(double value, uint64_t times) {
  const auto at = std::lower_bound(bounds_.begin(), bounds_.end(), value) - bounds_.begin();
  counts_[size_t(at)] += times;
  add_to(sum_, value * double(times));
}

struct Metrics::Family {
  std::string help, type;
  // By labels, as they are printed.
  std::map<std::string, std::unique_ptr<Counter>> counters;
  std::map<std::string, std::unique_ptr<Gauge>> gauges;
  std::map<std::string, std::unique_ptr<Histogram>> histograms;
};

Metrics::Metrics() = default;
Metrics::~Metrics() = default;

Metrics::Family& Metrics::family(const std::string& name, const std::string& help, const char* type) {
  std::unique_ptr<Family>& family = families_[name];
  if (!family) family = std::make_unique<Family>(Family{help, type, {}, {}, {}});
  L4_CHECK(family->type == type, "metric ", name, " is a ", family->type);
  return *family;
}

Counter& Metrics::counter(const std::string& name, const std::string& help, const Labels& labels) {
  const std::lock_guard lock(mutex_);
  auto& metric = family(name, help, "counter").counters[label_text(labels)];
  if (!metric) metric = std::make_unique<Counter>();
  return *metric;
}

Gauge& Metrics::gauge(const std::string& name, const std::string& help, const Labels& labels) {
  const std::lock_guard lock(mutex_);
  auto& metric = family(name, help, "gauge").gauges[label_text(labels)];
  if (!metric) metric = std::make_unique<Gauge>();
  return *metric;
}

Histogram& Metrics::histogram(const std::string& name, const std::string& help, const std::vector<double>& bounds,
                              const Labels& labels) {
  const std::lock_guard lock(mutex_);
  auto& metric = family(name, help, "histogram").histograms[label_text(labels)];
  if (!metric) metric = std::make_unique<Histogram>(bounds);
  return *metric;
}

void Metrics::on_collect(std::function<void()> call) {
  const std::lock_guard lock(collect_mutex_);
  collectors_.push_back(std::move(call));
}

std::string Metrics::text() {
  {
    const std::lock_guard lock(collect_mutex_);  // not mutex_: collectors name metrics
    for (const auto& call : collectors_) call();
  }
  const std::lock_guard lock(mutex_);
  std::string out;
  for (const auto& [name, family] : families_) {
    out += cat("# HELP ", name, " ", escaped(family->help, false), "\n# TYPE ", name, " ", family->type, "\n");
    for (const auto& [labels, metric] : family->counters) out += cat(name, braces(labels), " ", metric->value(), "\n");
    for (const auto& [labels, metric] : family->gauges) out += cat(name, braces(labels), " ", metric->value(), "\n");
    for (const auto& [labels, metric] : family->histograms) {
      uint64_t below = 0;
      for (size_t i = 0; i < metric->counts_.size(); ++i) {
        below += metric->counts_[i];
        const std::string bound = i < metric->bounds_.size() ? cat(metric->bounds_[i]) : "+Inf";
        out += cat(name, "_bucket", braces(labels, cat("le=\"", bound, "\"")), " ", below, "\n");
      }
      out += cat(name, "_sum", braces(labels), " ", metric->sum_.load(), "\n");
      out += cat(name, "_count", braces(labels), " ", below, "\n");
    }
  }
  return out;
}

// ---- vLLM's ---------------------------------------------------------------------------------------------------------

namespace {

// 1, 2, 5, 10, 20, 50, ... up to `most`: how vLLM buckets tokens.
std::vector<double> one_two_five(double most) {
  std::vector<double> out;
  for (double decade = 1;; decade *= 10)
    for (double m : {1.0, 2.0, 5.0}) {
      if (m * decade > most) return out;
      out.push_back(m * decade);
    }
}

const std::vector<double> kFirstToken = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
                                         1,     2.5,   5,    7.5,  10,   20,   40,   80,  160,  640, 2560};
const std::vector<double> kBetweenTokens = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3,
                                            0.4,   0.5,    0.75,  1,    2.5,   5,    7.5,   10,  20,   40,  80};
const std::vector<double> kLatency = {0.3, 0.5, 0.8, 1,  1.5, 2,   2.5, 5,   10,   15,  20,
                                      30,  40,  50,  60, 120, 240, 480, 960, 1920, 7680};
const std::vector<double> kRows = {1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384};
constexpr double kMostTokens = 10e6;

}  // namespace

#define L4_METRIC(kind, name, ...) name(metrics.kind("l4:" #name, __VA_ARGS__, {{"model_name", model_name}}))

EngineMetrics::EngineMetrics(Metrics& metrics, const std::string& model_name)
    : L4_METRIC(gauge, num_requests_running, "Requests in the batch that is computed."),
      L4_METRIC(gauge, num_requests_waiting, "Requests that wait to be computed."),
      L4_METRIC(gauge, kv_cache_usage_perc, "KV-cache usage; 1 means 100 percent."),
      L4_METRIC(counter, prefix_cache_queries_total, "Tokens of prompts that were looked up in the prefix cache."),
      L4_METRIC(counter, prefix_cache_hits_total, "Tokens of prompts that the prefix cache had."),
      L4_METRIC(counter, prompt_tokens_total, "Tokens of prompts."),
      L4_METRIC(counter, generation_tokens_total, "Tokens generated."),
      L4_METRIC(counter, num_preemptions_total, "Requests that lost their pages and were computed again."),
      L4_METRIC(histogram, iteration_tokens_total, "Tokens of a step.", kRows),
      L4_METRIC(histogram, request_prompt_tokens, "Tokens of a request's prompt.", one_two_five(kMostTokens)),
      L4_METRIC(histogram, request_generation_tokens, "Tokens generated for a request.", one_two_five(kMostTokens)),
      L4_METRIC(histogram, time_to_first_token_seconds, "From a request's arrival to its first token.", kFirstToken),
      L4_METRIC(histogram, inter_token_latency_seconds, "Between two tokens of an answer.", kBetweenTokens),
      L4_METRIC(histogram, request_time_per_output_token_seconds, "Mean time between an answer's tokens.",
                kBetweenTokens),
      L4_METRIC(histogram, e2e_request_latency_seconds, "From a request's arrival to its answer's end.", kLatency),
      L4_METRIC(histogram, request_queue_time_seconds, "That requests waited.", kLatency),
      L4_METRIC(histogram, request_inference_time_seconds, "That requests were computed.", kLatency),
      L4_METRIC(histogram, request_prefill_time_seconds, "Of it, for the prompt.", kLatency),
      L4_METRIC(histogram, request_decode_time_seconds, "Of it, for the answer.", kLatency),
      metrics_(metrics),
      model_name_(model_name) {}

#undef L4_METRIC

Counter& EngineMetrics::request_success(const std::string& finished_reason) {
  return metrics_.counter("l4:request_success_total", "Requests answered, by what ended the answer.",
                          {{"finished_reason", finished_reason}, {"model_name", model_name_}});
}

}  // namespace l4::serve
