#include "kernels/cpu/paged_cache.h"

using namespace l4;
using namespace l4::test;

namespace {
// fl32(1 / fl32(theta^(2i / hd))), llama4-spec 2.3.
Values inverse_frequencies(int64_t hd) {
  Values f(DType::f32, {hd / 2});
  for (int64_t i = 0; i < hd / 2; ++i) f.set(i, 1.0f / float(std::pow(500000.0, 2.0 * double(i) / double(hd))));
  return f;
}
}  // namespace

TEST_CASE("cpu rope: cosine and sine of the float32 product, up to ten million positions") {
  Machine machine(2);
  Values f = inverse_frequencies(128);
  std::vector<int32_t> positions = {0, 1, 2, 8191, 8192, 131071, 999999, 1048575, 9999999, 10485759};
  Values table(DType::f32, {int64_t(positions.size()), 64, 2});
  machine.run([&](const cpu::OpContext& ctx) { cpu::rope_table(ctx, positions, f, table); });
  for (size_t t = 0; t < positions.size(); ++t)
    for (int64_t i = 0; i < 64; ++i) {
      const double angle = double(float(positions[t]) * f.view.f32()[i]);  // rounded, then exact
      const int64_t at = (int64_t(t) * 64 + i) * 2;
      CHECK(std::abs(table.at(at) - std::cos(angle)) < 6e-8);  // one unit in the last place of a value near 1
      CHECK(std::abs(table.at(at + 1) - std::sin(angle)) < 6e-8);
    }
}

TEST_CASE("cpu rope: temperature of NoPE queries") {
  // llama4-spec 2.5
  CHECK(cpu::query_temperature(0, 8192, 0.1f) == 1.0f);
  CHECK(cpu::query_temperature(8190, 8192, 0.1f) == 1.0f);
  CHECK(cpu::query_temperature(8191, 8192, 0.1f) == doctest::Approx(1.0693147).epsilon(1e-7));
  CHECK(cpu::query_temperature(16383, 8192, 0.1f) == doctest::Approx(1.1098612).epsilon(1e-7));
  CHECK(cpu::query_temperature(131071, 8192, 0.1f) == doctest::Approx(1.2833213).epsilon(1e-7));
  CHECK(cpu::query_temperature(999999, 8192, 0.1f) == doctest::Approx(1.4812184).epsilon(1e-7));
  CHECK(cpu::query_temperature(7, 4, 0.5f) == doctest::Approx(1 + 0.5 * std::log(3)).epsilon(1e-7));
}

