#include "tools/bench/serve_metrics.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "tools/bench/bench.h"
#include "tools/common/statistics.h"

namespace l4::bench {

using tools::mean;
using tools::median;
using tools::percentile;
using tools::standard_deviation;

const char* latency_name(Latency what) {
  switch (what) {
    case Latency::ttft:
      return "ttft";
    case Latency::tpot:
      return "tpot";
    case Latency::itl:
      return "itl";
    case Latency::e2el:
      break;
  }
  return "e2el";
}

Latency parse_latency(const std::string& name) {
  for (const Latency what : kLatencies)
    if (name == latency_name(what)) return what;
  tools::wrong_value("ttft, tpot, itl or e2el", name);
}

Goodput parse_goodput(const std::vector<std::string>& words) {
  Goodput goodput;
  for (const std::string& word : words) {
    const size_t colon = word.find(':');
    const std::optional<double> ms =
        colon == std::string::npos ? std::nullopt : parse_double(std::string_view(word).substr(colon + 1));
    const std::string name = word.substr(0, colon);
    std::optional<double>* const target = name == "ttft"   ? &goodput.ttft_ms
                                          : name == "tpot" ? &goodput.tpot_ms
                                          : name == "e2el" ? &goodput.e2el_ms
                                                           : nullptr;
    if (!target || !ms || !(*ms > 0)) tools::wrong_value("milliseconds like ttft:200, tpot:50 or e2el:5000", word);
    *target = ms;
  }
  return goodput;
}

const std::vector<double>& ServeMetrics::samples(Latency what) const {
  switch (what) {
    case Latency::ttft:
      return ttft_s;
    case Latency::tpot:
      return tpot_s;
    case Latency::itl:
      return itl_s;
    case Latency::e2el:
      break;
  }
  return e2el_s;
}

namespace {

int64_t most_at_once(const std::vector<ServeRecord>& records) {
  std::vector<std::pair<double, int>> changes;
  for (const ServeRecord& r : records) {
    changes.emplace_back(r.start_s, +1);
    changes.emplace_back(r.end_s, -1);
  }
  std::sort(changes.begin(), changes.end());  // one that ends makes room before one that starts then
  int64_t now = 0, most = 0;
  for (const auto& [at, change] : changes) most = std::max(most, now += change);
  return most;
}

double peak_rate(const std::vector<ServeRecord>& records, double begin_s, double duration_s) {
  const double second = std::min(1.0, duration_s);  // a run may be shorter than one
  if (second <= 0) return 0;
  std::vector<double> tokens(size_t(std::ceil(duration_s / second)));
  for (const ServeRecord& r : records) {
    if (!r.error.empty() || r.pieces_s.empty()) continue;
    const double each = double(r.output_tokens) / double(r.pieces_s.size());
    for (const double at : r.pieces_s)
      tokens[std::min(size_t(std::max(0.0, at - begin_s) / second), tokens.size() - 1)] += each;
  }
  return *std::max_element(tokens.begin(), tokens.end()) / second;
}

}  // namespace

ServeMetrics measure(const std::vector<ServeRecord>& records, const Goodput& goodput) {
  ServeMetrics m;
  if (records.empty()) return m;
  double begin = INFINITY, end = -INFINITY;
  int64_t n_good = 0;
  for (const ServeRecord& r : records) {
    begin = std::min(begin, r.start_s);
    end = std::max(end, r.end_s);
    if (!r.error.empty()) {
      ++m.n_failed;
      continue;
    }
    ++m.n_ok;
    m.input_tokens += r.input_tokens;
    m.output_tokens += r.output_tokens;
    double ttft = 0, tpot = 0, e2el = 0;
    if (r.pieces_s.empty()) {  // an answer without text: nothing to wait for but its end
      e2el = r.end_s - r.start_s;
    } else {
      m.ttft_s.push_back(ttft = r.pieces_s.front() - r.start_s);
      e2el = r.pieces_s.back() - r.start_s;
      if (r.output_tokens > 1)
        m.tpot_s.push_back(tpot = (r.pieces_s.back() - r.pieces_s.front()) / double(r.output_tokens - 1));
      for (size_t i = 1; i < r.pieces_s.size(); ++i) m.itl_s.push_back(r.pieces_s[i] - r.pieces_s[i - 1]);
    }
    m.e2el_s.push_back(e2el);
    const auto keeps = [](double s, const std::optional<double>& most_ms) { return !most_ms || s * 1e3 <= *most_ms; };
    n_good += keeps(ttft, goodput.ttft_ms) && keeps(tpot, goodput.tpot_ms) && keeps(e2el, goodput.e2el_ms);
  }
  m.duration_s = end - begin;
  m.peak_concurrency = most_at_once(records);
  m.peak_output_per_s = peak_rate(records, begin, m.duration_s);
  if (m.duration_s > 0) {
    m.requests_per_s = double(m.n_ok) / m.duration_s;
    m.output_per_s = double(m.output_tokens) / m.duration_s;
    m.total_per_s = double(m.input_tokens + m.output_tokens) / m.duration_s;
    if (goodput.asked()) m.good_per_s = double(n_good) / m.duration_s;
  }
  return m;
}

namespace {

constexpr size_t kBlockWidth = 50, kLabelWidth = 40;

std::string centred(const std::string& text, char with) {
  const size_t fill = kBlockWidth - std::min(kBlockWidth, text.size());
  return cat(std::string(fill / 2, with), text, std::string(fill - fill / 2, with), "\n");
}

std::string block_line(std::string label, const std::string& value) {
  label += ':';
  label.resize(std::max(label.size(), kLabelWidth), ' ');
  return cat(label, " ", value, "\n");
}

const char* heading(Latency what) {
  switch (what) {
    case Latency::ttft:
      return "Time to First Token";
    case Latency::tpot:
      return "Time per Output Token (excl. 1st token)";
    case Latency::itl:
      return "Inter-token Latency";
    case Latency::e2el:
      break;
  }
  return "End-to-end Latency";
}

std::string upper(std::string name) {
  for (char& c : name)
    if (c >= 'a') c = char(c - 'a' + 'A');
  return name;
}

}  // namespace

std::string serve_block(const ServeMetrics& m, const ServeBlock& block) {
  std::string out = centred(" Serving Benchmark Result ", '=');
  out += block_line("Successful requests", cat(m.n_ok));
  out += block_line("Failed requests", cat(m.n_failed));
  if (block.max_concurrency) out += block_line("Maximum request concurrency", cat(*block.max_concurrency));
  if (block.request_rate) out += block_line("Request rate configured (RPS)", fixed(*block.request_rate, 2));
  out += block_line("Benchmark duration (s)", fixed(m.duration_s, 2));
  out += block_line("Total input tokens", cat(m.input_tokens));
  out += block_line("Total generated tokens", cat(m.output_tokens));
  out += block_line("Request throughput (req/s)", fixed(m.requests_per_s, 2));
  if (m.good_per_s) out += block_line("Request goodput (req/s)", fixed(*m.good_per_s, 2));
  out += block_line("Output token throughput (tok/s)", fixed(m.output_per_s, 2));
  out += block_line("Peak output token throughput (tok/s)", fixed(m.peak_output_per_s, 2));
  out += block_line("Peak concurrent requests", cat(m.peak_concurrency));
  out += block_line("Total token throughput (tok/s)", fixed(m.total_per_s, 2));
  for (const Latency what : block.latencies) {
    const std::vector<double>& samples = m.samples(what);
    const std::string name = upper(latency_name(what));
    out += centred(heading(what), '-');
    const auto line = [&](const std::string& statistic, double seconds) {
      out += block_line(cat(statistic, " ", name, " (ms)"), samples.empty() ? "-" : fixed(seconds * 1e3, 2));
    };
    line("Mean", mean(samples));
    line("Median", median(samples));
    for (const double p : block.percentiles) line(cat("P", p), percentile(samples, p / 100));
  }
  return out + std::string(kBlockWidth, '=') + "\n";
}

Json::Object serve_fields(const ServeMetrics& m, const ServeBlock& block) {
  Json::Object out{
      {"request_rate", block.request_rate ? Json(*block.request_rate) : Json()},
      {"max_concurrency", block.max_concurrency ? Json(*block.max_concurrency) : Json()},
      {"duration", m.duration_s},
      {"completed", m.n_ok},
      {"failed", m.n_failed},
      {"total_input_tokens", m.input_tokens},
      {"total_output_tokens", m.output_tokens},
      {"request_throughput", m.requests_per_s},
      {"request_goodput", m.good_per_s ? Json(*m.good_per_s) : Json()},
      {"output_throughput", m.output_per_s},
      {"total_token_throughput", m.total_per_s},
      {"max_output_tokens_per_s", m.peak_output_per_s},
      {"max_concurrent_requests", m.peak_concurrency},
  };
  for (const Latency what : block.latencies) {
    const std::vector<double>& samples = m.samples(what);
    const auto field = [&](const std::string& statistic, double seconds) {
      out.emplace_back(cat(statistic, "_", latency_name(what), "_ms"), samples.empty() ? Json() : Json(seconds * 1e3));
    };
    field("mean", mean(samples));
    field("median", median(samples));
    field("std", standard_deviation(samples));
    for (const double p : block.percentiles) field(cat("p", p), percentile(samples, p / 100));
  }
  return out;
}

}  // namespace l4::bench
