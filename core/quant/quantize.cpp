#include "quant/quantize.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "quant/format.h"
#include "quant/fp8.h"
#include "quant/wide.h"

namespace l4 {

namespace {

using Words = uint32_t __attribute__((vector_size(64)));
using Ints = int32_t __attribute__((vector_size(64)));

constexpr float kSmallestScale = 0x1p-126f;
constexpr float kRound = 0x1.8p23f;  // added and taken away again: to nearest integer, ties to even
constexpr int32_t kRoundBits = std::bit_cast<int32_t>(kRound);  // an integer is added to the bits as it is

double sum(const float* lanes) {
  double four[4] = {};
  for (int i = 0; i < kLanes; ++i) four[i % 4] += double(lanes[i]);
  return (four[0] + four[1]) + (four[2] + four[3]);
}

BFloat16 stored_scale(float scale) {
  return to_bf16(std::max(scale, kSmallestScale));
}

// n is a multiple of kLanes in all of these.

L4_WIDE uint32_t largest_magnitude(const float* w, int64_t n) {  // as bits: not finite ones are the largest
  Words most = {};
  for (int64_t i = 0; i < n; i += kLanes) {
    Words bits;
    std::memcpy(&bits, w + i, sizeof bits);
    bits &= 0x7FFFFFFFu;
    most = bits > most ? bits : most;
  }
  uint32_t result = 0;
  for (int i = 0; i < kLanes; ++i) result = std::max(result, uint32_t(most[i]));
  return result;
}

struct Sums {
  float squared[kLanes], reference[kLanes], most[kLanes];
};

L4_WIDE void fp8_codes(const float* w, int64_t n, float scale, uint8_t* codes, Sums& sums) {
  Floats squared = {}, reference = {}, most = {};
  for (int64_t i = 0; i < n; i += kLanes) {
    Floats x;
    std::memcpy(&x, w + i, sizeof x);
    const Floats y = x / scale;
    Words bits, normal, small, value;
    std::memcpy(&bits, &y, sizeof bits);
    const Words sign = bits & 0x80000000u, magnitude = bits ^ sign;
    // fp8_from_float() without its branches, and the float that the code stands for.
    normal = (magnitude + 0x7FFFFu + (magnitude >> 20 & 1u)) & 0xFFF00000u;
    Floats steps;
    std::memcpy(&steps, &magnitude, sizeof steps);
    steps = steps * 0x1p9f + 0x1p23f;
    std::memcpy(&small, &steps, sizeof small);
    Floats subnormal = (steps - 0x1p23f) * 0x1p-9f;
    Words subnormal_bits;
    std::memcpy(&subnormal_bits, &subnormal, sizeof subnormal_bits);
    const auto is_small = magnitude < 0x3C800000u, is_large = magnitude >= 0x43E00000u;
    Words code = is_small ? small & 0x7Fu : (normal >> 20) - (120u << 3);
    value = is_small ? subnormal_bits : normal;
    code = is_large ? (Words{} + 0x7Eu) : code;
    value = (is_large ? (Words{} + 0x43E00000u) : value) | sign;
    code |= sign >> 24;
    for (int j = 0; j < kLanes; ++j) codes[i + j] = uint8_t(code[j]);
    Floats v;
    std::memcpy(&v, &value, sizeof v);
    const Floats error = x - v * scale, size = error < 0.0f ? -error : error;
    squared += error * error;
    reference += x * x;
    most = size > most ? size : most;
  }
  std::memcpy(sums.squared, &squared, sizeof squared);
  std::memcpy(sums.reference, &reference, sizeof reference);
  std::memcpy(sums.most, &most, sizeof most);
}

// The sums of squared errors of a group, each times its importance, with sixteen scales at once. Multiplies by 1 /
// scale, which is quicker and may take the other of two codes that are as good.
L4_WIDE void int4_errors(const float* w, const float* importance, int64_t n, const float* scales, float* sums) {
  Floats scale, squared = {};
  std::memcpy(&scale, scales, sizeof scale);
  const Floats inverse = 1.0f / scale;
  for (int64_t i = 0; i < n; ++i) {
    Floats y = w[i] * inverse + kRound;
    Ints code;
    std::memcpy(&code, &y, sizeof code);
    code = code < kRoundBits - 8 ? Ints{} + (kRoundBits - 8) : code;
    code = code > kRoundBits + 7 ? Ints{} + (kRoundBits + 7) : code;
    std::memcpy(&y, &code, sizeof y);
    const Floats error = w[i] - (y - kRound) * scale;
    squared += error * error * importance[i];
  }
  std::memcpy(sums, &squared, sizeof squared);
}

struct Int4Sums : Sums {
  float wq[kLanes], qq[kLanes];
};

// Codes + 8.
L4_WIDE void int4_codes(const float* w, int64_t n, float scale, uint32_t* codes, Int4Sums& sums) {
  Floats squared = {}, reference = {}, most = {}, wq = {}, qq = {};
  for (int64_t i = 0; i < n; i += kLanes) {
    Floats x;
    std::memcpy(&x, w + i, sizeof x);
    Floats y = x / scale + kRound;
    Ints code;
    std::memcpy(&code, &y, sizeof code);
    code = code < kRoundBits - 8 ? Ints{} + (kRoundBits - 8) : code;
    code = code > kRoundBits + 7 ? Ints{} + (kRoundBits + 7) : code;
    std::memcpy(&y, &code, sizeof y);
    y -= kRound;
    code -= kRoundBits - 8;
    std::memcpy(codes + i, &code, sizeof code);
    const Floats error = x - y * scale, size = error < 0.0f ? -error : error;
    squared += error * error;
    reference += x * x;
    most = size > most ? size : most;
    wq += x * y;
    qq += y * y;
  }
  std::memcpy(sums.squared, &squared, sizeof squared);
  std::memcpy(sums.reference, &reference, sizeof reference);
  std::memcpy(sums.most, &most, sizeof most);
  std::memcpy(sums.wq, &wq, sizeof wq);
  std::memcpy(sums.qq, &qq, sizeof qq);
}

void add_sums(const Sums& sums, int64_t n, float max_weight, QuantError& error) {
  QuantError part;
  part.n = n;
  part.squared = sum(sums.squared);
  part.reference = sum(sums.reference);
  part.max_error = *std::max_element(sums.most, sums.most + kLanes);
  part.max_weight = max_weight;
  error.add(part);
}

// The candidate with the least error for a group whose largest magnitude is `most`, > 0; see the head of quantize.h.
float best_candidate(const float* w, const float* importance, int64_t n, float most, float* least = nullptr) {
  float scales[kLanes], errors[kLanes];
  for (int i = 0; i < kLanes; ++i) scales[i] = to_float(stored_scale(most * 3 / float(21 + i)));
  int4_errors(w, importance, n, scales, errors);
  const auto best = std::min_element(errors, errors + kLanes) - errors;
  if (least) *least = errors[best];
  return scales[best];
}

void check_group(int64_t group, int64_t n) {
  L4_CHECK(group > 0 && group <= kMaxInt4Group && group % kLanes == 0 && n % group == 0, "groups of ", group, " of ", n,
           " columns");
}

}  // namespace

void QuantError::add(const QuantError& other) {
  n += other.n;
  squared += other.squared;
  reference += other.reference;
  max_error = std::max(max_error, other.max_error);
  max_weight = std::max(max_weight, other.max_weight);
}

double QuantError::mean_squared() const {
  return n > 0 ? squared / double(n) : 0;
}

double QuantError::relative() const {
  return reference > 0 ? std::sqrt(squared / reference) : 0;
}

int64_t find_not_finite(std::span<const float> row) {
  const int64_t n = int64_t(row.size()), whole = n / kLanes * kLanes;
  if (largest_magnitude(row.data(), whole) < 0x7F800000u &&
      std::all_of(row.begin() + whole, row.end(), [](float w) { return std::isfinite(w); }))
    return -1;
  return std::find_if(row.begin(), row.end(), [](float w) { return !std::isfinite(w); }) - row.begin();
}

BFloat16 quantize_fp8_row(std::span<const float> row, std::span<uint8_t> codes, QuantError& error) {
  L4_CHECK(codes.size() == row.size());
  const int64_t n = int64_t(row.size()), whole = n / kLanes * kLanes, rest = n - whole;
  // What does not fill the lanes is done apart, with zeros behind it.
  float tail[kLanes] = {};
  uint8_t tail_codes[kLanes];
  std::copy(row.begin() + whole, row.end(), tail);
  const float most = std::bit_cast<float>(
      std::max(largest_magnitude(row.data(), whole), largest_magnitude(tail, rest > 0 ? kLanes : 0)));
  const BFloat16 scale = most > 0 ? stored_scale(most / kFp8Max) : to_bf16(1.0f);
  Sums sums;
  fp8_codes(row.data(), whole, to_float(scale), codes.data(), sums);
  add_sums(sums, whole, most, error);
  if (rest > 0) {
    fp8_codes(tail, kLanes, to_float(scale), tail_codes, sums);
    add_sums(sums, rest, most, error);
    std::copy(tail_codes, tail_codes + rest, codes.begin() + whole);
  }
  return scale;
}

void quantize_int4_row(std::span<const float> row, int64_t group, std::span<uint32_t> words, std::span<BFloat16> scales,
                       QuantError& error) {
  const int64_t n = int64_t(row.size());
  check_group(group, n);
  L4_CHECK(int64_t(words.size()) * 8 == n && int64_t(scales.size()) * group == n);
  Int4Sums sums, again;
  uint32_t codes[kMaxInt4Group], other_codes[kMaxInt4Group];
  float alike[kMaxInt4Group];
  std::fill(alike, alike + group, 1.0f);
  for (int64_t g = 0; g < n / group; ++g) {
    const float* w = row.data() + g * group;
    const float most = std::bit_cast<float>(largest_magnitude(w, group));
    float scale = most > 0 ? best_candidate(w, alike, group, most) : 1.0f;
    int4_codes(w, group, scale, codes, sums);
    const uint32_t* best = codes;
    if (const double wq = sum(sums.wq), qq = sum(sums.qq); wq > 0) {
      const float fitted = to_float(stored_scale(float(wq / qq)));
      int4_codes(w, group, fitted, other_codes, again);
      if (sum(again.squared) < sum(sums.squared)) scale = fitted, best = other_codes, sums = again;
    }
    add_sums(sums, group, most, error);
    scales[size_t(g)] = to_bf16(scale);
    pack_int4({best, size_t(group)}, words.subspan(size_t(g * group / 8)));
  }
}

BFloat16 search_int4_scale(std::span<const float> weights, std::span<const float> importance) {
  const int64_t n = int64_t(weights.size());
  check_group(n, n);
  L4_CHECK(importance.size() == weights.size());
  const float* w = weights.data();
  const float most = std::bit_cast<float>(largest_magnitude(w, n));
  if (!(most > 0)) return to_bf16(1.0f);
  float least;
  const float scale = best_candidate(w, importance.data(), n, most, &least);
  double wq = 0, qq = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double code = std::clamp(std::nearbyint(double(w[i]) / double(scale)), -8.0, 7.0);
    wq += double(importance[size_t(i)]) * double(w[i]) * code;
    qq += double(importance[size_t(i)]) * code * code;
  }
  if (!(wq > 0)) return to_bf16(scale);
  float fitted[kLanes], errors[kLanes];
  std::fill(fitted, fitted + kLanes, to_float(stored_scale(float(wq / qq))));
  int4_errors(w, importance.data(), n, fitted, errors);
  return to_bf16(errors[0] < least ? fitted[0] : scale);
}

