// FP8 and INT4 in the packed layout, from memory and streamed from files, against plain loops; what is refused.
#include "kernels/cuda/pack_testing.h"
#include "kernels/cuda/weight_layout.h"

using namespace l4;
using namespace l4::test;

namespace {

void check_fp8(Packer& packer, const QuantizedWeights& w, const PackedWeight& packed) {
  const LinearSpec& s = w.spec;
  const std::vector<uint8_t> codes = packer.contents<uint8_t>(packed.data);
  const std::vector<float> scales = packer.contents<float>(packed.scales);
  REQUIRE(int64_t(codes.size()) == s.n_experts * s.n * s.k);
  REQUIRE(int64_t(scales.size()) == s.n_experts * s.n);
  int64_t wrong = 0;
  for (int64_t e = 0; e < s.n_experts; ++e)
    for (int64_t n = 0; n < s.n; ++n) {
      const int64_t row = e * s.n + cuda::packed_row(s, n);
      wrong += double(scales[size_t(row)]) != w.scale_at(e, n, 0);
      for (int64_t k = 0; k < s.k; ++k)
        wrong += double(fp8_to_float(codes[size_t(row * s.k + k)])) != w.code_at(e, n, k);
    }
  CHECK(wrong == 0);
}

void check_int4(Packer& packer, const QuantizedWeights& w, const PackedWeight& packed) {
  const LinearSpec& s = w.spec;
  const std::vector<uint32_t> words = packer.contents<uint32_t>(packed.data);
  const std::vector<BFloat16> scales = packer.contents<BFloat16>(packed.scales);
  const int64_t tiles = (s.n + 15) / 16;
  REQUIRE(int64_t(words.size()) == s.n_experts * s.n * s.k / 8);
  REQUIRE(int64_t(scales.size()) == s.n_experts * tiles * w.groups * 16);
  const int column_at[8] = {0, 2, 4, 6, 1, 3, 5, 7};  // of the eight in a word, from its lowest bits
  int64_t wrong = 0, n_scales = 0;
  for (int64_t e = 0; e < s.n_experts; ++e)
    for (int64_t n = 0; n < s.n; ++n) {
      const int64_t row = cuda::packed_row(s, n);
      for (int64_t i = 0; i < s.k / 8; ++i) {
        int64_t first = 8 * i;  // of the word's columns
        if (s.k % 256 == 0) {
          const int64_t t = i % 32 / 8, b = i % 8;
          first = i / 32 * 256 + 32 * b + 8 * t;
        }
        for (int position = 0; position < 8; ++position)
          wrong += double(words[size_t((e * s.n + row) * (s.k / 8) + i)] >> 4 * position & 15) - 8 !=
                   w.code_at(e, n, first + column_at[position]);
      }
      for (int64_t g = 0; g < w.groups; ++g, ++n_scales)
        wrong += double(to_float(scales[size_t((e * tiles + row / 16) * w.groups * 16 + g * 16 + row % 16)])) !=
                 w.scale_at(e, n, g);
    }
  for (BFloat16 scale : scales) n_scales -= scale.bits != 0;  // no more than these: the others are zeros
  CHECK(wrong == 0);
  CHECK(n_scales == 0);
}

}  // namespace

TEST_CASE("cuda pack: fp8 and int4 lie where the layout says, however they are cut, from memory and from files") {
  skip_without_gpu();
  uint64_t seed = 0;
  for (const QuantizedCase& c : kQuantizedCases)
    for (bool streamed : {false, true}) {
      INFO(cat(c.what, streamed ? ", streamed" : ""));
      Numbers numbers(++seed);
      const QuantizedWeights w(numbers, spec_of(c, InputFormat::as_is), c.cut);
      Packer packer;
      TempDir dir;
      const PackedWeight packed = packer(w, streamed ? &dir : nullptr);
      CHECK(packed.bytes() == packer.backend->packed_bytes(w.spec));
      w.int4() ? check_int4(packer, w, packed) : check_fp8(packer, w, packed);
      const std::vector<float> bias = packer.contents<float>(packed.bias);
      for (int64_t e = 0; c.bias && e < c.n_experts; ++e)
        for (int64_t n = 0; n < c.n; ++n)
          CHECK(double(bias[size_t(e * c.n + cuda::packed_row(w.spec, n))]) == w.b.at(e * c.n + n));
    }
}

TEST_CASE("cuda pack: codes and scales of many pieces, parts of longer rows, arrive as those packed at once") {
  skip_without_gpu();
  for (int64_t group : {0, 128}) {
    Numbers numbers(1);
    const QuantizedCase c{"w", 1, group ? 9008 : 4208, 4096, group, {}, 1, true};  // 17 MB
    const QuantizedWeights w(numbers, spec_of(c, InputFormat::as_is), c.cut);
    Packer packer;
    TempDir dir;
    const PackedWeight streamed = packer(w, &dir), at_once = packer(w, nullptr);
    CHECK(packer.contents<std::byte>(streamed.data) == packer.contents<std::byte>(at_once.data));
    CHECK(packer.contents<std::byte>(streamed.scales) == packer.contents<std::byte>(at_once.scales));
  }
}

