// FP8 and INT4 weights for tests: a stored tensor that is wider than what is taken of it, as a rank's part is, the
// slices that take it, and what they mean in doubles. For any backend's pack().
#pragma once

#include "kernels/cpu/op_testing.h"
#include "quant/fp8.h"

namespace l4::test {

// How the slices cut a weight, and how its scales are stored.
struct Cut {
  bool rows = false;       // gate and up (or any two halves) are slices of their own
  bool columns = false;    // so are two pieces of k
  bool one_scale = false;  // for all rows (and groups) of an expert: strides of 0
  DType scale = DType::bf16;
};

struct QuantizedWeights {
  LinearSpec spec;
  Cut cut;
  int64_t stored_k = 0, groups = 1;
  std::vector<uint8_t> codes;            // fp8: [E, n, stored_k]
  std::vector<uint32_t> words;           // int4: [E, n, stored_k / 8]
  Values scale, b;                       // [E, n, groups], [E, n]
  static constexpr int64_t kMargin = 8;  // columns of the stored tensor before the first that is taken

  QuantizedWeights(Numbers& numbers, const LinearSpec& s, const Cut& c = {}) : spec(s), cut(c) {
    stored_k = (spec.k + 7) / 8 * 8 + 2 * kMargin;
    const size_t stored = size_t(spec.n_experts * spec.n * stored_k);
    if (int4()) {
      groups = spec.k / spec.group;
      for (size_t i = 0; i < stored / 8; ++i) words.push_back(uint32_t(numbers.below(int64_t(1) << 32)));
    } else {
      for (size_t i = 0; i < stored; ++i) codes.push_back(fp8_from_float(float(numbers.uniform(-448, 448))));
    }
    scale = numbers.tensor(cut.scale, {spec.n_experts, spec.n, groups}, -0.01, 0.01);  // negative ones too
    if (spec.bias) b = numbers.tensor(DType::bf16, {spec.n_experts, spec.n});
  }

  bool int4() const { return spec.format == WeightFormat::int4; }
  double code_at(int64_t e, int64_t n, int64_t k) const {
    const size_t at = size_t((e * spec.n + n) * stored_k + k + kMargin);
    return int4() ? double(words[at / 8] >> 4 * (at % 8) & 15) - 8 : double(fp8_to_float(codes[at]));
  }
  double scale_at(int64_t e, int64_t n, int64_t g) const {
    const double stored = scale.at(cut.one_scale ? e * spec.n * groups : (e * spec.n + n) * groups + g);
    return int4() ? round_as(DType::bf16, stored) : stored;
  }
  double at(int64_t e, int64_t n, int64_t k) const {
    return code_at(e, n, k) * scale_at(e, n, int4() ? k / spec.group : 0);
  }

  std::vector<WeightSlice> weight_slices() const {
    std::vector<WeightSlice> slices;
    for (int64_t e = 0; e < spec.n_experts; ++e)
      for (auto [n0, n1] : halves(spec.n, cut.rows, 1))
        for (auto [k0, k1] : halves(spec.k, cut.columns, 8)) {  // codes of a word stay together
          const size_t at = size_t((e * spec.n + n0) * stored_k + k0 + kMargin);
          WeightSlice s{.n = n1 - n0, .k = k1 - k0, .k_stride = 1, .expert = e, .n_offset = n0, .k_offset = k0};
          s.data = int4() ? static_cast<const void*>(&words[at / 8]) : &codes[at];
          s.dtype = int4() ? DType::i32 : DType::f8_e4m3;
          s.n_stride = int4() ? stored_k / 8 : stored_k;
          slices.push_back(s);
        }
    return slices;
  }
  std::vector<WeightSlice> scale_slices() const {
    std::vector<WeightSlice> slices;
    for (int64_t e = 0; e < spec.n_experts; ++e)
      for (auto [n0, n1] : halves(spec.n, cut.rows, 1))
        for (auto [g0, g1] : halves(groups, cut.columns, 1)) {
          const int64_t at = cut.one_scale ? e * spec.n * groups : (e * spec.n + n0) * groups + g0;
          slices.push_back({scale.storage.data() + size_t(at) * dtype_bytes(cut.scale), cut.scale, n1 - n0, g1 - g0,
                            cut.one_scale ? 0 : groups, cut.one_scale ? 0 : 1, e, n0, g0});
        }
    return slices;
  }
  std::vector<WeightSlice> bias_slices() const {
    std::vector<WeightSlice> slices;
    for (int64_t e = 0; spec.bias && e < spec.n_experts; ++e)
      slices.push_back({b.storage.data() + size_t(e * spec.n) * 2, DType::bf16, spec.n, 1, 1, 1, e, 0, 0});
    return slices;
  }
  PackedWeight packed(ThreadPool& pool) const {
    return cpu::pack_weight(pool, spec, weight_slices(), bias_slices(), scale_slices());
  }

