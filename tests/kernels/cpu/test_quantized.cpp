#include "kernels/cpu/quantized.h"
#include "kernels/cpu/simd/kernels.h"

using namespace l4;
using namespace l4::test;

namespace {
bool same_bits(const Buffer& a, const Buffer& b) {
  return a.bytes() == b.bytes() && std::memcmp(a.data(), b.data(), a.bytes()) == 0;
}
}  // namespace

TEST_CASE("cpu linear: fp8 and int4, every shape, cut, type and input against doubles") {
  Machine machine(2);
  uint64_t seed = 0;
  for (const QuantizedCase& c : kQuantizedCases)
    for (InputFormat input : kInputFormats)
      for (DType a : {DType::f32, DType::bf16})
        for (bool scaled : {false, true}) {  // by a router's scores
          INFO(cat(c.what, ", input ", int(input), " ", dtype_name(a), scaled ? " scaled" : ""));
          Numbers numbers(++seed);
          QuantizedWeights w(numbers, spec_of(c, input), c.cut);
          PackedWeight packed = w.packed(machine.pool);
          CHECK(packed.bytes() == cpu::packed_weight_bytes(w.spec));
          // Row i goes to expert i mod E; one row is all zeros.
          Values x = numbers.tensor(a, {c.m, c.k}), y(a, {c.m, c.n});
          for (int64_t k = 0; c.m > 1 && k < c.k; ++k) x.set(c.k + k, 0);
          std::vector<std::vector<int32_t>> rows(static_cast<size_t>(c.n_experts));
          std::vector<std::vector<float>> scores(rows.size());
          for (int64_t i = 0; i < c.m; ++i) {
            rows[size_t(i % c.n_experts)].push_back(int32_t(i));
            scores[size_t(i % c.n_experts)].push_back(scaled ? float(round_as(a, numbers.uniform(0.1, 1))) : 1);
          }
          std::vector<cpu::LinearJob> jobs;
          for (size_t e = 0; e < rows.size(); ++e)
            jobs.push_back({.w = &packed,
                            .expert = int64_t(e),
                            .x = x,
                            .y = y,
                            .n_rows = int64_t(rows[e].size()),
                            .x_rows = rows[e].data(),
                            .y_rows = rows[e].data(),
                            .x_scale = scaled ? scores[e].data() : nullptr});
          machine.run([&](const cpu::OpContext& ctx) { cpu::linear(ctx, jobs); });
          Doubles want, size;
          for (int64_t i = 0; i < c.m; ++i) {
            const int64_t e = i % c.n_experts;
            const Doubles row = w.input(x, i, a, scores[size_t(e)][size_t(i / c.n_experts)]);
            for (int64_t n = 0; n < c.n; ++n) {
              auto [sum, terms] = w.output(e, n, row);
              want.push_back(round_as(a, sum));
              size.push_back(terms);
            }
          }
          CHECK(difference(y, want, size, tolerance::kLinear) == "");
        }
}

TEST_CASE("cpu linear: fp8 and int4, a row's bits depend on neither the other rows nor the threads") {
  Machine one(1), three(3);
  Numbers numbers(11);
  for (int64_t group : {0, 32, 128, 384})
    for (InputFormat input : {InputFormat::as_is, InputFormat::fp8_token})
      for (DType a : {DType::f32, DType::bf16})
        for (int64_t m : {2, 3, 4, 13, 250}) {
          INFO(cat("group ", group, " input ", int(input), " m ", m, " a ", dtype_name(a)));
          QuantizedWeights w(numbers, spec_of({"w", m, 200, 768, group}, input));
          PackedWeight packed = w.packed(one.pool);
          Values x = numbers.tensor(a, {m, 768}), y1(DType::f32, {m, 200}), y3(DType::f32, {m, 200});
          one.run([&](const cpu::OpContext& ctx) { cpu::linear(ctx, x, packed, y1); });
          three.run([&](const cpu::OpContext& ctx) { cpu::linear(ctx, x, packed, y3); });
          CHECK(same_bits(y1.view, y3.view));
          for (int64_t i = 0; i < m; i += 1 + m / 5) {
            Values alone(DType::f32, {1, 200});
            three.run([&](const cpu::OpContext& ctx) { cpu::linear(ctx, x.view.slice(i, 1), packed, alone); });
            CHECK(same_bits(alone.view, y1.view.slice(i, 1)));
          }
        }
}

