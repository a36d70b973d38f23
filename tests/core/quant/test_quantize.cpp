#include "quant/quantize.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "quant/fp8.h"
#include "support/test.h"

using namespace l4;

namespace {

std::vector<float> random_row(int64_t n, uint32_t seed, float size = 0.02f) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, size);
  std::vector<float> row(static_cast<size_t>(n));
  for (float& w : row) w = round_bf16(normal(random));
  return row;
}

struct Fp8Row {
  std::vector<uint8_t> codes;
  BFloat16 scale{};
  QuantError error;
};
Fp8Row fp8(const std::vector<float>& row) {
  Fp8Row r;
  r.codes.resize(row.size());
  r.scale = quantize_fp8_row(row, r.codes, r.error);
  return r;
}

struct Int4Row {
  std::vector<uint32_t> words;
  std::vector<BFloat16> scales;
  QuantError error;
  int code(size_t i) const { return int(words[i / 8] >> (4 * (i % 8)) & 15) - 8; }
};
Int4Row int4(const std::vector<float>& row, int64_t group) {
  Int4Row r;
  r.words.resize(row.size() / 8);
  r.scales.resize(row.size() / size_t(group));
  quantize_int4_row(row, group, r.words, r.scales, r.error);
  return r;
}

// ---- the definitions again, in double, slowly ----------------------------------------------------------------------

int nearest_code(double w, double scale) {
  return int(std::clamp(std::nearbyint(w / scale), -8.0, 7.0));  // the default mode: ties to even
}
double squared_error(std::span<const float> group, double scale) {
  double sum = 0;
  for (const float w : group) {
    const double e = double(w) - nearest_code(double(w), scale) * scale;
    sum += e * e;
  }
  return sum;
}
// The searched scale's error: all candidates, then the one fitted to the best one's codes.
double searched_error(std::span<const float> group) {
  float most = 0;
  for (const float w : group) most = std::max(most, std::fabs(w));
  double best = 0, least = INFINITY;
  for (int d = 21; d <= 36; ++d) {
    const double scale = double(round_bf16(most * 3 / float(d)));
    if (const double e = squared_error(group, scale); e < least) least = e, best = scale;
  }
  double wq = 0, qq = 0;
  for (const float w : group) {
    const int q = nearest_code(double(w), best);
    wq += double(w) * q;
    qq += double(q) * q;
  }
  return std::min(least, squared_error(group, double(round_bf16(float(wq / qq)))));
}
// The least error that any BF16 scale of a wide range gives.
double least_error(std::span<const float> group) {
  float most = 0;
  for (const float w : group) most = std::max(most, std::fabs(w));
  double least = INFINITY;
  const uint16_t top = to_bf16(most / 4).bits;
  for (uint16_t below = 0; below < 400; ++below)
    least = std::min(least, squared_error(group, double(to_float(BFloat16{uint16_t(top - below)}))));
  return least;
}

double error_of_codes(const std::vector<float>& row, const Int4Row& r, int64_t group) {
  double sum = 0;
  for (size_t i = 0; i < row.size(); ++i) {
    const double e = double(row[i]) - r.code(i) * double(to_float(r.scales[i / size_t(group)]));
    sum += e * e;
  }
  return sum;
}

}  // namespace

TEST_CASE("quantize: an FP8 row is its definition, at any length") {
  for (const int64_t n : {1, 7, 16, 17, 40, 5120}) {
    const std::vector<float> row = random_row(n, uint32_t(n));
    const Fp8Row r = fp8(row);
    float most = 0;
    double squared = 0, reference = 0, largest = 0;
    for (const float w : row) most = std::max(most, std::fabs(w));
    const float scale = round_bf16(most / 448);
    CHECK(to_float(r.scale) == scale);
    for (size_t i = 0; i < row.size(); ++i) {
      CHECK(r.codes[i] == fp8_from_float(row[i] / scale));
      const double e = double(row[i]) - double(fp8_to_float(r.codes[i])) * double(scale);
      squared += e * e;
      reference += double(row[i]) * double(row[i]);
      largest = std::max(largest, std::fabs(e));
    }
    CHECK(r.error.n == n);
    CHECK(r.error.max_weight == most);
    CHECK(r.error.squared == doctest::Approx(squared).epsilon(1e-5));
    CHECK(r.error.reference == doctest::Approx(reference).epsilon(1e-5));
    CHECK(double(r.error.max_error) == doctest::Approx(largest).epsilon(1e-5));
  }
}

