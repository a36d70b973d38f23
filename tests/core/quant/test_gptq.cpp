#include "quant/gptq.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "support/test.h"

using namespace l4;

namespace {

using Matrix = std::vector<double>;

std::vector<float> random_weights(int64_t n, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 0.02f);
  std::vector<float> w(static_cast<size_t>(n));
  for (float& value : w) value = round_bf16(normal(random));
  return w;
}

// Inputs that depend on each other, as a model's do: a few directions of their own, some noise.
std::vector<float> random_inputs(int64_t n, int64_t k, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 1);
  constexpr int64_t kDirections = 12;
  std::vector<float> directions(size_t(kDirections * k)), x(size_t(n * k));
  for (float& d : directions) d = normal(random);
  for (int64_t t = 0; t < n; ++t) {
    float* row = &x[size_t(t * k)];
    for (int64_t d = 0; d < kDirections; ++d) {
      const float part = normal(random);
      for (int64_t j = 0; j < k; ++j) row[j] += part * directions[size_t(d * k + j)];
    }
    for (int64_t j = 0; j < k; ++j) row[j] = round_bf16(row[j] + 0.3f * normal(random));
  }
  return x;
}

Matrix product(const std::vector<float>& x, int64_t n, int64_t k, double damping = 0) {
  Matrix h(size_t(k * k));
  for (int64_t t = 0; t < n; ++t)
    for (int64_t i = 0; i < k; ++i)
      for (int64_t j = 0; j < k; ++j)
        h[size_t(i * k + j)] += double(x[size_t(t * k + i)]) * double(x[size_t(t * k + j)]);
  double mean = 0;
  for (int64_t i = 0; i < k; ++i) mean += h[size_t(i * k + i)] / double(k);
  for (int64_t i = 0; i < k; ++i) h[size_t(i * k + i)] += damping * mean;
  return h;
}

Matrix inverse(Matrix a, int64_t k) {  // Gauss and Jordan; symmetric and positive definite, so without pivoting
  Matrix b(size_t(k * k));
  for (int64_t i = 0; i < k; ++i) b[size_t(i * k + i)] = 1;
  for (int64_t p = 0; p < k; ++p) {
    const double pivot = a[size_t(p * k + p)];
    for (int64_t j = 0; j < k; ++j) a[size_t(p * k + j)] /= pivot, b[size_t(p * k + j)] /= pivot;
    for (int64_t i = 0; i < k; ++i) {
      const double f = a[size_t(i * k + p)];
      if (i == p || f == 0) continue;
      for (int64_t j = 0; j < k; ++j) {
        a[size_t(i * k + j)] -= f * a[size_t(p * k + j)];
        b[size_t(i * k + j)] -= f * b[size_t(p * k + j)];
      }
    }
  }
  return b;
}

struct Result {
  std::vector<int> codes;
  std::vector<float> scales;
  std::vector<double> values;  // codes times scales
};

// The algorithm as it is first described (Optimal Brain Quantization with columns in order): after each column the
// errors go to all columns behind it by the inverse of H, from which the column is then taken.
Result brute_force(const std::vector<float>& w, const Matrix& h, int64_t k, int64_t group) {
  Result result;
  for (size_t begin = 0; begin < w.size(); begin += size_t(k)) {
    std::vector<double> row(w.begin() + int64_t(begin), w.begin() + int64_t(begin) + k);
    Matrix inv = inverse(h, k);
    // What a column's error costs is known when the columns before it are done: its importance to the scale.
    std::vector<float> importance;
    for (Matrix left = inv; int64_t(importance.size()) < k;) {
      const int64_t j = int64_t(importance.size());
      const double d = left[size_t(j * k + j)];
      importance.push_back(float(1 / d));
      for (int64_t i = k - 1; i >= j; --i)
        for (int64_t l = k - 1; l >= j; --l)
          left[size_t(i * k + l)] -= left[size_t(i * k + j)] * left[size_t(j * k + l)] / d;
    }
    double scale = 0;
    for (int64_t j = 0; j < k; ++j) {
      if (j % group == 0) {
        const std::vector<float> now(row.begin() + j, row.begin() + j + group);
        result.scales.push_back(
            to_float(search_int4_scale(now, std::span(importance).subspan(size_t(j), size_t(group)))));
        scale = double(result.scales.back());
      }
      const double code = std::clamp(std::nearbyint(row[size_t(j)] / scale), -8.0, 7.0);
      result.codes.push_back(int(code));
      result.values.push_back(code * scale);
      const double d = inv[size_t(j * k + j)], e = (row[size_t(j)] - code * scale) / d;
      for (int64_t i = j; i < k; ++i) row[size_t(i)] -= e * inv[size_t(j * k + i)];
      for (int64_t i = k - 1; i >= j; --i)
        for (int64_t l = k - 1; l >= j; --l)
          inv[size_t(i * k + l)] -= inv[size_t(i * k + j)] * inv[size_t(j * k + l)] / d;
    }
  }
  return result;
}

