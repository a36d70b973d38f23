#include "tools/eval/statistics.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "tools/common/statistics.h"

namespace l4::eval {

Mean mean_of(std::span<const double> x) {
  const std::vector<double> values(x.begin(), x.end());
  Mean m{int64_t(x.size()), tools::mean(values), {}};
  if (x.size() > 1) m.standard_error = tools::standard_deviation(values) / std::sqrt(double(x.size()));
  return m;
}

Mean mean_by_size(std::span<const Mean> groups) {
  Mean all;
  double sum = 0, squares = 0;
  int64_t free = 0;
  bool known = true;
  for (const Mean& g : groups) {
    if (g.n == 0) continue;
    const double n = double(g.n), error = g.standard_error.value_or(0);
    known = known && g.standard_error;
    all.n += g.n;
    free += g.n - 1;
    sum += n * g.value;
    squares += (n - 1) * n * error * error;
  }
  if (all.n == 0) return all;
  all.value = sum / double(all.n);
  if (known) all.standard_error = std::sqrt(squares / double(free) / double(all.n));
  return all;
}

Mean plain_mean(std::span<const Mean> groups) {
  Mean all;
  double squares = 0, n_groups = 0;
  bool known = true;
  for (const Mean& g : groups) {
    if (g.n == 0) continue;
    ++n_groups;
    known = known && g.standard_error;
    all.n += g.n;
    all.value += g.value;
    squares += g.standard_error.value_or(0) * g.standard_error.value_or(0);
  }
  if (all.n == 0) return all;
  all.value /= n_groups;
  if (known) all.standard_error = std::sqrt(squares) / n_groups;
  return all;
}

Interval wilson_interval(double share, int64_t n) {
  if (n <= 0) return {0, 1};
  const double z2 = kZ95 * kZ95, count = double(n), scale = 1 + z2 / count;
  const double middle = (share + z2 / (2 * count)) / scale;
  const double half = kZ95 / scale * std::sqrt(share * (1 - share) / count + z2 / (4 * count * count));
  return {std::max(0.0, middle - half), std::min(1.0, middle + half)};
}

double mcnemar_exact(int64_t only_first, int64_t only_second) {
  const int64_t n = only_first + only_second, fewer = std::min(only_first, only_second);
  if (only_first == only_second) return 1;
  // The largest term of the tail by logarithms of factorials, the others from it: 2^-n alone is 0 from n = 1075 on.
  double term = std::exp(std::lgamma(double(n) + 1) - std::lgamma(double(fewer) + 1) -
                         std::lgamma(double(n - fewer) + 1) - double(n) * std::log(2.0));
  double tail = 0;
  for (int64_t k = fewer; k >= 0 && term > 0; --k) {
    tail += term;
    if (term < tail * 1e-17) break;
    term *= double(k) / double(n - k + 1);
  }
  return std::min(1.0, 2 * tail);
}

PairedDifference paired_difference(std::span<const double> first, std::span<const double> second) {
  L4_CHECK(first.size() == second.size());
  std::vector<double> d(first.size());
  for (size_t i = 0; i < d.size(); ++i) d[i] = second[i] - first[i];
  const Mean m = mean_of(d);
  PairedDifference out{m.n, m.value, m.standard_error, {}};
  double sum = 0, squares = 2;  // of one more question that only the first has right, and one that only the second has
  for (const double x : d) sum += x, squares += x * x;
  const double n = double(d.size()) + 2, middle = sum / n;
  const double half = kZ95 * std::sqrt(std::max(0.0, squares / n - middle * middle) / n);
  out.interval = {std::max(-1.0, middle - half), std::min(1.0, middle + half)};
  return out;
}

}  // namespace l4::eval
