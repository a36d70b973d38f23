#include "kernels/cpu/paged_cache.h"
#include "kernels/cpu/simd/kernels.h"

using namespace l4;
using namespace l4::test;

namespace {

struct AttentionCase {
  const char* what;
  int64_t n_heads, n_kv, hd, page_tokens;
  std::vector<Stretch> spans;
};

// The cache of a case with random keys and values, and the numbers themselves: of each span [index][kv head][hd].
// Of F8_E4M3 each entry has a size of its own, so that another's scale would show; some are zero.
struct Cache : PagedCache {
  std::vector<Doubles> keys, values;

  Cache(Numbers& numbers, DType dtype, const AttentionCase& c, float k_scale = 0, float v_scale = 0)
      : PagedCache(numbers, dtype, c.n_kv, c.hd, c.page_tokens, c.spans) {
    const bool fp8 = dtype == DType::f8_e4m3;
    if (k_scale != 0) fix_scales(k_scale, v_scale);
    for (const KvSpan& span : plan().spans) {
      Doubles all[2];
      for (int64_t i = 0; i < (span.past + span.n_rows) * c.n_kv; ++i)
        for (bool value : {false, true}) {
          const double size = !fp8 ? 2 : numbers.below(20) == 0 ? 0 : std::exp2(numbers.uniform(-3, 1));
          Doubles head;
          for (int64_t d = 0; d < c.hd; ++d) head.push_back(numbers.uniform(-size, size));
          const Doubles read = put(span, i / c.n_kv, i % c.n_kv, value, head);
          all[value].insert(all[value].end(), read.begin(), read.end());
        }
      keys.push_back(all[0]);
      values.push_back(all[1]);
    }
  }

  AttentionArgs args(const StepPlan& of, const Values& q, const Values& out, double scale) const {
    return {.step = &of, .q = q, .kv = layer, .scale = float(scale), .out = out, .work = nullptr};
  }
};

const std::vector<AttentionCase> kCases = {
    {"one token", 1, 1, 8, 4, {{0, 1}}},
    {"decode at a page's first and last entry", 4, 2, 16, 8, {{8, 1}, {7, 1}, {15, 1}, {16, 1}}},
    {"prefill over pages of one entry", 2, 1, 16, 1, {{0, 9}}},
    {"pages of a size that divides no block", 2, 1, 16, 24, {{50, 60}}},
    {"block edges: 63, 64, 65 keys", 2, 2, 16, 16, {{62, 1}, {63, 1}, {64, 1}, {60, 12}, {0, 5}}},
    {"group edges: 1023 to 1026 keys in one span", 2, 1, 16, 32, {{1020, 12}}},
    {"several groups, decode", 4, 2, 16, 64, {{2999, 1}, {0, 1}}},
    {"longer groups beyond 65,536 keys, prefill", 1, 1, 8, 128, {{65530, 12}}},
    {"longer groups beyond 65,536 keys, decode", 1, 1, 8, 128, {{65535, 1}, {65536, 1}}},
    {"head dimension 24, five heads a kv head", 10, 2, 24, 8, {{3, 20}, {0, 17}}},
    {"head dimension 128", 4, 2, 128, 128, {{100, 40}, {0, 3}, {250, 1}}},
    {"more heads than a tile has queries", 20, 1, 16, 8, {{5, 13}}},
    {"chunks: a sequence's rows as two stretches", 2, 1, 16, 8, {{4, 4}, {0, 8}, {0, 2}}},
};

Doubles reference(const AttentionCase& c, const Cache& cache, const Values& q, double scale, Doubles* magnitude) {
  Doubles out;
  for (size_t i = 0; i < c.spans.size(); ++i)
    for (int64_t r = 0; r < c.spans[i].n_rows; ++r)
      for (int64_t h = 0; h < c.n_heads; ++h) {
        const int64_t n = c.spans[i].past + r + 1, kv = h * c.n_kv / c.n_heads;
        const int64_t row = cache.step.of(cache.layer.kind).spans[i].row + r;
        auto entry = [&](const Doubles& from, int64_t index, int64_t d) {
          return from[size_t((index * c.n_kv + kv) * c.hd + d)];
        };
        Doubles p;
        for (int64_t j = 0; j < n; ++j) {
          double s = 0;
          for (int64_t d = 0; d < c.hd; ++d) s += q.at((row * c.n_heads + h) * c.hd + d) * entry(cache.keys[i], j, d);
          p.push_back(s * scale);
        }
        const double top = *std::max_element(p.begin(), p.end());
        double total = 0;
        for (double& s : p) total += s = std::exp(s - top);
        for (int64_t d = 0; d < c.hd; ++d) {
          double sum = 0, size = 0;
          for (int64_t j = 0; j < n; ++j) {
            sum += p[size_t(j)] / total * entry(cache.values[i], j, d);
            size += p[size_t(j)] / total * std::abs(entry(cache.values[i], j, d));
          }
          out.push_back(sum);
          magnitude->push_back(size);
        }
      }
  return out;
}

}  // namespace