Result unpacked(const std::vector<uint32_t>& words, const std::vector<BFloat16>& scales, int64_t group) {
  Result result;
  for (const BFloat16 s : scales) result.scales.push_back(to_float(s));
  for (size_t i = 0; i < words.size() * 8; ++i) {
    result.codes.push_back(int(words[i / 8] >> (4 * (i % 8)) & 15) - 8);
    result.values.push_back(result.codes.back() * double(result.scales[i / size_t(group)]));
  }
  return result;
}

struct Solved : Result {
  double loss = 0;
  QuantError error;
};
Solved solve(const std::vector<float>& w, const Hessian& h, int64_t group, ThreadPool& pool) {
  const auto factor = GptqFactor::make(h, pool);
  REQUIRE(factor);
  std::vector<uint32_t> words(w.size() / 8);
  std::vector<BFloat16> scales(w.size() / size_t(group));
  Solved solved;
  solved.loss = factor->quantize_rows(w, group, words, scales, solved.error);
  static_cast<Result&>(solved) = unpacked(words, scales, group);
  return solved;
}
Result rounded(const std::vector<float>& w, int64_t k, int64_t group) {
  std::vector<uint32_t> words(w.size() / 8);
  std::vector<BFloat16> scales(w.size() / size_t(group));
  QuantError error;
  for (size_t row = 0; row < w.size() / size_t(k); ++row)
    quantize_int4_row(std::span(w).subspan(row * size_t(k), size_t(k)), group,
                      std::span(words).subspan(row * size_t(k) / 8, size_t(k) / 8),
                      std::span(scales).subspan(row * size_t(k / group), size_t(k / group)), error);
  return unpacked(words, scales, group);
}

// Sum over rows of d^T H d.
double objective(const std::vector<float>& w, const Result& q, const Matrix& h, int64_t k) {
  double sum = 0;
  for (size_t begin = 0; begin < w.size(); begin += size_t(k))
    for (int64_t i = 0; i < k; ++i)
      for (int64_t j = 0; j < k; ++j)
        sum += (double(w[begin + size_t(i)]) - q.values[begin + size_t(i)]) * h[size_t(i * k + j)] *
               (double(w[begin + size_t(j)]) - q.values[begin + size_t(j)]);
  return sum;
}

}  // namespace

TEST_CASE("gptq: sums of inputs, whatever the parts and threads") {
  const int64_t n = 75, k = 96;
  const std::vector<float> x = random_inputs(n, k, 1);
  const Matrix expected = product(x, n, k);
  ThreadPool one(1), three(3);
  Hessian whole(k), parts(k);
  whole.add(x, one);
  for (const auto& [begin, end] : {std::pair(0, 1), {1, 40}, {40, 40}, {40, 75}})
    parts.add(std::span(x).subspan(size_t(begin * k), size_t((end - begin) * k)), three);
  CHECK(whole.n_rows() == n);
  CHECK(parts.n_rows() == n);
  double largest = 0, worst = 0;
  for (int64_t i = 0; i < k; ++i)
    for (int64_t j = 0; j < k; ++j) {
      largest = std::max(largest, std::fabs(expected[size_t(i * k + j)]));
      for (const Hessian* h : {&whole, &parts})
        worst = std::max(worst, std::fabs(double(h->at(i, j)) - expected[size_t(i * k + j)]));
      CHECK(whole.at(i, j) == parts.at(j, i));  // rows are added one by one either way
    }
  CHECK(worst < 1e-5 * largest);
}

TEST_CASE("gptq: the codes of the algorithm as it is described") {
  ThreadPool pool(2);
  for (const auto& [k, group, n_inputs] : {std::tuple(64, 32, 300), {96, 32, 50}, {128, 64, 200}, {128, 128, 1000}}) {
    CAPTURE(k);
    CAPTURE(group);
    const int64_t n = 37;  // rows: a tile and a rest
    const std::vector<float> w = random_weights(n * k, 3), x = random_inputs(n_inputs, k, 4);
    Hessian h(k);
    h.add(x, pool);
    const Solved found = solve(w, h, group, pool);
    const Matrix damped = product(x, n_inputs, k, kGptqDamping);
    const Result expected = brute_force(w, damped, k, group);
    // A value in the middle of two codes, or two scales as good, may fall to either side: the row then goes another
    // way.
    int64_t same = 0;
    for (int64_t row = 0; row < n; ++row)
      same += std::equal(found.codes.begin() + row * k, found.codes.begin() + (row + 1) * k,
                         expected.codes.begin() + row * k);
    CHECK(same >= n - 2);
    CHECK(objective(w, found, damped, k) == doctest::Approx(objective(w, expected, damped, k)).epsilon(0.01));
    CHECK(found.loss == doctest::Approx(objective(w, found, damped, k)).epsilon(1e-3));
  }
}