TEST_CASE("cpu linear: a router's score leaves the codes of a quantised row as they are") {
  Machine machine(2);
  Numbers numbers(5);
  QuantizedWeights w(numbers, spec_of({"w", 4, 64, 256, 0}, InputFormat::fp8_token));
  PackedWeight packed = w.packed(machine.pool);
  Values x = numbers.tensor(DType::bf16, {4, 256}), y(DType::f32, {4, 64}), scaled(DType::f32, {4, 64});
  const std::vector<float> score = {0.5f, 0.25f, 1.0f, 0.0625f};  // exact in any float
  cpu::LinearJob job{.w = &packed, .x = x, .y = y, .n_rows = 4};
  machine.run([&](const cpu::OpContext& ctx) { cpu::linear(ctx, {&job, 1}); });
  job.y = scaled, job.x_scale = score.data();
  machine.run([&](const cpu::OpContext& ctx) { cpu::linear(ctx, {&job, 1}); });
  for (int64_t i = 0; i < 4 * 64; ++i) CHECK(scaled.at(i) == y.at(i) * double(score[size_t(i / 64)]));
}

TEST_CASE("cpu pack: fp8 and int4 are the same bytes however they are cut") {
  ThreadPool pool(3);
  for (const QuantizedCase& c : kQuantizedCases) {
    INFO(c.what);
    Numbers numbers(3);
    QuantizedWeights w(numbers, spec_of(c, InputFormat::as_is), c.cut);
    PackedWeight cut = w.packed(pool);
    w.cut.rows = w.cut.columns = false;
    PackedWeight whole = w.packed(pool);
    CHECK(same_bits(cut.data, whole.data));
    CHECK(same_bits(cut.scales, whole.scales));
    // Every code lies where panels.h says it does, and padding is code 0.
    const auto* bytes = static_cast<const uint8_t*>(whole.data.data());
    const int64_t panels = (c.n + 31) / 32;
    int64_t wrong = 0;
    for (int64_t e = 0; e < c.n_experts; ++e)
      for (int64_t n = 0; n < panels * 32; ++n)
        for (int64_t k = 0; k < c.k; ++k) {
          const int64_t row = (e * panels + n / 32) * c.k + k, pair = n % 16, upper = n % 32 / 16;
          const double want = n < c.n ? w.code_at(e, n, k) : 0;
          wrong += want != (c.group ? double(bytes[row * 16 + pair] >> 4 * upper & 15) - 8
                                    : double(fp8_to_float(bytes[row * 32 + 2 * pair + upper])));
        }
    CHECK(wrong == 0);
  }
}

TEST_CASE("cpu pack: scales of int4's groups are held as BF16, whatever they are stored as") {
  ThreadPool pool(1);
  Numbers numbers(4);
  QuantizedWeights w(numbers, spec_of({"w", 1, 40, 96, 32}, InputFormat::as_is), {.scale = DType::f32});
  PackedWeight packed = w.packed(pool);
  const Values exact = w.scale;
  for (int64_t i = 0; i < exact.view.elements(); ++i) w.scale.set(i, round_as(DType::bf16, exact.at(i)));
  CHECK(!same_bits(exact.view, w.scale.view));
  CHECK(same_bits(packed.scales, w.packed(pool).scales));
  w.scale.set(33 * 3 + 2, 3.4e38);  // beyond the largest BF16
  CHECK(says(error_of([&] { w.packed(pool); }), "w: the scale of row 33, group 2 is inf"));
}