TEST_CASE("quantize: every float that FP8 tells apart, in all lanes at once") {
  std::vector<float> row = {448};  // the scale is 1
  for (int code = 0; code < 0x7E; ++code) {
    const float a = fp8_to_float(uint8_t(code)), b = fp8_to_float(uint8_t(code + 1)), middle = (a + b) / 2;
    for (const float w : {a, middle, std::nextafter(middle, 0.0f), std::nextafter(middle, 1e9f)})
      for (const float sign : {1.0f, -1.0f}) row.push_back(sign * w);
  }
  const Fp8Row r = fp8(row);
  CHECK(to_float(r.scale) == 1);
  for (size_t i = 0; i < row.size(); ++i) CHECK(r.codes[i] == fp8_from_float(row[i]));
}

TEST_CASE("quantize: FP8 rows at the edges") {
  const Fp8Row zeros = fp8(std::vector<float>(20, 0.0f));
  CHECK(to_float(zeros.scale) == 1);
  CHECK(zeros.codes == std::vector<uint8_t>(20, 0));
  CHECK(zeros.error.relative() == 0);
  CHECK(fp8({-0.0f}).codes[0] == 0x80);

  // amax / 448 is rounded down: the largest weight would be beyond 448 and becomes 448.
  std::vector<float> row(16, 0.001f);
  row[3] = -float(448 * 1.0039);  // 1.0039 -> 1 in BF16
  const Fp8Row clipped = fp8(row);
  CHECK(to_float(clipped.scale) == 1);
  CHECK(clipped.codes[3] == 0xFE);
  CHECK(clipped.error.max_error == doctest::Approx(1.747).epsilon(0.01));

  const Fp8Row tiny = fp8(std::vector<float>(16, 1e-40f));  // its scale would be zero
  CHECK(to_float(tiny.scale) == 0x1p-126f);
  CHECK(tiny.error.max_weight > 0);
  const Fp8Row huge = fp8({3e38f, -1e38f, 1.0f});
  CHECK(fp8_to_float(huge.codes[0]) * to_float(huge.scale) == doctest::Approx(3e38).epsilon(0.04));
  CHECK(huge.codes[2] == 0);
}

TEST_CASE("quantize: INT4 takes the scale that its definition takes") {
  for (const int64_t group : {32, 64, 128})
    for (uint32_t seed = 0; seed < 20; ++seed) {
      const std::vector<float> row = random_row(4 * group, seed);
      const Int4Row r = int4(row, group);
      double searched = 0, least = 0;
      for (int64_t g = 0; g < 4; ++g) {
        const std::span<const float> part(row.data() + g * group, size_t(group));
        const double scale = double(to_float(r.scales[size_t(g)]));
        for (size_t i = 0; i < part.size(); ++i)
          CHECK(r.code(size_t(g * group) + i) == nearest_code(double(part[i]), scale));
        searched += searched_error(part);
        least += least_error(part);
      }
      const double found = error_of_codes(row, r, group);
      CHECK(found == doctest::Approx(searched).epsilon(1e-5));
      CHECK(found < least * 1.06);  // and hardly any scale is better
      CHECK(r.error.squared == doctest::Approx(found).epsilon(1e-5));
      CHECK(r.error.n == 4 * group);
    }
}

TEST_CASE("quantize: INT4 is better than any one divisor") {
  const std::vector<float> row = random_row(128 * 64, 5);
  for (const int64_t group : {32, 128}) {
    const double found = error_of_codes(row, int4(row, group), group);
    for (const double d : {7.0, 7.5, 8.0}) {
      double plain = 0;
      for (size_t g = 0; g < row.size() / size_t(group); ++g) {
        const std::span<const float> part(row.data() + g * size_t(group), size_t(group));
        float most = 0;
        for (const float w : part) most = std::max(most, std::fabs(w));
        plain += squared_error(part, double(round_bf16(float(double(most) / d))));
      }
      CHECK(found < 0.92 * plain);
    }
  }
}

