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

namespace {
// k and v as they are.
QkvArgs plain_args(const PagedCache& cache, const Values& q) {
  return {.step = &cache.step,
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
}
}  // namespace

TEST_CASE("cpu rope: a float32 step writes a bf16 cache, and a cache type that is not served is said") {
  Machine machine(1);
  Numbers numbers(4);
  PagedCache cache(numbers, DType::bf16, 1, 8, 4, {{3, 2}});
  Values qkv = numbers.tensor(DType::f32, {2, 24}), q(DType::f32, {2, 1, 8});
  QkvArgs args = plain_args(cache, q);
  machine.run([&](const cpu::OpContext& ctx) { cpu::finish_qkv(ctx, args, qkv); });
  for (int64_t i = 0; i < 8; ++i)
    CHECK(Values::value(cache.entry(cache.plan().spans[0], 4, 0, true), i) ==
          double(round_bf16(float(qkv.at(24 + 16 + i)))));
  args.kv.layout.dtype = DType::f8_e5m2;
  CHECK(error_of([&] { machine.run([&](const cpu::OpContext& ctx) { cpu::finish_qkv(ctx, args, qkv); }); }) ==
        "the CPU backend keeps the KV cache in F32, BF16 or F8_E4M3, not F8_E5M2");
}

namespace {
// k and v of `qkv` to the cache as they are.
void write_kv(Machine& machine, const PagedCache& cache, const Values& qkv, int64_t n_heads) {
  const int64_t hd = cache.layer.layout.head_dim;
  Values q(qkv.view.dtype, {qkv.view.rows(), n_heads, hd});
  const QkvArgs args = plain_args(cache, q);
  machine.run([&](const cpu::OpContext& ctx) { cpu::finish_qkv(ctx, args, qkv); });
}
}  // namespace

TEST_CASE("cpu rope: an FP8 cache has the definition's codes and scales, and nothing else is written") {
  Machine machine(2);
  struct Case {
    const char* what;
    int64_t n_kv, hd, page_tokens;
    std::vector<Stretch> spans;
  };
  const Case cases[] = {
      {"one row", 1, 8, 4, {{0, 1}}},
      {"odd rows over pages' edges", 2, 24, 8, {{3, 13}, {16, 5}, {7, 1}}},
      {"a page's first and last entry", 3, 16, 8, {{8, 1}, {7, 1}, {15, 1}}},
      {"chunks: a sequence's rows as two stretches", 2, 16, 4, {{6, 2}, {0, 8}, {0, 3}}},
      {"pages of one entry", 1, 10, 1, {{0, 5}}},
      {"head dimension 128", 8, 128, 128, {{120, 31}}},
  };
  const double sizes[] = {0, 1, 448, 0.01, 3e4, 1e-6, 1e30, 1e-41};
  for (const Case& c : cases)
    for (DType a : {DType::f32, DType::bf16})
      for (const bool fixed : {false, true}) {
        INFO(cat(c.what, " ", dtype_name(a), fixed ? " fixed scales" : ""));
        auto make = [&] {
          Numbers numbers(3);
          PagedCache cache(numbers, DType::f8_e4m3, c.n_kv, c.hd, c.page_tokens, c.spans);
          if (fixed) cache.fix_scales(0.0371f, 1.0f);  // of which some numbers are beyond the largest code
          return cache;
        };
        const PagedCache got = make(), want = make();
        REQUIRE(got.memory.storage == want.memory.storage);
        Numbers numbers(4);
        const int64_t t = got.step.n_rows(), n_all = 1 + 2 * c.n_kv;
        Values qkv(a, {t, n_all * c.hd});
        for (int64_t i = 0; i < t * n_all; ++i) {
          const double size = sizes[numbers.below(std::size(sizes))];
          for (int64_t d = 0; d < c.hd; ++d) qkv.set(i * c.hd + d, numbers.uniform(-size, size));
        }
        write_kv(machine, got, qkv, 1);
        for (const KvSpan& span : want.plan().spans)
          for (int64_t r = 0; r < span.n_rows; ++r)
            for (int64_t h = 0; h < 2 * c.n_kv; ++h) {
              Doubles head;
              for (int64_t d = 0; d < c.hd; ++d) head.push_back(qkv.at(((span.row + r) * n_all + 1 + h) * c.hd + d));
              want.put(span, span.past + r, h % c.n_kv, h >= c.n_kv, head);
            }
        CHECK(got.memory.storage == want.memory.storage);
      }
}

TEST_CASE("cpu rope: scales of an FP8 cache by hand") {
  Machine machine(1);
  Numbers numbers(4);
  const PagedCache cache(numbers, DType::f8_e4m3, 1, 4, 4, {{0, 6}});
  Values qkv(DType::f32, {6, 12});
  const double k[6][4] = {{448, 447, -1, 0.001},  // scale 1; 447 is nearest to 448, 0.001 to the smallest code
                          {0, 0, -0.0, 0},        // scale 1
                          {449, -449, 1, 0},      // 449 / 448 rounds down to 1: 449 stays within the codes
                          {1e-43, 0, 0, 0},       // the scale would round to 0
                          {1, NAN, 448, -NAN},    // all of the head is NaN
                          {INFINITY, 1, 0, -1}};
  for (int64_t i = 0; i < 6; ++i)
    for (int64_t d = 0; d < 12; ++d) qkv.set(i * 12 + d, k[i][d % 4]);
  write_kv(machine, cache, qkv, 1);
  const KvSpan& span = cache.plan().spans[0];
  for (bool value : {false, true}) {
    auto scale = [&](int64_t i) { return to_float(*cache.scale(span, i, 0, value).bf16()); };
    auto code = [&](int64_t i, int64_t d) { return static_cast<uint8_t*>(cache.entry(span, i, 0, value).data)[d]; };
    for (int64_t i = 0; i < 4; ++i) CHECK(scale(i) == 1);
    CHECK(std::isnan(scale(4)));
    CHECK(std::isinf(scale(5)));
    CHECK(code(0, 0) == 0x7E);
    CHECK(code(0, 1) == 0x7E);
    CHECK(code(0, 2) == 0xB8);
    CHECK(code(0, 3) == 1);
    for (int64_t d = 0; d < 4; ++d) CHECK((code(1, d) & 0x7F) == 0);
    CHECK(code(2, 0) == 0x7E);
    CHECK(code(2, 1) == 0xFE);
    CHECK(code(3, 0) == 0);
    for (int64_t d = 0; d < 4; ++d) CHECK((code(4, d) & 0x7F) == 0x7F);
    CHECK((code(5, 0) & 0x7F) == 0x7F);
    CHECK(code(5, 1) == 0);  // times an infinite scale: NaN
  }
}
