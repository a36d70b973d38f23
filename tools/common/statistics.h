// Numbers about samples.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

namespace l4::tools {

inline double mean(const std::vector<double>& x) {
  double sum = 0;
  for (const double v : x) sum += v;
  return x.empty() ? 0 : sum / double(x.size());
}

// Of the population that the samples come from (n - 1), as llama-bench's; 0 for fewer than two.
inline double standard_deviation(const std::vector<double>& x) {
  if (x.size() < 2) return 0;
  const double m = mean(x);
  double squares = 0;
  for (const double v : x) squares += (v - m) * (v - m);
  return std::sqrt(squares / double(x.size() - 1));
}

// share 0.5: the median. Between two samples, linearly.
inline double percentile(std::vector<double> x, double share) {
  if (x.empty()) return 0;
  std::sort(x.begin(), x.end());
  const double at = share * double(x.size() - 1);
  const size_t below = size_t(at);
  return below + 1 < x.size() ? x[below] + (at - double(below)) * (x[below + 1] - x[below]) : x.back();
}
inline double median(const std::vector<double>& x) {
  return percentile(x, 0.5);
}

}  // namespace l4::tools
