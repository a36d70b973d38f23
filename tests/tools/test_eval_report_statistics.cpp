// The wanted numbers are scipy 1.17's (binomtest: p-values, Wilson) and lm-eval 0.4.13's (api/metrics.py: standard
// errors), printed with repr(); Bonett and Price's intervals from their formula with numpy.
#include <cmath>

#include "support/test.h"
#include "tools/eval/statistics.h"

using namespace l4::eval;

namespace {

doctest::Approx near(double value) {
  return doctest::Approx(value).epsilon(1e-12);
}

// `right` ones, then zeros.
std::vector<double> answers(size_t n, size_t right) {
  std::vector<double> x(n, 0.0);
  for (size_t i = 0; i < right; ++i) x[i] = 1;
  return x;
}

}  // namespace

TEST_CASE("eval statistics: means and standard errors are lm-eval's") {
  CHECK(mean_of({}).n == 0);
  CHECK(mean_of({}).value == 0);
  const std::vector<double> one = {1};
  CHECK(mean_of(one).value == 1);
  CHECK(!mean_of(one).standard_error);
  CHECK(*mean_of(answers(200, 150)).standard_error == near(0.030695456590127176));
  CHECK(*mean_of(answers(10, 10)).standard_error == 0);

  const std::vector<double> a = {1, 0, 1, 1, 0.5}, b = {0, 0, 1}, c = answers(6, 4);
  const Mean groups[] = {mean_of(a), mean_of(b), {}, mean_of(c)};  // one group has nothing in it
  CHECK(*groups[0].standard_error == near(0.19999999999999998));
  CHECK(*groups[1].standard_error == near(0.33333333333333337));
  CHECK(mean_by_size(groups).n == 14);
  CHECK(mean_by_size(groups).value == near(0.6071428571428571));
  CHECK(*mean_by_size(groups).standard_error == near(0.13483997249264845));
  CHECK(plain_mean(groups).value == near(0.5666666666666665));
  CHECK(*plain_mean(groups).standard_error == near(0.1474055462380178));

  const Mean with_single[] = {mean_of(a), mean_of(one)};  // lm-eval: N/A
  CHECK(!mean_by_size(with_single).standard_error);
  CHECK(!plain_mean(with_single).standard_error);
  CHECK(mean_by_size({}).n == 0);
  CHECK(plain_mean({}).value == 0);
}

TEST_CASE("eval statistics: Wilson's interval") {
  const struct {
    int right, n;
    double low, high;
  } rows[] = {{0, 10, 0, 0.27753279986288926},
              {10, 10, 0.7224672001371109, 1},
              {5, 10, 0.236593090512564, 0.7634069094874361},
              {1, 1, 0.20654931437723745, 1},
              {150, 200, 0.6856590168795417, 0.8049183199318249},
              {8939, 12032, 0.7350501823367285, 0.7506657536866436}};
  for (const auto& row : rows) {
    CAPTURE(row.right);
    CAPTURE(row.n);
    const Interval found = wilson_interval(double(row.right) / row.n, row.n);
    CHECK(std::fabs(found.low - row.low) < 1e-12);
    CHECK(std::fabs(found.high - row.high) < 1e-12);
  }
  CHECK(wilson_interval(0, 0).low == 0);
  CHECK(wilson_interval(0, 0).high == 1);
}

TEST_CASE("eval statistics: McNemar's test, exactly") {
  const struct {
    int64_t first, second;
    double p;
  } rows[] = {{0, 0, 1},
              {1, 0, 1},
              {10, 10, 1},
              {5, 1, 0.21875},
              {3, 12, 0.03515625},
              {40, 20, 0.01348929373119186},
              {700, 600, 0.0060157938610449395},
              {6000, 6032, 0.7774745720391291},
              {500, 300, 1.5263155581540037e-12}};
  for (const auto& row : rows) {
    CAPTURE(row.first);
    CAPTURE(row.second);
    CHECK(mcnemar_exact(row.first, row.second) == doctest::Approx(row.p).epsilon(1e-10));
    CHECK(mcnemar_exact(row.second, row.first) == mcnemar_exact(row.first, row.second));
  }
  CHECK(mcnemar_exact(0, 2000) == 0);  // 2^-1999 is less than a double can hold
  CHECK(mcnemar_exact(1000000, 1000001) == doctest::Approx(1));
}

TEST_CASE("eval statistics: a paired difference, its error and interval") {
  const struct {
    size_t n, gained, lost;
    double value, error, low, high;
  } rows[] = {
      {10, 0, 0, 0, 0, -0.2309839707249463, 0.2309839707249463},
      {200, 12, 3, 0.045, 0.019149635576521235, 0.005023454270637669, 0.08408545662045144},
      {12032, 700, 600, 0.008311170212765957, 0.002995801473106399, 0.002434828562815259, 0.014184749299907033}};
  for (const auto& row : rows) {
    CAPTURE(row.n);
    std::vector<double> first(row.n, 1.0), second(row.n, 1.0);
    for (size_t i = 0; i < row.gained; ++i) first[i] = 0;
    for (size_t i = 0; i < row.lost; ++i) second[row.n - 1 - i] = 0;
    const PairedDifference found = paired_difference(first, second);
    CHECK(found.n == int64_t(row.n));
    CHECK(found.value == near(row.value));
    CHECK(*found.standard_error == near(row.error));
    CHECK(found.interval.low == near(row.low));
    CHECK(found.interval.high == near(row.high));
  }
  CHECK(paired_difference({}, {}).n == 0);
  CHECK(paired_difference({}, {}).interval.low == -1);
  CHECK(!paired_difference(answers(1, 0), answers(1, 1)).standard_error);
}
