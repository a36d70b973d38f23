#include "kernels/cuda/gpu_testing.h"

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

TEST_CASE("cuda rope: q to its tensor, k and v to their pages, as the CPU's with every combination of options") {
  Machine cpu_machine(1);
  GpuMachine gpu;
  struct Case {
    const char* what;
    bool rope, qk_norm, temperature;
    int64_t n_heads, n_kv, hd;
    std::vector<Stretch> spans;
    int32_t shift = 100000;  // of the positions
  };
  const Case cases[] = {
      {"rope and norm", true, true, false, 4, 2, 16, {{0, 1}}},
      {"rope alone", true, false, false, 2, 2, 8, {{5, 3}, {8, 1}}},
      {"temperature", false, false, true, 3, 1, 16, {{0, 9}, {30, 7}}},
      {"nothing: norm belongs to rope, temperature is off", false, true, false, 2, 1, 24, {{0, 5}}},
      {"temperature never on rope layers", true, true, true, 2, 1, 128, {{300, 17}}},
      {"Scout's heads, far away", true, true, false, 40, 8, 128, {{7, 2}}, 9999999},
      {"a head of 20: no pieces", true, true, false, 3, 1, 20, {{6, 4}}},
      {"a head of 256", true, true, false, 1, 1, 256, {{6, 4}}},
  };
  for (const Case& c : cases)
    for (DType a : {DType::f32, DType::bf16})
      for (DType kept : {DType::f32, DType::bf16}) {
        INFO(cat(c.what, " ", dtype_name(a), " ", dtype_name(kept)));
        Numbers numbers(2);
        PagedCache cache(numbers, kept, c.n_kv, c.hd, 8, c.spans);
        for (int32_t& p : cache.step.positions) p += c.shift;
        const int64_t t = cache.step.n_rows(), n_all = c.n_heads + 2 * c.n_kv;
        Values qkv = numbers.tensor(a, {t, n_all * c.hd}, -2, 2), q(a, {t, c.n_heads, c.hd}),
               f = inverse_frequencies(c.hd);
        const View gqkv = gpu.upload(qkv), gq = gpu.upload(q);
        const KvLayer layer = gpu.upload(cache);
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
        QkvArgs gpu_args = args;
        gpu_args.q = gq;
        gpu_args.kv = layer;
        cpu_machine.run([&](const cpu::OpContext& ctx) { cpu::finish_qkv(ctx, args, qkv); });
        gpu.run([&](const cuda::OpContext& ctx) { cuda::finish_qkv(ctx, gpu_args, gqkv); });

        Tolerance tolerance = tolerance::kRope;  // cosines differ by a unit in the last place
        tolerance.f32 = 1e-6, tolerance.bf16_differ = 0.02;
        auto near = [&](const View& got, const View& want) {
          return difference(got, doubles(want), Doubles(size_t(want.elements()), 3), tolerance);
        };
        CHECK(near(gpu.download(gq), q) == "");
        // Every byte of the pages: what nobody wrote is NaN still.
        const Values want = cache.memory;
        gpu.download(cache, layer);
        const int64_t n = want.view.elements() / int64_t(dtype_bytes(kept));
        const View got_pages{cache.memory.view.data, kept, {n}}, want_pages{want.view.data, kept, {n}};
        int64_t written = 0;
        double worst = 0;
        bool same_places = true;
        for (int64_t i = 0; i < n; ++i) {
          const double g = Values::value(got_pages, i), w = Values::value(want_pages, i);
          same_places = same_places && (g == g) == (w == w);
          if (w != w || g != g) continue;
          ++written;
          worst = std::max(worst, std::abs(g - w));
        }
        CHECK(same_places);
        CHECK(written == 2 * t * c.n_kv * c.hd);
        CHECK(worst <= (a == DType::f32 && kept == DType::f32 ? 4e-6 : 0.02));
      }
}

