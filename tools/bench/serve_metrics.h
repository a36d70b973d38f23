// From when the pieces of each answer came to the numbers that a serving benchmark prints: vLLM's, by its definitions
// where nothing else is said.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "formats/json.h"

namespace l4::bench {

// One request. Times are seconds since the run began.
struct ServeRecord {
  double start_s = 0;                           // before anything of it is sent; a new connection counts
  double end_s = 0;                             // the last byte, or the failure
  std::vector<double> pieces_s;                 // of the answer's text, ascending; a piece may be several tokens
  int64_t input_tokens = 0, output_tokens = 0;  // as the server counts them; else pieces
  std::string error;                            // empty: it succeeded
};

enum class Latency { ttft, tpot, itl, e2el };
constexpr Latency kLatencies[] = {Latency::ttft, Latency::tpot, Latency::itl, Latency::e2el};
const char* latency_name(Latency what);          // "ttft"
Latency parse_latency(const std::string& name);  // Error{usage}

// What a request must keep to count as good, in milliseconds.
struct Goodput {
  std::optional<double> ttft_ms, tpot_ms, e2el_ms;
  bool asked() const { return ttft_ms || tpot_ms || e2el_ms; }
};
Goodput parse_goodput(const std::vector<std::string>& words);  // "ttft:200", "tpot:50", "e2el:5000"

struct ServeMetrics {
  int64_t n_ok = 0, n_failed = 0;
  double duration_s = 0;  // from the first start to the last end
  int64_t input_tokens = 0, output_tokens = 0;
  double requests_per_s = 0, output_per_s = 0, total_per_s = 0;  // of requests that succeeded
  double peak_output_per_s = 0;      // tokens in the best second, counted from the first start
  int64_t peak_concurrency = 0;      // requests between start and end, exactly
  std::optional<double> good_per_s;  // requests

  // Of requests that succeeded, in seconds.
  std::vector<double> ttft_s;  // start to the first piece
  std::vector<double> tpot_s;  // first piece to the last, over tokens - 1: of answers of two tokens or more
  std::vector<double> itl_s;   // from piece to piece, of all answers
  std::vector<double> e2el_s;  // start to the last piece
  const std::vector<double>& samples(Latency what) const;
};
ServeMetrics measure(const std::vector<ServeRecord>& records, const Goodput& goodput = {});

// What is printed beside the numbers, and which of them.
struct ServeBlock {
  std::optional<double> request_rate;      // none: as fast as the concurrency lets
  std::optional<int64_t> max_concurrency;  // none: no limit
  std::vector<Latency> latencies{std::begin(kLatencies), std::end(kLatencies)};
  std::vector<double> percentiles{90, 99};
};
std::string serve_block(const ServeMetrics& metrics, const ServeBlock& block);
// vLLM's names: "completed", "output_throughput", "p99_ttft_ms", ...
Json::Object serve_fields(const ServeMetrics& metrics, const ServeBlock& block);

}  // namespace l4::bench