  // What a row of k inputs of type `a` is multiplied by the weights as; x_scale is the router's score.
  Doubles input(const Values& x, int64_t row, DType a, float x_scale = 1) const {
    Doubles out(static_cast<size_t>(spec.k));
    float largest = 0;
    for (int64_t k = 0; k < spec.k; ++k) largest = std::max(largest, float(std::abs(x.at(row * spec.k + k))));
    float s = largest == 0 ? 1 : largest / 448;
    if (spec.input == InputFormat::fp8_static) s = spec.input_scale;
    for (int64_t k = 0; k < spec.k; ++k) {
      const float value = float(x.at(row * spec.k + k));
      out[size_t(k)] = spec.input == InputFormat::as_is
                           ? round_as(a, double(value * x_scale))
                           : double(fp8_to_float(fp8_from_float(value / s))) * double(s) * double(x_scale);
    }
    return out;
  }
  // One output and the sum of the sizes of its terms.
  std::pair<double, double> output(int64_t e, int64_t n, const Doubles& x) const {
    double sum = spec.bias ? b.at(e * spec.n + n) : 0, size = std::abs(sum);
    for (int64_t k = 0; k < spec.k; ++k) {
      const double term = x[size_t(k)] * at(e, n, k);
      sum += term;
      size += std::abs(term);
    }
    return {sum, size};
  }