TEST_CASE("cuda pack: weights that become fp8 give the codes and scales of their rows") {
  skip_without_gpu();
  Numbers numbers(9);
  const int64_t n = 80, k = 150, n_experts = 2;
  enum Pieces { whole_rows, parts, columns };  // columns: dense along n
  for (DType stored : {DType::bf16, DType::f32, DType::f16})
    for (Pieces pieces : {whole_rows, parts, columns})
      for (bool streamed : {false, true}) {
        INFO(cat(dtype_name(stored), ", pieces ", int(pieces), streamed ? ", streamed" : ""));
        std::vector<uint16_t> halves(size_t(n_experts * n * k));
        Values w(stored == DType::f16 ? DType::f32 : stored, {n_experts, n, k});
        auto position = [&](int64_t e, int64_t i, int64_t j) {
          return e * n * k + (pieces == columns ? j * n + i : i * k + j);
        };
        for (int64_t e = 0; e < n_experts; ++e)
          for (int64_t i = 0; i < n; ++i)
            for (int64_t j = 0; j < k; ++j) {
              const int64_t at = position(e, i, j);
              halves[size_t(at)] = uint16_t(numbers.below(2) << 15 | numbers.below(0x4C00));  // no infinity, no NaN
              const double tiny = i % 7 == 3 ? 1e-30 : 1;  // rows of very different sizes
              double value =
                  stored == DType::f16 ? double(f16_to_float(halves[size_t(at)])) : numbers.uniform(-1, 1) * tiny;
              if (i == 5) value = 0, halves[size_t(at)] = 0;
              w.set(at, value);
            }
        const std::span<const std::byte> memory =
            stored == DType::f16 ? std::as_bytes(std::span(halves)) : std::span<const std::byte>(w.storage);
        std::vector<WeightSlice> slices;
        const int64_t n_cut = n / 2, k_cut = pieces == whole_rows ? 0 : 41;
        for (int64_t e = 0; e < n_experts; ++e)
          for (auto [n0, n1] : {std::pair{n_cut, n}, std::pair{int64_t(0), n_cut}})
            for (auto [k0, k1] : {std::pair{k_cut, k}, std::pair{int64_t(0), k_cut}})
              if (k1 > k0)
                slices.push_back({memory.data() + size_t(position(e, n0, k0)) * dtype_bytes(stored), stored, n1 - n0,
                                  k1 - k0, pieces == columns ? 1 : k, pieces == columns ? n : 1, e, n0, k0});
        const LinearSpec spec{
            .name = "w", .n = n, .k = k, .n_experts = n_experts, .gated = true, .format = WeightFormat::fp8};
        TempDir dir;
        std::optional<InFile> file;
        if (streamed) slices = file.emplace(dir, std::initializer_list<std::span<const std::byte>>{memory})(slices);
        Packer packer;
        const PackedWeight packed = packer.backend->pack(spec, slices, {});
        packer.backend->finish_loading();
        CHECK(packed.bytes() == packer.backend->packed_bytes(spec));
        const std::vector<uint8_t> codes = packer.contents<uint8_t>(packed.data);
        const std::vector<float> scales = packer.contents<float>(packed.scales);
        int64_t wrong = 0;
        for (int64_t e = 0; e < n_experts; ++e)
          for (int64_t i = 0; i < n; ++i) {
            const int64_t row = e * n + cuda::packed_row(spec, i);
            float largest = 0;
            for (int64_t j = 0; j < k; ++j) largest = std::max(largest, float(std::abs(w.at(position(e, i, j)))));
            const float s = largest == 0 ? 1 : largest / 448;
            wrong += scales[size_t(row)] != s;
            for (int64_t j = 0; j < k; ++j)
              wrong += codes[size_t(row * k + j)] != fp8_from_float(float(w.at(position(e, i, j))) / s);
          }
        CHECK(wrong == 0);
      }
}