TEST_CASE("cpu attention: pages, spans, blocks and groups against doubles, with FP8 pages too") {
  Machine machine(2);
  auto check = [&](const AttentionCase& c, const Types& types, float k_scale, float v_scale) {
    const DType a = types.a;
    INFO(cat(c.what, ", ", dtype_name(a), ", ", dtype_name(types.kv), " ", k_scale));
    Numbers numbers(5);
    Cache cache(numbers, types.kv, c, k_scale, v_scale);
    const int64_t t = cache.step.n_rows();
    const double scale = 1 / std::sqrt(double(c.hd));
    Values q = numbers.tensor(a, {t, c.n_heads, c.hd}, -3, 3), out(a, {t, c.n_heads, c.hd});
    machine.run([&](const cpu::OpContext& ctx) { cpu::paged_attention(ctx, cache.args(cache.step, q, out, scale)); });
    Doubles magnitude, want = reference(c, cache, q, scale, &magnitude);
    for (double& v : want) v = round_as(a, v);
    CHECK(difference(out, want, magnitude, tolerance::kAttention) == "");
  };
  for (const AttentionCase& c : kCases)
    for (const Types& types : kTypes) {
      check(c, types, 0, 0);
      if (types.kv == DType::f8_e4m3) check(c, types, 0.0123f, 0.25f);
    }
}

TEST_CASE("cpu attention: scores far apart, and a cache of another type than the activations") {
  Machine machine(2);
  const AttentionCase c{"", 2, 1, 16, 8, {{70, 9}}};
  for (DType kv : {DType::f32, DType::bf16})
    for (double scale : {0.0, 1e-3, 30.0}) {
      INFO(cat(dtype_name(kv), " ", scale));
      Numbers numbers(6);
      Cache cache(numbers, kv, c);
      Values q = numbers.tensor(DType::f32, {9, 2, 16}, -3, 3), out(DType::f32, {9, 2, 16});
      machine.run([&](const cpu::OpContext& ctx) { cpu::paged_attention(ctx, cache.args(cache.step, q, out, scale)); });
      Doubles magnitude, want = reference(c, cache, q, scale, &magnitude);
      // exp turns an error of the score into one of the weight: scores reach a few hundred here
      for (double& m : magnitude) m *= std::max(1.0, scale * 16);
      CHECK(difference(out, want, magnitude, tolerance::kAttention) == "");
    }
}