TEST_CASE("cpu pack: weights that become fp8 give the codes and scales of their rows") {
  ThreadPool pool(2);
  Numbers numbers(9);
  const int64_t n = 70, k = 150, n_experts = 2;
  for (DType stored : {DType::bf16, DType::f32, DType::f16})
    for (bool transposed : {false, true}) {
      INFO(cat(dtype_name(stored), transposed ? " transposed" : ""));
      std::vector<uint16_t> half(size_t(n_experts * n * k));
      Values w(stored == DType::f16 ? DType::f32 : stored, {n_experts, n, k});
      auto position = [&](int64_t e, int64_t i, int64_t j) { return e * n * k + (transposed ? j * n + i : i * k + j); };
      for (int64_t e = 0; e < n_experts; ++e)
        for (int64_t i = 0; i < n; ++i)
          for (int64_t j = 0; j < k; ++j) {
            const int64_t at = position(e, i, j);
            half[size_t(at)] = uint16_t(numbers.below(2) << 15 | numbers.below(0x4C00));  // no infinity, no NaN
            const double tiny = i % 7 == 3 ? 1e-30 : 1;  // rows of very different sizes
            double value =
                stored == DType::f16 ? double(f16_to_float(half[size_t(at)])) : numbers.uniform(-1, 1) * tiny;
            if (i == 5) value = 0, half[size_t(at)] = 0x8000;  // -0
            w.set(at, value);
          }
      Values scale(DType::f32, {n_experts, n});
      std::vector<uint8_t> want(half.size());
      for (int64_t e = 0; e < n_experts; ++e)
        for (int64_t i = 0; i < n; ++i) {
          float largest = 0;
          for (int64_t j = 0; j < k; ++j) largest = std::max(largest, float(std::abs(w.at(position(e, i, j)))));
          const float s = largest == 0 ? 1 : largest / 448;
          scale.set(e * n + i, double(s));
          for (int64_t j = 0; j < k; ++j)
            want[size_t((e * n + i) * k + j)] =
                i == 5 && stored == DType::f16 ? 0x80 : fp8_from_float(float(w.at(position(e, i, j))) / s);
        }
      // Given in pieces, of which none alone has all of a row.
      std::vector<WeightSlice> plain, coded, scales;
      for (int64_t e = 0; e < n_experts; ++e) {
        for (auto [n0, n1] : {std::pair{n / 2, n}, std::pair{int64_t(0), n / 2}})
          for (auto [k0, k1] : {std::pair{int64_t(41), k}, std::pair{int64_t(0), int64_t(41)}}) {
            const int64_t at = position(e, n0, k0);
            const void* data = stored == DType::f16 ? static_cast<const void*>(&half[size_t(at)])
                                                    : w.storage.data() + size_t(at) * dtype_bytes(stored);
            plain.push_back({data, stored, n1 - n0, k1 - k0, transposed ? 1 : k, transposed ? n : 1, e, n0, k0});
          }
        coded.push_back({&want[size_t(e * n * k)], DType::f8_e4m3, n, k, k, 1, e, 0, 0});
        scales.push_back({scale.view.f32() + e * n, DType::f32, n, 1, 1, 1, e, 0, 0});
      }
      LinearSpec spec{.name = "w", .n = n, .k = k, .n_experts = n_experts, .gated = true, .format = WeightFormat::fp8};
      PackedWeight made = cpu::pack_weight(pool, spec, plain, {});
      PackedWeight given = cpu::pack_weight(pool, spec, coded, {}, scales);
      CHECK(same_bits(made.data, given.data));
      CHECK(same_bits(made.scales, given.scales));
      CHECK(made.bytes() == cpu::packed_weight_bytes(spec));
    }
}