TEST_CASE("gptq: outputs lose less than by rounding, weights more") {
  ThreadPool pool(2);
  const int64_t n = 64, k = 256, n_inputs = 2000;
  const std::vector<float> w = random_weights(n * k, 5), x = random_inputs(n_inputs, k, 6);
  Hessian h(k);
  h.add(x, pool);
  const Matrix exact = product(x, n_inputs, k);
  for (const int64_t group : {32, 64, 128}) {
    const Solved gptq = solve(w, h, group, pool);
    const Result rtn = rounded(w, k, group);
    CHECK(objective(w, gptq, exact, k) < 0.5 * objective(w, rtn, exact, k));
    double squared = 0, reference = 0, rounding = 0;
    float most = 0;
    for (size_t i = 0; i < w.size(); ++i) {
      const double e = double(w[i]) - gptq.values[i];
      squared += e * e;
      reference += double(w[i]) * double(w[i]);
      rounding += (double(w[i]) - rtn.values[i]) * (double(w[i]) - rtn.values[i]);
      most = std::max(most, std::fabs(float(e)));
    }
    CHECK(gptq.error.n == n * k);
    CHECK(gptq.error.squared == doctest::Approx(squared).epsilon(1e-5));
    CHECK(gptq.error.reference == doctest::Approx(reference).epsilon(1e-5));
    CHECK(gptq.error.max_error == doctest::Approx(most).epsilon(1e-5));
    CHECK(squared > rounding);
  }
}

TEST_CASE("gptq: inputs that do not depend on each other, columns without inputs, no inputs") {
  ThreadPool pool(2);
  const int64_t n = 40, k = 64, group = 32;
  std::vector<float> w = random_weights(n * k, 7);
  {  // a diagonal H: rounding
    std::vector<float> x(size_t(k * k));
    for (int64_t i = 0; i < k; ++i) x[size_t(i * k + i)] = 1 + float(i);
    Hessian h(k);
    h.add(x, pool);
    const Solved found = solve(w, h, group, pool);
    for (size_t i = 0; i < w.size(); ++i) {
      const float value = w[i] / found.scales[i / size_t(group)];
      CHECK(found.codes[i] == int(std::clamp(std::nearbyint(value), -8.0f, 7.0f)));
    }
  }
  {  // columns 3 and 40 see nothing: nothing goes to them, and they do as they would alone
    std::vector<float> x = random_inputs(500, k, 8);
    for (int64_t t = 0; t < 500; ++t) x[size_t(t * k + 3)] = x[size_t(t * k + 40)] = 0;
    Hessian h(k);
    h.add(x, pool);
    const Solved found = solve(w, h, group, pool);
    for (int64_t r = 0; r < n; ++r)
      for (const int64_t c : {3, 40}) {
        const float scale = found.scales[size_t(r * (k / group) + c / group)], value = w[size_t(r * k + c)];
        CHECK(found.codes[size_t(r * k + c)] == int(std::clamp(std::nearbyint(value / scale), -8.0f, 7.0f)));
      }
  }
  {  // a row of zeros
    std::fill(w.begin(), w.begin() + k, 0.0f);
    Hessian h(k);
    h.add(random_inputs(500, k, 9), pool);
    const Solved found = solve(w, h, group, pool);
    CHECK(std::all_of(found.codes.begin(), found.codes.begin() + k, [](int c) { return c == 0; }));
    CHECK(found.scales[0] == 1.0f);
  }
  Hessian nothing(k), zeros(k), broken(k);
  zeros.add(std::vector<float>(size_t(3 * k)), pool);
  broken.add(std::vector<float>(size_t(k), NAN), pool);
  for (const Hessian* h : {&nothing, &zeros, &broken}) CHECK_FALSE(GptqFactor::make(*h, pool));
}

TEST_CASE("gptq: the same codes whatever the threads") {
  ThreadPool one(1), three(3);
  const int64_t n = 64, k = 320;  // more than one block of the factor, the last one not whole
  const std::vector<float> w = random_weights(n * k, 10), x = random_inputs(700, k, 11);
  Hessian a(k), b(k);
  a.add(x, one);
  b.add(x, three);
  const Solved first = solve(w, a, 32, one), second = solve(w, b, 32, three);
  CHECK(first.codes == second.codes);
  CHECK(first.scales == second.scales);
  CHECK(first.loss == second.loss);
}
