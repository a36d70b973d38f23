// A serving benchmark as pictures.
#pragma once

#include <string>
#include <vector>

#include "tools/bench/serve_metrics.h"
#include "tools/common/plot.h"

namespace l4::bench {

// One run over time: throughput, requests running, time to first token, inter-token latency.
tools::Plot plot_over_time(const std::vector<ServeRecord>& records, const std::string& subtitle);

struct SweepPoint {
  int64_t concurrency = 0;
  ServeMetrics metrics;
};
// Several runs over their concurrency: throughput and latencies.
tools::Plot plot_over_concurrency(const std::vector<SweepPoint>& sweep, const std::string& subtitle);

}  // namespace l4::bench