TEST_CASE("cpu pack: scales and codes that no product can use are refused by row and group") {
  ThreadPool pool(2);
  auto refusal = [&](const QuantizedWeights& w) -> std::string {
    try {
      w.packed(pool);
    } catch (const Error& e) {
      CHECK(e.kind() == ErrorKind::input);
      return e.message();
    }
    return "accepted";
  };
  for (double bad : {0.0, -0.0, double(NAN), double(INFINITY), -double(INFINITY)})
    for (DType stored : {DType::bf16, DType::f32}) {
      INFO(cat(bad, " ", dtype_name(stored)));
      Numbers numbers(1);
      QuantizedWeights fp8(numbers, spec_of({"mlp.down", 1, 40, 16, 0}, InputFormat::as_is), {.scale = stored});
      CHECK(refusal(fp8) == "accepted");
      fp8.scale.set(37, bad);
      CHECK(says(refusal(fp8), "mlp.down: the scale of row 37 is "));
      QuantizedWeights int4(numbers, spec_of({"mlp.up", 1, 40, 96, 32, {}, 2}, InputFormat::as_is), {.scale = stored});
      CHECK(refusal(int4) == "accepted");
      int4.scale.set((40 + 33) * 3 + 2, bad);
      CHECK(says(refusal(int4), "mlp.up: the scale of row 33 of expert 1, group 2 is "));
      fp8.spec.input = InputFormat::fp8_static;
      fp8.spec.input_scale = float(bad);
      fp8.scale.set(37, 1);
      CHECK(says(refusal(fp8), "mlp.down: the scale of its input is "));
    }
  check_nan_codes_are_refused(refusal);
  // The same of weights that become fp8 here.
  for (double bad : {double(NAN), double(INFINITY)}) {
    Numbers numbers(1);
    Values w = numbers.tensor(DType::bf16, {40, 16});
    w.set(21 * 16 + 5, bad);
    WeightSlice slice{w.storage.data(), DType::bf16, 40, 16, 16, 1, 0, 0, 0};
    LinearSpec spec{.name = "lm_head", .n = 40, .k = 16, .format = WeightFormat::fp8};
    const std::string error = error_of([&] { cpu::pack_weight(pool, spec, {&slice, 1}, {}); });
    CHECK(says(error,
               bad == bad ? "lm_head: the scale of row 21 is inf" : "lm_head: the weight of row 21, column 5 is NaN"));
  }
}

TEST_CASE("cpu pack: fp8 and int4 want all their scales, and codes of their type") {
  ThreadPool pool(1);
  auto error = [&](const LinearSpec& spec, std::vector<WeightSlice> weight, std::vector<WeightSlice> scale) {
    return error_of([&] { cpu::pack_weight(pool, spec, weight, {}, scale); });
  };
  check_wrong_slices_are_refused(error);
}

TEST_CASE("cpu simd: every instruction set expands every code exactly") {
  for (const cpu::SimdKernels* kernels :
       {cpu::simd_kernels_generic(), cpu::simd_kernels_avx2(), cpu::simd_kernels_avx512()}) {
    if (!kernels) continue;
    INFO(kernels->name);
    std::vector<uint8_t> codes(256);
    for (size_t i = 0; i < 256; ++i) codes[i] = uint8_t(i);
    std::vector<BFloat16> fp8(256), int4(512);
    kernels->expand_fp8(codes.data(), 8, &fp8[0].bits);
    kernels->expand_int4(codes.data(), 16, &int4[0].bits);
    for (size_t i = 0; i < 256; ++i) {
      if ((i & 0x7F) != 0x7F) CHECK(fp8[i].bits == to_bf16(fp8_to_float(uint8_t(i))).bits);
      CHECK(to_float(int4[2 * i]) == float(int(i & 15) - 8));
      CHECK(to_float(int4[2 * i + 1]) == float(int(i >> 4) - 8));
    }
  }
}

TEST_CASE("cpu simd: sums added with their columns' scales by every instruction set") {
  Numbers numbers(2);
  for (const cpu::SimdKernels* kernels :
       {cpu::simd_kernels_generic(), cpu::simd_kernels_avx2(), cpu::simd_kernels_avx512()}) {
    if (!kernels) continue;
    INFO(kernels->name);
    Values sums = numbers.tensor(DType::f32, {3, 32}), scale = numbers.tensor(DType::f32, {32}),
           to(DType::f32, {3, 32});
    kernels->add_scaled(3, sums.view.f32(), scale.view.f32(), to.view.f32(), true);
    kernels->add_scaled(3, sums.view.f32(), scale.view.f32(), to.view.f32(), false);
    Doubles want;
    for (int64_t i = 0; i < 3 * 32; ++i) want.push_back(2 * sums.at(i) * scale.at(i % 32));
    CHECK(difference(to, want, tolerance::kLinear) == "");
  }
}