TEST_CASE("quantize: INT4 groups at the edges") {
  const Int4Row zeros = int4(std::vector<float>(64, 0.0f), 32);
  for (const BFloat16 scale : zeros.scales) CHECK(to_float(scale) == 1);
  for (const uint32_t word : zeros.words) CHECK(word == 0x88888888);
  CHECK(zeros.error.squared == 0);

  // One huge value among small ones is kept, the others vanish.
  std::vector<float> row(32, 0.01f);
  row[5] = 1000;
  const Int4Row huge = int4(row, 32);
  CHECK(huge.code(5) * to_float(huge.scales[0]) == doctest::Approx(1000).epsilon(0.004));
  for (size_t i = 0; i < 32; ++i)
    if (i != 5) CHECK(huge.code(i) == 0);

  // -8 is there for what is negative: sixteenths of it are exact.
  for (size_t i = 0; i < 32; ++i) row[i] = -float(i % 9) * 0.5f;
  const Int4Row negative = int4(row, 32);
  CHECK(to_float(negative.scales[0]) == 0.5f);
  CHECK(negative.error.squared == 0);
  for (size_t i = 0; i < 32; ++i) CHECK(negative.code(i) == -int(i % 9));

  // Packed with the first code in the lowest bits.
  for (size_t i = 0; i < 32; ++i) row[i] = float(int(i % 16) - 8);
  const Int4Row counting = int4(row, 32);
  CHECK(counting.words[0] == 0x76543210);
  CHECK(counting.words[1] == 0xFEDCBA98);

  const Int4Row tiny = int4(std::vector<float>(32, -1e-40f), 32);
  CHECK(to_float(tiny.scales[0]) == 0x1p-126f);
  const Int4Row large = int4(std::vector<float>(32, 1e30f), 32);  // squares are infinite
  CHECK(large.code(0) * to_float(large.scales[0]) == doctest::Approx(1e30).epsilon(0.01));
  CHECK_THROWS(int4(std::vector<float>(40, 1.0f), 40));
  CHECK_THROWS(int4(std::vector<float>(48, 1.0f), 32));
}

TEST_CASE("quantize: what is not finite is found") {
  for (const size_t n : {5, 16, 100}) {
    std::vector<float> row(n, 1.0f);
    CHECK(find_not_finite(row) == -1);
    for (const size_t at : {size_t(0), n / 2, n - 1})
      for (const float bad : {INFINITY, -INFINITY, NAN}) {
        row[at] = bad;
        CHECK(find_not_finite(row) == int64_t(at));
        row[at] = 3e38f;
        CHECK(find_not_finite(row) == -1);
      }
  }
}

TEST_CASE("quantize: stored weights become floats, aligned or not") {
  std::vector<std::byte> bytes(9);
  const uint16_t halves[] = {0x3C00, 0xC500, 0x0001, 0xFBFF};  // F16: 1, -5, 2^-24, -65504
  std::memcpy(bytes.data() + 1, halves, sizeof halves);
  std::vector<float> floats(4);
  weights_to_float(bytes.data() + 1, DType::f16, floats);
  CHECK(floats == std::vector<float>{1, -5, 0x1p-24f, -65504});
  weights_to_float(bytes.data() + 1, DType::bf16, floats);
  for (size_t i = 0; i < 4; ++i) CHECK(floats[i] == to_float(BFloat16{halves[i]}));
  floats.resize(2);
  weights_to_float(bytes.data() + 1, DType::f32, floats);
  CHECK(std::memcmp(floats.data(), halves, sizeof halves) == 0);
  CHECK_THROWS(weights_to_float(bytes.data(), DType::i64, floats));
}

TEST_CASE("quantize: errors add up") {
  QuantError a, b;
  a.n = 2, a.squared = 1, a.reference = 8, a.max_error = 1, a.max_weight = 3;
  b.n = 6, b.squared = 1, b.reference = 24, b.max_error = 0.5f, b.max_weight = 4;
  a.add(b);
  CHECK(a.mean_squared() == 0.25);
  CHECK(a.relative() == 0.25);
  CHECK(a.max_error == 1);
  CHECK(a.max_weight == 4);
  CHECK(QuantError().mean_squared() == 0);
}
