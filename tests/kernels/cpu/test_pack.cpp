#include "kernels/cpu/op_testing.h"

using namespace l4;
using namespace l4::test;

namespace {
// Element (e, n, k) of a packed weight, read where the layout says it is.
double packed_at(const PackedWeight& w, int64_t e, int64_t n, int64_t k) {
  const int64_t panels = (w.spec.n + 31) / 32, column = n % 32;
  const int64_t row = ((e * panels + n / 32) * w.spec.k + k) * 32;
  if (w.spec.format == WeightFormat::f32) return double(static_cast<const float*>(w.data.data())[row + column]);
  const int64_t at = column < 16 ? 2 * column : 2 * (column - 16) + 1;
  return double(to_float(static_cast<const BFloat16*>(w.data.data())[row + at]));
}
uint16_t half_bits(int64_t i) {  // halves of small integers and fractions, all exact in bfloat16
  static const uint16_t kBits[] = {0x0000, 0x3C00, 0xBC00, 0x3800, 0x4000, 0xC400, 0x3555 & 0xFFF8};
  return kBits[size_t(i) % 7];
}
}  // namespace

TEST_CASE("cpu pack: slices with any strides, offsets and types end up in their place") {
  ThreadPool pool(3);
  Numbers numbers(1);
  struct Case {
    int64_t e, n, k;
  };
  for (const Case& c : {Case{1, 1, 1}, Case{1, 32, 128}, Case{2, 33, 129}, Case{3, 70, 40}, Case{1, 200, 3}})
    for (DType stored : {DType::f32, DType::bf16})
      for (WeightFormat format : {WeightFormat::f32, WeightFormat::bf16})
        for (bool transposed : {false, true}) {
          INFO(cat(c.e, " ", c.n, " ", c.k, " ", dtype_name(stored), " ", weight_format_name(format), " ", transposed));
          // The checkpoint's tensor is wider than what is taken of it, as with a rank's part.
          const int64_t rows = c.n + 5, columns = c.k + 3;
          Values t = numbers.tensor(stored, transposed ? Shape{c.e, columns, rows} : Shape{c.e, rows, columns});
          auto element = [&](int64_t e, int64_t n, int64_t k) {
            return e * rows * columns + (transposed ? (k + 1) * rows + n + 2 : (n + 2) * columns + k + 1);
          };
          std::vector<WeightSlice> slices;
          for (int64_t e = 0; e < c.e; ++e) {
            // Cut into four rectangles at a place that is no edge of a panel, in an odd order.
            const int64_t n_cut = c.n * 2 / 3, k_cut = c.k / 3;
            for (auto [n0, n1] : {std::pair{n_cut, c.n}, std::pair{int64_t(0), n_cut}})
              for (auto [k0, k1] : {std::pair{int64_t(0), k_cut}, std::pair{k_cut, c.k}})
                slices.push_back({t.storage.data() + size_t(element(e, n0, k0)) * dtype_bytes(stored), stored, n1 - n0,
                                  k1 - k0, transposed ? 1 : columns, transposed ? rows : 1, e, n0, k0});
          }
          LinearSpec spec{.name = "w", .n = c.n, .k = c.k, .n_experts = c.e, .format = format};
          PackedWeight w = cpu::pack_weight(pool, spec, slices, {});
          CHECK(w.bytes() == cpu::packed_weight_bytes(spec));
          int64_t wrong = 0;
          for (int64_t e = 0; e < c.e; ++e)
            for (int64_t n = 0; n < (c.n + 31) / 32 * 32; ++n)
              for (int64_t k = 0; k < c.k; ++k) {
                double want = n < c.n ? t.at(element(e, n, k)) : 0;  // padding is zero
                if (format == WeightFormat::bf16) want = round_as(DType::bf16, want);
                wrong += packed_at(w, e, n, k) != want;
              }
          CHECK(wrong == 0);
        }
}

