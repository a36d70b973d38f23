// How sure a score is, and a difference of two.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

namespace l4::eval {

// A mean with its standard error, from the variance of the sample (n - 1) as lm-eval's; none for fewer than two.
struct Mean {
  int64_t n = 0;
  double value = 0;  // 0 where n is
  std::optional<double> standard_error;
};
Mean mean_of(std::span<const double> x);
// Of groups, as lm-eval puts subjects together. By size: the mean over all that is in them, its error from the variance
// within groups alone. Plain: the mean of the groups' means. Groups with nothing in them count in neither. The error is
// none where that of any group is.
Mean mean_by_size(std::span<const Mean> groups);
Mean plain_mean(std::span<const Mean> groups);

// 97.5 % of a normal distribution lies below.
constexpr double kZ95 = 1.959963984540054;

struct Interval {
  double low = 0, high = 0;
};
// Wilson's 95 % interval of a share found in n; also right for 0 of 10. n 0: [0, 1].
Interval wilson_interval(double share, int64_t n);

// McNemar's test without approximation: how likely flips as one-sided as these, or more so, are where either direction
// has the same chance. 1 without flips.
double mcnemar_exact(int64_t only_first, int64_t only_second);

// Of the same questions, second - first; values from 0 to 1. The interval is Bonett and Price's (2012) for paired
// shares: with one more question of either kind of flip, so that no flips in ten questions leave room for some.
struct PairedDifference {
  int64_t n = 0;
  double value = 0;
  std::optional<double> standard_error;  // none for fewer than two
  Interval interval{-1, 1};              // 95 %
};
PairedDifference paired_difference(std::span<const double> first, std::span<const double> second);

}  // namespace l4::eval