void pack_int4(std::span<const uint32_t> codes, std::span<uint32_t> words) {
  for (size_t i = 0; i < codes.size(); i += 8) {
    uint32_t word = 0;
    for (size_t j = 0; j < 8; ++j) word |= codes[i + j] << (4 * j);
    words[i / 8] = word;
  }
}

void weights_to_float(const std::byte* from, DType dtype, std::span<float> to) {
  static const std::vector<float> half = [] {  // f16_to_float() is for a value now and then
    std::vector<float> table(1 << 16);
    for (size_t bits = 0; bits < table.size(); ++bits) table[bits] = f16_to_float(uint16_t(bits));
    return table;
  }();
  const auto bits = [&](size_t i) {
    uint16_t value;
    std::memcpy(&value, from + 2 * i, sizeof value);
    return value;
  };
  switch (dtype) {
    case DType::f32:
      std::memcpy(to.data(), from, to.size_bytes());
      return;
    case DType::bf16:
      for (size_t i = 0; i < to.size(); ++i) to[i] = to_float(BFloat16{bits(i)});
      return;
    case DType::f16:
      for (size_t i = 0; i < to.size(); ++i) to[i] = half[bits(i)];
      return;
    default:
      L4_CHECK(false, dtype_name(dtype), " is no type of unquantised weights");
  }
}

}  // namespace l4
