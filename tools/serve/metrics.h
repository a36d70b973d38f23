// Counters, gauges and histograms with labels, and Prometheus' text of them. The names are vLLM's with "l4:" in place
// of "vllm:", so that dashboards port by search and replace.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace l4::serve {

using Labels = std::vector<std::pair<std::string, std::string>>;

class Counter {
 public:
  void add(double amount = 1);  // >= 0
  void rise_to(double total);   // for totals that somebody else counts; never falls
  double value() const { return value_; }

 private:
  std::atomic<double> value_{0};
};

class Gauge {
 public:
  void set(double value) { value_ = value; }
  void add(double amount);
  double value() const { return value_; }

 private:
  std::atomic<double> value_{0};
};

class Histogram {
 public:
  explicit Histogram(std::vector<double> bounds);  // upper, ascending, without infinity
  void observe(double value, uint64_t times = 1);

 private:
  friend class Metrics;
  std::vector<double> bounds_;
  std::vector<std::atomic<uint64_t>> counts_;  // one more than bounds
  std::atomic<double> sum_{0};
};

class Metrics {
 public:
  Metrics();
  ~Metrics();
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  // The metric of that name and these labels, made at its first mention; references stay valid. Any thread. Labels must
  // not come from clients: each combination lives as long as the registry.
  Counter& counter(const std::string& name, const std::string& help, const Labels& labels = {});
  Gauge& gauge(const std::string& name, const std::string& help, const Labels& labels = {});
  Histogram& histogram(const std::string& name, const std::string& help, const std::vector<double>& bounds,
                       const Labels& labels = {});

  void on_collect(std::function<void()> call);  // before each text(): sets what is read from elsewhere
  std::string text();                           // text/plain; version=0.0.4

 private:
  struct Family;
  Family& family(const std::string& name, const std::string& help, const char* type);
  std::mutex mutex_, collect_mutex_;
  std::map<std::string, std::unique_ptr<Family>> families_;
  std::vector<std::function<void()>> collectors_;
};

// vLLM's metrics, all labelled model_name. What the engine counts is set from EngineStats at collection, the rest where
// a request ends.
struct EngineMetrics {
  EngineMetrics(Metrics& metrics, const std::string& model_name);

  Gauge &num_requests_running, &num_requests_waiting, &kv_cache_usage_perc;
  Counter &prefix_cache_queries_total, &prefix_cache_hits_total;  // tokens
  Counter &prompt_tokens_total, &generation_tokens_total, &num_preemptions_total;
  Histogram& iteration_tokens_total;
  Histogram &request_prompt_tokens, &request_generation_tokens;
  Histogram &time_to_first_token_seconds, &inter_token_latency_seconds, &request_time_per_output_token_seconds;
  Histogram &e2e_request_latency_seconds, &request_queue_time_seconds, &request_inference_time_seconds;
  Histogram &request_prefill_time_seconds, &request_decode_time_seconds;

  Counter& request_success(const std::string& finished_reason);  // "stop", "length", "abort", ...

 private:
  Metrics& metrics_;
  std::string model_name_;
};

}  // namespace l4::serve
