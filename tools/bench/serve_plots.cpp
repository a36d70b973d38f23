#include "tools/bench/serve_plots.h"

#include <algorithm>
#include <cmath>

#include "tools/common/statistics.h"


namespace l4::bench {

using tools::percentile;
using tools::Plot;
using tools::PlotPanel;
using tools::PlotSeries;

namespace {

constexpr std::pair<const char*, double> kShares[] = {{"P50", 0.5}, {"P90", 0.9}, {"P99", 0.99}};
constexpr size_t kMostDots = 2000;
constexpr size_t kMostWindows = 40;
constexpr size_t kSamplesOfWindow = 20;  // at least, on average: fewer make no percentiles

using Samples = std::vector<std::pair<double, double>>;  // when, and how long it took in ms

// Percentiles of the samples of each stretch of time, at its middle.
std::vector<PlotSeries> percentiles_over_time(const Samples& samples, double duration_s) {
  const size_t n = std::clamp<size_t>(samples.size() / kSamplesOfWindow, 1, kMostWindows);
  std::vector<std::vector<double>> windows(n);
  for (const auto& [at, ms] : samples) windows[std::min(n - 1, size_t(at / duration_s * double(n)))].push_back(ms);
  std::vector<PlotSeries> out;
  for (const auto& [name, share] : kShares) {
    PlotSeries series{name, {}, true, int(out.size())};
    for (size_t w = 0; w < n; ++w)
      if (!windows[w].empty())
        series.points.emplace_back((double(w) + 0.5) * duration_s / double(n), percentile(windows[w], share));
    out.push_back(std::move(series));
  }
  return out;
}

PlotSeries dots(const Samples& samples, const char* name) {
  PlotSeries series{name, {}, false, 3};
  const size_t stride = samples.size() / kMostDots + 1;
  for (size_t i = 0; i < samples.size(); i += stride) series.points.push_back(samples[i]);
  return series;
}

}  // namespace

Plot plot_over_time(const std::vector<ServeRecord>& records, const std::string& subtitle) {
  Plot plot{"Serving benchmark over time", subtitle, {}};
  double begin = INFINITY, end = -INFINITY;
  for (const ServeRecord& r : records) begin = std::min(begin, r.start_s), end = std::max(end, r.end_s);
  const double duration = end - begin;
  if (!(duration > 0)) return plot;

  Samples ttft, itl;
  std::vector<std::pair<double, double>> changes;
  const double step = duration / std::min(60.0, std::max(1.0, std::floor(duration / 0.5)));
  std::vector<double> tokens(size_t(std::round(duration / step)) + 1);
  for (const ServeRecord& r : records) {
    changes.emplace_back(r.start_s - begin, +1);
    changes.emplace_back(r.end_s - begin, -1);
    if (!r.error.empty() || r.pieces_s.empty()) continue;
    ttft.emplace_back(r.start_s - begin, (r.pieces_s[0] - r.start_s) * 1e3);
    for (size_t i = 0; i < r.pieces_s.size(); ++i) {
      tokens[size_t((r.pieces_s[i] - begin) / step)] += double(r.output_tokens) / double(r.pieces_s.size());
      if (i > 0) itl.emplace_back(r.pieces_s[i] - begin, (r.pieces_s[i] - r.pieces_s[i - 1]) * 1e3);
    }
  }
  PlotSeries rate{"", {}, true, 0}, running{"", {}, true, 3};
  for (size_t i = 0; i + 1 < tokens.size(); ++i) rate.points.emplace_back((double(i) + 0.5) * step, tokens[i] / step);
  std::sort(changes.begin(), changes.end());
  double now = 0, most = 0;
  constexpr int kSteps = 240;  // the most of each: what happened within is too fine to see
  size_t next = 0;
  for (int i = 1; i <= kSteps; ++i) {
    for (most = now; next < changes.size() && (i == kSteps || changes[next].first < duration * i / kSteps); ++next)
      most = std::max(most, now += changes[next].second);
    running.points.emplace_back(duration * (i - 0.5) / kSteps, most);
  }
  std::sort(ttft.begin(), ttft.end());
  std::vector<PlotSeries> first = percentiles_over_time(ttft, duration);
  first.push_back(dots(ttft, "each request"));
  plot.panels = {PlotPanel{"Output tokens per second", "seconds", {rate}},
                 PlotPanel{"Requests running", "seconds", {running}},
                 PlotPanel{"Time to first token (ms), by start", "seconds", std::move(first)},
                 PlotPanel{"Inter-token latency (ms)", "seconds", percentiles_over_time(itl, duration)}};
  return plot;
}

Plot plot_over_concurrency(const std::vector<SweepPoint>& sweep, const std::string& subtitle) {
  Plot plot{"Serving benchmark by concurrency", subtitle, {}};
  const char* x_label = "concurrent requests";
  PlotPanel rate{"Output tokens per second",
                 x_label,
                 {PlotSeries{"mean", {}, true, 0}, PlotSeries{"best second", {}, true, 3}},
                 true};
  for (const SweepPoint& p : sweep) {
    rate.series[0].points.emplace_back(double(p.concurrency), p.metrics.output_per_s);
    rate.series[1].points.emplace_back(double(p.concurrency), p.metrics.peak_output_per_s);
  }
  plot.panels.push_back(std::move(rate));
  for (const auto& [what, title] :
       {std::pair{Latency::ttft, "Time to first token (ms)"}, std::pair{Latency::tpot, "Time per output token (ms)"},
        std::pair{Latency::e2el, "End-to-end latency (ms)"}}) {
    PlotPanel panel{title, x_label, {}, true};
    for (const auto& [name, share] : kShares) {
      PlotSeries series{name, {}, true, int(panel.series.size())};
      for (const SweepPoint& p : sweep)
        if (const std::vector<double>& samples = p.metrics.samples(what); !samples.empty())
          series.points.emplace_back(double(p.concurrency), percentile(samples, share) * 1e3);
      panel.series.push_back(std::move(series));
    }
    plot.panels.push_back(std::move(panel));
  }
  return plot;
}

}  // namespace l4::bench