TEST_CASE("cpu pack: half precision becomes float32 or bfloat16; bias from any type") {
  ThreadPool pool(1);
  std::vector<uint16_t> half(3 * 40);
  for (size_t i = 0; i < half.size(); ++i) half[i] = half_bits(int64_t(i));
  std::vector<uint16_t> bias = {half_bits(1), half_bits(5), half_bits(3)};
  WeightSlice slice{half.data(), DType::f16, 3, 40, 40, 1, 0, 0, 0};
  WeightSlice bias_slice{bias.data(), DType::f16, 3, 1, 1, 1, 0, 0, 0};
  for (WeightFormat format : {WeightFormat::f32, WeightFormat::bf16}) {
    LinearSpec spec{.name = "w", .n = 3, .k = 40, .bias = true, .format = format};
    PackedWeight w = cpu::pack_weight(pool, spec, {&slice, 1}, {&bias_slice, 1});
    for (int64_t n = 0; n < 3; ++n)
      for (int64_t k = 0; k < 40; ++k) {
        const double want = double(f16_to_float(half[size_t(n * 40 + k)]));
        CHECK(packed_at(w, 0, n, k) == (format == WeightFormat::f32 ? want : round_as(DType::bf16, want)));
      }
    const float* b = static_cast<const float*>(w.bias.data());
    CHECK(std::vector<float>(b, b + 3) == std::vector<float>{1.0f, -4.0f, 0.5f});
    CHECK(w.bytes() == cpu::packed_weight_bytes(spec));
  }
}

TEST_CASE("cpu pack: everything must be covered exactly once") {
  ThreadPool pool(1);
  std::vector<float> data(64 * 64, 1.0f);
  auto slice = [&](int64_t e, int64_t n0, int64_t n, int64_t k0, int64_t k) {
    return WeightSlice{data.data(), DType::f32, n, k, 64, 1, e, n0, k0};
  };
  LinearSpec spec{.name = "layers.1.qkv", .n = 8, .k = 6, .n_experts = 2, .format = WeightFormat::f32};
  auto error = [&](std::vector<WeightSlice> slices) {
    return error_of([&] { cpu::pack_weight(pool, spec, slices, {}); });
  };
  auto says = [](const std::string& text, const char* part) { return text.find(part) != std::string::npos; };
  CHECK(says(error({slice(0, 0, 8, 0, 6)}), "layers.1.qkv: weight slices have 48 elements, wanted 96"));
  CHECK(says(error({slice(0, 0, 8, 0, 6), slice(0, 0, 8, 0, 6)}), "weight slices of expert 0 overlap"));
  CHECK(
      says(error({slice(0, 0, 8, 0, 6), slice(1, 0, 5, 0, 6), slice(1, 4, 4, 0, 4), slice(1, 5, 1, 4, 2)}), "overlap"));
  CHECK(says(error({slice(0, 0, 8, 0, 6), slice(1, 1, 8, 0, 6)}), "lies outside [2, 8, 6]"));
  CHECK(says(error({slice(0, 0, 8, 0, 6), slice(2, 0, 8, 0, 6)}), "lies outside"));
  CHECK(says(error({slice(0, 0, 8, 0, 6), slice(1, 0, 8, -1, 6)}), "lies outside"));
  WeightSlice wrong = slice(1, 0, 8, 0, 6);
  wrong.dtype = DType::i8;
  CHECK(says(error({slice(0, 0, 8, 0, 6), wrong}), "slice is I8"));
  WeightSlice one = slice(0, 0, 8, 0, 1);
  CHECK(says(error_of([&] {
               std::vector<WeightSlice> all = {slice(0, 0, 8, 0, 6), slice(1, 0, 8, 0, 6)};
               cpu::pack_weight(pool, spec, all, {&one, 1});
             }),
             "a bias where none was announced"));
  spec.bias = true;
  CHECK(says(error_of([&] {
               std::vector<WeightSlice> all = {slice(0, 0, 8, 0, 6), slice(1, 0, 8, 0, 6)};
               cpu::pack_weight(pool, spec, all, {&one, 1});
             }),
             "bias slices have 8 elements, wanted 16"));
}