TEST_CASE("cpu attention: a row's bits depend on neither the other rows nor the threads") {
  Machine one(1), three(3);
  const AttentionCase cases[] = {
      {"57 rows, some on both sides of a block's edge, some of a group's",
       6,
       2,
       40,
       16,
       {{3060, 20}, {0, 16}, {77, 1}, {118, 20}}},
      {"rows on both sides of the edge where groups grow longer", 2, 1, 8, 128, {{65530, 12}}},
  };
  for (const AttentionCase& c : cases)
    for (const Types& types : kTypes)
      for (double scale : {0.2, 0.001}) {  // scores of some units, and near zero
        const DType a = types.a;
        INFO(cat(c.what, " ", dtype_name(a), " ", dtype_name(types.kv), " ", scale));
        Numbers numbers(8);
        Cache cache(numbers, types.kv, c);
        const int64_t t = cache.step.n_rows();
        const Shape shape{t, c.n_heads, c.hd};
        Values q = numbers.tensor(a, shape, -3, 3), together(a, shape), again(a, shape);
        auto run = [&](Machine& m, const StepPlan& step, const View& queries, const View& out) {
          m.run([&](const cpu::OpContext& ctx) {
            AttentionArgs args = cache.args(step, q, together, scale);
            args.q = queries, args.out = out;
            cpu::paged_attention(ctx, args);
          });
        };
        run(three, cache.step, q, together);
        run(one, cache.step, q, again);
        CHECK(same_bits(together, again));
        const KvPlan& plan = cache.step.of(cache.layer.kind);
        for (const KvSpan& span : plan.spans)
          for (int32_t r = 0; r < span.n_rows; ++r) {
            StepPlan single;
            single.ids = {0};
            single.of(cache.layer.kind) = {{{0, 1, span.past + r, span.table}}, plan.pages};
            Values out(a, {1, c.n_heads, c.hd});
            run(three, single, q.view.slice(span.row + r, 1), out);
            CHECK(same_bits(out, together.view.slice(span.row + r, 1)));
          }
      }
}

TEST_CASE("cpu attention: a NaN in another row's future keys stays there") {
  Machine machine(2);
  Numbers numbers(9);
  const AttentionCase c{"", 1, 1, 16, 8, {{0, 12}}};
  Cache cache(numbers, DType::f32, c);
  Values q = numbers.tensor(DType::f32, {12, 1, 16}), out(DType::f32, {12, 1, 16}), bad(DType::f32, {12, 1, 16});
  machine.run([&](const cpu::OpContext& ctx) { cpu::paged_attention(ctx, cache.args(cache.step, q, out, 0.25)); });
  float* value = cache.entry(cache.plan().spans[0], 9, 0, true).f32();
  value[3] = NAN;
  machine.run([&](const cpu::OpContext& ctx) { cpu::paged_attention(ctx, cache.args(cache.step, q, bad, 0.25)); });
  CHECK(same_bits(out.view.slice(0, 9), bad.view.slice(0, 9)));
  for (int64_t r = 9; r < 12; ++r) CHECK(std::isnan(bad.at(r * 16 + 3)));
  // FP8 has a NaN too.
  Cache codes(numbers, DType::f8_e4m3, c);
  machine.run([&](const cpu::OpContext& ctx) { cpu::paged_attention(ctx, codes.args(codes.step, q, out, 0.25)); });
  static_cast<uint8_t*>(codes.entry(codes.plan().spans[0], 9, 0, true).data)[3] = 0xFF;
  machine.run([&](const cpu::OpContext& ctx) { cpu::paged_attention(ctx, codes.args(codes.step, q, bad, 0.25)); });
  CHECK(same_bits(out.view.slice(0, 9), bad.view.slice(0, 9)));
  for (int64_t r = 9; r < 12; ++r) CHECK(std::isnan(bad.at(r * 16 + 3)));
}

