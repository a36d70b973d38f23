// Sends requests to an endpoint when they are due and writes down when the pieces of their answers come.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "tools/bench/serve_metrics.h"
#include "tools/common/http_client.h"

namespace l4::bench {

// When each of n requests is due, in seconds, the first at 0 or later. Without a rate all at once. Times between
// arrivals are Gamma distributed with shape `burstiness` (1: a Poisson process; less: bursts; more: even) and are
// scaled so that the last is due after n / rate, as in vLLM's benchmark, so that two runs offer the same load.
std::vector<double> arrival_times(int64_t n, std::optional<double> rate, double burstiness, uint64_t seed);

// The data of one answer's events -> its record: completions and chat chunks, their usage, errors among them.
class AnswerReader {
 public:
  explicit AnswerReader(ServeRecord& record) : record_(record) {}
  void take(std::string_view data, double at_s);
  void end(double at_s, const std::string& problem);  // problem: of the transfer, empty where it came whole

 private:
  ServeRecord& record_;
  bool finished_ = false, counted_ = false;
};

struct Load {
  std::string path;                 // "/v1/chat/completions"
  std::vector<std::string> bodies;  // one request each
  std::vector<double> due_s;        // ascending
  int64_t max_concurrency = 0;      // 0: no limit; what is due waits for a place
  std::function<void(int64_t n_done)> on_progress = {};
};
struct LoadResult {
  std::vector<ServeRecord> records;  // one a body
  double busy = 0;                   // share of the time in which this thread computed: near 1 it is what is measured
};
LoadResult run_load(tools::HttpClient& client, const Load& load);

}  // namespace l4::bench