TEST_CASE("cpu rope: q to its tensor, k and v to their pages, with every combination of options") {
  Machine machine(2);
  struct Case {
    const char* what;
    bool rope, qk_norm, temperature;
    int64_t n_heads, n_kv, hd;
    std::vector<Stretch> spans;
  };
  const Case cases[] = {
      {"rope and norm", true, true, false, 4, 2, 16, {{0, 1}}},
      {"rope alone", true, false, false, 2, 2, 8, {{5, 3}, {8, 1}}},
      {"temperature", false, false, true, 3, 1, 16, {{0, 9}, {30, 7}}},
      {"nothing: norm belongs to rope, temperature is off", false, true, false, 2, 1, 24, {{0, 5}}},
      {"temperature never on rope layers", true, true, true, 2, 1, 128, {{300, 70}}},
  };
  for (const Case& c : cases)
    for (DType a : {DType::f32, DType::bf16}) {
      INFO(cat(c.what, " ", dtype_name(a)));
      Numbers numbers(2);
      PagedCache cache(numbers, a, c.n_kv, c.hd, 8, c.spans);
      for (int32_t& p : cache.step.positions) p += 100000;  // chunked stretches start anywhere
      const int64_t t = cache.step.n_rows(), n_all = c.n_heads + 2 * c.n_kv;
      Values qkv = numbers.tensor(a, {t, n_all * c.hd}, -2, 2), q(a, {t, c.n_heads, c.hd}),
             f = inverse_frequencies(c.hd);
      const Doubles before = doubles(qkv);
      QkvArgs args{.step = &cache.step,
                   .h = {},
                   .w = nullptr,
                   .inv_freq = c.rope ? f.view : View{},
                   .qk_norm = c.qk_norm,
                   .qk_norm_eps = 1e-5f,
                   .temperature = c.temperature,
                   .floor_scale = 4,
                   .attn_scale = 0.1f,
                   .kv = cache.layer,
                   .q = q,
                   .work = nullptr};
      machine.run([&](const cpu::OpContext& ctx) { cpu::finish_qkv(ctx, args, qkv); });

      Doubles got, want, size;
      for (const KvSpan& span : cache.plan().spans)
        for (int64_t row = span.row; row < span.row + span.n_rows; ++row)
          for (int64_t h = 0; h < n_all; ++h) {
            const double* v = before.data() + (row * n_all + h) * c.hd;
            Doubles head(v, v + c.hd), length(size_t(c.hd));
            for (double& x : length) x = 0;
            const bool is_q = h < c.n_heads, is_v = h >= c.n_heads + c.n_kv;
            const int32_t p = cache.step.positions[size_t(row)];
            for (int64_t i = 0; i < c.hd; i += 2) {
              if (c.rope && !is_v) {
                const double angle = double(float(p) * f.view.f32()[i / 2]), x = v[i], y = v[i + 1];
                head[size_t(i)] = round_as(a, x * std::cos(angle) - y * std::sin(angle));
                head[size_t(i + 1)] = round_as(a, x * std::sin(angle) + y * std::cos(angle));
              }
              length[size_t(i)] = length[size_t(i + 1)] = std::hypot(v[i], v[i + 1]);
            }
            double square = 0;
            for (double x : head) square += x * x / double(c.hd);
            for (size_t i = 0; i < head.size(); ++i) {
              if (c.rope && c.qk_norm && !is_v) {
                head[i] = round_as(a, head[i] / std::sqrt(square + 1e-5));
                length[i] /= std::sqrt(square + 1e-5);
              } else if (!c.rope && c.temperature && is_q) {
                head[i] = round_as(a, head[i] * (std::log1p(std::floor((p + 1) / 4.0)) * 0.1f + 1));
              }
              want.push_back(head[i]);
              size.push_back(2 * length[i]);
              const int64_t d = int64_t(i), index = span.past + row - span.row;
              got.push_back(is_q ? q.at((row * c.n_heads + h) * c.hd + d)
                                 : Values::value(cache.entry(span, index, (h - c.n_heads) % c.n_kv, is_v), d));
            }
          }
      Values all(a, {int64_t(got.size())});
      for (size_t i = 0; i < got.size(); ++i) all.set(int64_t(i), got[i]);
      Tolerance tolerance = tolerance::kRope;
      tolerance.f32 = 5e-7, tolerance.bf16_differ = 0.02;  // rotation and norm
      CHECK(difference(all, want, size, tolerance) == "");
    }
}

TEST_CASE("cpu rope: a float32 step writes a bf16 cache, and a cache type that is not served is said") {
  Machine machine(1);
  Numbers numbers(4);
  PagedCache cache(numbers, DType::bf16, 1, 8, 4, {{3, 2}});
  Values qkv = numbers.tensor(DType::f32, {2, 24}), q(DType::f32, {2, 1, 8});
  QkvArgs args{.step = &cache.step,
               .h = {},
               .w = nullptr,
               .inv_freq = {},
               .qk_norm = false,
               .qk_norm_eps = 0,
               .temperature = false,
               .floor_scale = 1,
               .attn_scale = 0,
               .kv = cache.layer,
               .q = q,
               .work = nullptr};
  machine.run([&](const cpu::OpContext& ctx) { cpu::finish_qkv(ctx, args, qkv); });
  for (int64_t i = 0; i < 8; ++i)
    CHECK(Values::value(cache.entry(cache.plan().spans[0], 4, 0, true), i) ==
          double(round_bf16(float(qkv.at(24 + 16 + i)))));
  args.kv.layout.dtype = DType::f8_e4m3;
  CHECK(error_of([&] { machine.run([&](const cpu::OpContext& ctx) { cpu::finish_qkv(ctx, args, qkv); }); }) ==
        "the CPU backend keeps the KV cache in F32 or BF16, not F8_E4M3");
}