TEST_CASE("cuda pack: scales and codes that no product can use are refused by row and group") {
  skip_without_gpu();
  for (bool streamed : {false, true}) {
    auto refusal = [&](const QuantizedWeights& w) -> std::string {
      Packer packer;
      TempDir dir;
      try {
        packer(w, streamed ? &dir : nullptr);
      } catch (const Error& e) {
        CHECK(e.kind() == ErrorKind::input);
        return e.message();
      }
      return "accepted";
    };
    for (double bad : {0.0, double(NAN), -double(INFINITY)})
      for (DType stored : {DType::bf16, DType::f32}) {
        INFO(cat(bad, " ", dtype_name(stored), streamed ? ", streamed" : ""));
        Numbers numbers(1);
        QuantizedWeights fp8(numbers, spec_of({"mlp.down", 1, 40, 16, 0}, InputFormat::as_is), {.scale = stored});
        CHECK(refusal(fp8) == "accepted");
        fp8.scale.set(39, bad), fp8.scale.set(37, bad);
        CHECK(says(refusal(fp8), cat("mlp.down: the scale of row 37 is ", float(bad))));
        QuantizedWeights grouped(numbers, spec_of({"mlp.up", 1, 40, 96, 32, {}, 2}, InputFormat::as_is),
                                 {.scale = stored});
        grouped.spec.gated = true;
        CHECK(refusal(grouped) == "accepted");
        grouped.scale.set((40 + 33) * 3 + 2, bad);
        CHECK(says(refusal(grouped), cat("mlp.up: the scale of row 33 of expert 1, group 2 is ", float(bad))));
        if (bad == 0 && stored == DType::f32) {
          grouped.scale.set((40 + 33) * 3 + 2, 3.4e38);  // beyond the largest BF16
          CHECK(says(refusal(grouped), "mlp.up: the scale of row 33 of expert 1, group 2 is inf"));
        }
        fp8.spec.input = InputFormat::fp8_static;
        fp8.spec.input_scale = float(bad);
        CHECK(says(refusal(fp8), "mlp.down: the scale of its input is "));
      }
    check_nan_codes_are_refused(refusal);
  }
  // The same of weights that become fp8 here.
  for (double bad : {double(NAN), double(INFINITY)})
    for (bool apart : {false, true}) {
      Numbers numbers(1);
      Values w = numbers.tensor(DType::bf16, {40, 16});
      w.set(21 * 16 + 5, bad);
      std::vector<WeightSlice> slices = {{w.storage.data(), DType::bf16, 40, 16, 16, 1, 0, 0, 0}};
      if (apart) {
        slices.push_back({w.storage.data() + 16, DType::bf16, 40, 8, 16, 1, 0, 0, 8});
        slices[0].k = 8;
      }
      const LinearSpec spec{.name = "lm_head", .n = 40, .k = 16, .format = WeightFormat::fp8};
      const std::string error = error_of([&] { make_cuda_backend(0, {})->pack(spec, slices, {}); });
      CHECK(says(error, bad == bad ? "lm_head: the scale of row 21 is inf"
                                   : "lm_head: the weight of row 21, column 5 is NaN"));
    }
}

TEST_CASE("cuda pack: fp8 and int4 want all their scales, and codes of their type") {
  skip_without_gpu();
  auto error = [&](const LinearSpec& spec, std::vector<WeightSlice> weight, std::vector<WeightSlice> scale) {
    return error_of([&] { make_cuda_backend(0, {})->pack(spec, weight, {}, scale); });
  };
  check_wrong_slices_are_refused(error);
}

TEST_CASE("cuda pack: made-up weights become fp8 as loaded ones do") {
  skip_without_gpu();
  constexpr int64_t kExperts = 2, kN = 32, kK = 40;
  const RandomTensor tensor{77, 0, 0.3f};
  for (bool transposed : {false, true})
    for (int64_t k_cut : {int64_t(0), int64_t(13)}) {
      CAPTURE(transposed);
      CAPTURE(k_cut);
      Packer packer;
      const LinearSpec spec{
          .name = "w", .n = kN, .k = kK, .n_experts = kExperts, .gated = true, .format = WeightFormat::fp8};
      auto index = [&](int64_t e, int64_t n, int64_t k) {
        return transposed ? (e * kK + k) * kN + n : (e * kN + n) * kK + k;
      };
      std::vector<RandomSlice> slices;
      for (int64_t e = 0; e < kExperts; ++e)
        for (auto [k0, k1] : {std::pair{k_cut, kK}, std::pair{int64_t(0), k_cut}}) {
          if (k0 == k1) continue;
          RandomSlice s{{}, index(e, 0, k0), tensor};
          s.at.n = kN, s.at.k = k1 - k0, s.at.expert = e, s.at.k_offset = k0;
          s.at.n_stride = transposed ? 1 : kK, s.at.k_stride = transposed ? kN : 1;
          slices.push_back(s);
        }
      const PackedWeight w = packer.backend->pack_random(spec, slices, {});
      const std::vector<uint8_t> codes = packer.contents<uint8_t>(w.data);
      const std::vector<float> scales = packer.contents<float>(w.scales);
      int64_t wrong = 0;
      for (int64_t e = 0; e < kExperts; ++e)
        for (int64_t n = 0; n < kN; ++n) {
          const size_t row = size_t(e * kN + cuda::packed_row(spec, n));
          auto value = [&](int64_t k) { return round_bf16(random_weight(tensor, index(e, n, k))); };
          float largest = 0;
          for (int64_t k = 0; k < kK; ++k) largest = std::max(largest, std::abs(value(k)));
          wrong += scales[row] != fp8_scale(largest);
          for (int64_t k = 0; k < kK; ++k)
            wrong += codes[row * kK + size_t(k)] != fp8_from_float(value(k) / scales[row]);
        }
      CHECK(wrong == 0);
    }
}