 private:
  // [0, n), or two parts that meet at a multiple of `unit`, the second one first.
  static std::vector<std::pair<int64_t, int64_t>> halves(int64_t n, bool apart, int64_t unit) {
    const int64_t middle = n / 2 / unit * unit;
    if (!apart || middle == 0) return {{0, n}};
    return {{middle, n}, {0, middle}};
  }
};

// ---- the table of shapes

struct QuantizedCase {
  const char* what;
  int64_t m, n, k, group;  // group 0: fp8
  Cut cut = {};
  int64_t n_experts = 1;
  bool gated = false, bias = false;
};
inline const QuantizedCase kQuantizedCases[] = {
    // Rows of one, odd, both sides of the CPU's register tile (12) and chunk (240); n on both sides of its panels (32) and
    // of scale tiles (16); k below, at and beyond its chain of codes (128), and with 256 columns whose words are transposed.
    {"fp8, one element", 1, 1, 1, 0},
    {"fp8, one row, four panels", 1, 128, 128, 0, {.scale = DType::f32}},
    {"fp8, one row, a part of a panel, odd k", 1, 161, 301, 0, {}, 1, false, true},
    {"fp8, two rows", 2, 70, 96, 0},
    {"fp8, odd rows", 13, 33, 520, 0, {.scale = DType::f32}, 1, false, true},
    {"fp8, many rows", 241, 40, 72, 0},
    {"fp8, gate and up", 5, 66, 200, 0, {.rows = true}, 1, true},
    {"fp8, pieces of k", 7, 48, 264, 0, {.columns = true}},
    {"fp8, one scale for all", 3, 100, 136, 0, {.rows = true, .columns = true, .one_scale = true, .scale = DType::f32}},
    {"fp8, experts, gate and up", 9, 40, 130, 0, {.rows = true, .columns = true}, 3, true, true},
    {"int4, one group", 1, 32, 32, 32},
    {"int4, one group, a part of a panel", 3, 7, 128, 128, {.scale = DType::f32}},
    {"int4, one row, four panels", 1, 130, 384, 128, {}, 1, false, true},
    {"int4, small groups, odd rows", 13, 33, 160, 32, {.scale = DType::f32}},
    {"int4, many rows", 241, 40, 192, 64},
    {"int4, gate and up", 5, 66, 256, 64, {.rows = true}, 1, true, true},
    {"int4, pieces of k at an edge of groups", 7, 48, 256, 128, {.columns = true}},
    {"int4, pieces of k inside a group", 2, 48, 96, 32, {.columns = true}},
    {"int4, groups longer than a chain", 4, 35, 640, 320},
    {"int4, one scale for all", 3, 100, 256, 64, {.rows = true, .columns = true, .one_scale = true}},
    {"int4, twice 256 columns, gate and up", 2, 48, 512, 128, {.columns = true}, 1, true},
    {"int4, experts, gate and up", 9, 40, 128, 32, {.rows = true, .columns = true}, 3, true, true},
};

inline LinearSpec spec_of(const QuantizedCase& c, InputFormat input) {
  return {.name = c.what,
          .n = c.n,
          .k = c.k,
          .n_experts = c.n_experts,
          .gated = c.gated,
          .bias = c.bias,
          .format = c.group ? WeightFormat::int4 : WeightFormat::fp8,
          .group = c.group,
          .input = input,
          .input_scale = 0.002f};
}
constexpr InputFormat kInputFormats[] = {InputFormat::as_is, InputFormat::fp8_token, InputFormat::fp8_static};

inline bool says(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// What every backend refuses. refusal(weights): what packing them says, or "accepted".
template <class Refusal>
void check_nan_codes_are_refused(const Refusal& refusal) {
  for (int nan : {0x7F, 0xFF}) {
    Numbers numbers(1);
    QuantizedWeights w(numbers, spec_of({"qkv", 1, 40, 16, 0}, InputFormat::as_is));
    w.codes[size_t(9 * w.stored_k + 3 + w.kMargin)] = uint8_t(nan);
    CHECK(says(refusal(w), "qkv: the weight of row 9, column 3 is NaN"));
    w.codes[size_t(9 * w.stored_k + 3 + w.kMargin)] = uint8_t(nan - 1);  // the largest
    w.codes[0] = uint8_t(nan);                                           // not ours
    CHECK(refusal(w) == "accepted");
  }
}

// error(spec, weight slices, scale slices): what packing them says.
template <class ErrorOf>
void check_wrong_slices_are_refused(const ErrorOf& error) {
  Numbers numbers(1);
  const QuantizedWeights fp8(numbers, spec_of({"a", 1, 8, 64, 0}, InputFormat::as_is));
  const QuantizedWeights int4(numbers, spec_of({"b", 1, 8, 64, 32}, InputFormat::as_is));
  CHECK(says(error(int4.spec, int4.weight_slices(), {}), "b: scale slices have 0 elements, wanted 16"));
  CHECK(says(error(fp8.spec, fp8.weight_slices(), {}), "a: a weight slice is F8_E4M3"));
  CHECK(says(error(fp8.spec, int4.weight_slices(), fp8.scale_slices()), "a: a weight slice is I32"));
  CHECK(says(error(int4.spec, int4.weight_slices(), fp8.scale_slices()), "b: scale slices have 8 elements, wanted 16"));
  LinearSpec wrong = int4.spec;
  wrong.group = 48;
  CHECK(says(error(wrong, int4.weight_slices(), int4.scale_slices()), "b: groups of 48 of 64 columns"));
  wrong = fp8.spec;
  wrong.format = WeightFormat::bf16;
  CHECK(says(error(wrong, fp8.weight_slices(), fp8.scale_slices()), "a: scales where none were announced"));
}

}  // namespace l4::test