TEST_CASE("cpu attention: image tiles see all of themselves and nothing of each other") {
  Machine machine(2);
  struct Case {
    int64_t n, s, heads, hd;
  };
  for (const Case& c : {Case{1, 1, 1, 8}, Case{2, 17, 2, 8}, Case{3, 65, 3, 88}, Case{1, 130, 1, 16}})
    for (DType a : {DType::f32, DType::bf16}) {
      INFO(cat(c.n, " ", c.s, " ", c.heads, " ", c.hd, " ", dtype_name(a)));
      Numbers numbers(10);
      const Shape shape{c.n, c.s, c.heads, c.hd};
      Values q = numbers.tensor(a, shape, -2, 2), k = numbers.tensor(a, shape, -2, 2), v = numbers.tensor(a, shape);
      Values out(a, shape);
      const double scale = 1 / std::sqrt(double(c.hd));
      machine.run([&](const cpu::OpContext& ctx) {
        cpu::tile_attention(ctx, {.q = q, .k = k, .v = v, .scale = float(scale), .out = out, .work = nullptr});
      });
      Doubles want, magnitude;
      for (int64_t n = 0; n < c.n; ++n)
        for (int64_t i = 0; i < c.s; ++i)
          for (int64_t h = 0; h < c.heads; ++h) {
            auto at = [&](const Values& t, int64_t token, int64_t d) {
              return t.at(((n * c.s + token) * c.heads + h) * c.hd + d);
            };
            Doubles p;
            double top = -INFINITY, total = 0;
            for (int64_t j = 0; j < c.s; ++j) {
              double s = 0;
              for (int64_t d = 0; d < c.hd; ++d) s += at(q, i, d) * at(k, j, d);
              p.push_back(s * scale);
              top = std::max(top, p.back());
            }
            for (double& s : p) total += s = std::exp(s - top);
            for (int64_t d = 0; d < c.hd; ++d) {
              double sum = 0, size = 0;
              for (int64_t j = 0; j < c.s; ++j) {
                sum += p[size_t(j)] / total * at(v, j, d);
                size += p[size_t(j)] / total * std::abs(at(v, j, d));
              }
              want.push_back(round_as(a, sum));
              magnitude.push_back(size);
            }
          }
      CHECK(difference(out, want, magnitude, tolerance::kAttention) == "");
    }
}

TEST_CASE("cpu attention: every instruction set's block kernel against doubles") {
  Numbers numbers(12);
  for (const cpu::SimdKernels* kernels :
       {cpu::simd_kernels_generic(), cpu::simd_kernels_avx2(), cpu::simd_kernels_avx512()}) {
    if (!kernels) continue;
    for (int rows : {1, 2, 3, 4, 7})
      for (int n_keys : {1, 4, 5, 16, 33, 64}) {
        INFO(cat(kernels->name, " ", rows, " ", n_keys));
        const int width = 48, padded = (n_keys + 3) / 4 * 4;
        Values q = numbers.tensor(DType::f32, {rows, width}), k = numbers.tensor(DType::f32, {padded, width});
        Values v = numbers.tensor(DType::f32, {padded, width}), scores(DType::f32, {rows, 64});
        Values m(DType::f32, {rows}), l(DType::f32, {rows}), acc(DType::f32, {rows, width});
        const bool round_p = n_keys % 2 == 0;
        std::fill_n(m.view.f32(), rows, -INFINITY);
        std::fill_n(l.view.f32(), rows, 0.0f);
        std::fill_n(acc.view.f32(), rows * width, 0.0f);
        kernels->attend(rows, n_keys, width, q.view.f32(), k.view.f32(), v.view.f32(), 0.5f, round_p, scores.view.f32(),
                        m.view.f32(), l.view.f32(), acc.view.f32());
        Doubles want, size, total;
        for (int64_t r = 0; r < rows; ++r) {
          total.push_back(0);
          std::vector<double> p;
          for (int64_t j = 0; j < n_keys; ++j) {
            double s = 0;
            for (int64_t i = 0; i < width; ++i) s += q.at(r * width + i) * k.at(j * width + i);
            p.push_back(std::exp(s * 0.5 - m.at(r)));
            total.back() += p.back();  // before rounding
            if (round_p) p.back() = round_as(DType::bf16, p.back());
          }
          for (int64_t d = 0; d < width; ++d) {
            double sum = 0, terms = 0;
            for (int64_t j = 0; j < n_keys; ++j) {
              sum += p[size_t(j)] * v.at(j * width + d);
              terms += std::abs(p[size_t(j)] * v.at(j * width + d));
            }
            want.push_back(sum);
            size.push_back(terms);
          }
        }
        CHECK(difference(acc, want, size, tolerance::kAttention) == "");
        CHECK(difference(l, total, tolerance::kAttention) == "");
      }
  }
}