TEST_CASE("cuda rope: codes and scales of an FP8 cache, as the CPU's bit by bit, and nothing else is written") {
  Machine cpu_machine(1);
  GpuMachine gpu;
  struct Case {
    const char* what;
    int64_t n_heads, n_kv, hd, page_tokens;
    std::vector<Stretch> spans;
  };
  const Case cases[] = {
      {"one row", 2, 1, 8, 4, {{0, 1}}},
      {"a head of 20: no pieces", 3, 1, 20, 8, {{6, 4}}},
      {"odd rows over pages' edges", 4, 2, 24, 8, {{3, 13}, {16, 5}, {7, 1}}},
      {"pages of one entry", 2, 2, 16, 1, {{0, 5}}},
      {"Scout's heads at a page's edge", 40, 8, 128, 128, {{127, 2}, {126, 1}}},
      {"a head of 256", 2, 1, 256, 8, {{6, 4}}},
  };
  // Neither rotation nor norm: what is kept are the numbers themselves.
  const double sizes[] = {0, 1, 448, 0.01, 3e4, 1e-6, 1e30, 1e-41, NAN, INFINITY};
  for (const Case& c : cases)
    for (DType a : {DType::f32, DType::bf16})
      for (const bool fixed : {false, true}) {
        INFO(cat(c.what, " ", dtype_name(a), fixed ? " fixed scales" : ""));
        Numbers numbers(3);
        PagedCache cache(numbers, DType::f8_e4m3, c.n_kv, c.hd, c.page_tokens, c.spans);
        if (fixed) cache.fix_scales(0.0371f, 1.0f);  // of which some numbers are beyond the largest code
        const int64_t t = cache.step.n_rows(), n_all = c.n_heads + 2 * c.n_kv;
        Values qkv(a, {t, n_all * c.hd}), q(a, {t, c.n_heads, c.hd});
        for (int64_t i = 0; i < t * n_all; ++i) {
          const double size = sizes[numbers.below(std::size(sizes))];
          for (int64_t d = 0; d < c.hd; ++d) {
            const double v = numbers.uniform(-1, 1);
            qkv.set(i * c.hd + d, std::isfinite(size) ? v * size : d == i % c.hd ? size : v);
          }
        }
        const View gqkv = gpu.upload(qkv), gq = gpu.upload(q);
        const KvLayer layer = gpu.upload(cache);
        QkvArgs args{};
        args.step = &cache.step, args.kv = cache.layer, args.q = q;
        QkvArgs gpu_args = args;
        gpu_args.kv = layer, gpu_args.q = gq;
        cpu_machine.run([&](const cpu::OpContext& ctx) { cpu::finish_qkv(ctx, args, qkv); });
        gpu.run([&](const cuda::OpContext& ctx) { cuda::finish_qkv(ctx, gpu_args, gqkv); });
        Values want = cache.memory;
        gpu.download(cache, layer);
        // A NaN is a NaN, whatever its sign and bits.
        if (!fixed)
          for (const KvSpan& span : cache.plan().spans)
            for (int64_t i = span.past; i < span.past + span.n_rows; ++i)
              for (int64_t h = 0; h < 2 * c.n_kv; ++h) {
                const View got = cache.scale(span, i, h / 2, h % 2);
                BFloat16* expected = reinterpret_cast<BFloat16*>(
                    want.storage.data() + (static_cast<std::byte*>(got.data) - cache.memory.storage.data()));
                if (!std::isnan(to_float(*expected))) continue;
                CHECK(std::isnan(to_float(*got.bf16())));
                *expected = *got.bf16();
              }
        for (Values* pages : {&want, &cache.memory})
          for (std::byte& b : pages->storage)
            if ((b & std::byte{0x7F}) == std::byte{0x7F}) b = std::byte{0x7F};
        CHECK((cache.memory.storage == want.storage));
      }
}

TEST_CASE("cuda rope: a rotated and normalised key is rounded before it becomes codes") {
  Machine cpu_machine(1);
  GpuMachine gpu;
  for (DType a : {DType::f32, DType::bf16}) {
    Numbers numbers(5);
    PagedCache cache(numbers, DType::f8_e4m3, 2, 128, 128, {{250, 9}, {0, 3}});
    const int64_t t = cache.step.n_rows();
    const Values qkv = numbers.tensor(a, {t, 14 * 128}, -2, 2), q(a, {t, 10, 128}), f = inverse_frequencies(128);
    const View gqkv = gpu.upload(qkv), gq = gpu.upload(q);
    const KvLayer layer = gpu.upload(cache);
    QkvArgs args{};
    args.step = &cache.step, args.kv = cache.layer, args.q = q, args.inv_freq = f;
    args.qk_norm = true, args.qk_norm_eps = 1e-5f;
    QkvArgs gpu_args = args;
    gpu_args.kv = layer, gpu_args.q = gq;
    cpu_machine.run([&](const cpu::OpContext& ctx) { cpu::finish_qkv(ctx, args, qkv); });
    gpu.run([&](const cuda::OpContext& ctx) { cuda::finish_qkv(ctx, gpu_args, gqkv); });
    const Values want = cache.memory;
    gpu.download(cache, layer);
    // Cosines differ by a unit in the last place: a code here and there is its neighbour.
    int64_t differ = 0, worst = 0;
    for (const KvSpan& span : cache.plan().spans)
      for (int64_t i = span.past; i < span.past + span.n_rows; ++i)
        for (int64_t h = 0; h < 4; ++h) {
          const View got = cache.entry(span, i, h / 2, h % 2);
          const size_t at = size_t(static_cast<std::byte*>(got.data) - cache.memory.storage.data());
          for (size_t d = 0; d < 128; ++d) {
            const int g = static_cast<uint8_t*>(got.data)[d], w = int(want.storage[at + d]);
            differ += g != w;
            worst = std::max<int64_t>(worst, std::abs(g - w));
          }
        }
    CHECK(differ <= t * 4 * 128 / 100);
    CHECK(worst <= 1);
  }
}

TEST_CASE("cuda rope: a cache type that is not served is said") {
  GpuMachine gpu;
  KvLayer kv;
  kv.layout = {.dtype = DType::f16, .page_tokens = 4, .n_kv_heads = 1, .head_dim = 8};
  Values qkv(DType::f32, {1, 24}), q(DType::f32, {1, 1, 8});
  QkvArgs args{};
  args.kv = kv, args.q = q;
  CHECK(error_of([&] { gpu.run([&](const cuda::OpContext& ctx) { cuda::finish_qkv(ctx, args, qkv); }); }) ==
        "the CUDA backend keeps the KV cache in F32, BF16 or F8_E4M3, not F16");
}
