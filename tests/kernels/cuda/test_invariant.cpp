// Batch-invariant stages: a row's results have the same bits alone, among few and among many rows, across every number
// of rows at which kernels or their tiles change otherwise. The engine as a whole: test_invariant_engine.cpp.
#include "kernels/cpu/quantized.h"
#include "kernels/cuda/attention/choose.h"
#include "kernels/cuda/stage_testing.h"

using namespace l4;
using namespace l4::test;

namespace {

struct Scheme {
  const char* what;
  WeightFormat format;
  InputFormat input;
  int64_t group, width;  // of weights: a multiple of it
  const char* kernel;    // of any number of rows
};
constexpr Scheme kSchemes[] = {
    {"bf16", WeightFormat::bf16, InputFormat::as_is, 0, 256, "grouped"},
    {"fp8, tokens quantised", WeightFormat::fp8, InputFormat::fp8_token, 0, 256, "fp8"},
    {"fp8, input by one scale", WeightFormat::fp8, InputFormat::fp8_static, 0, 256, "fp8"},
    {"fp8 alone", WeightFormat::fp8, InputFormat::as_is, 0, 256, "dequantized"},
    {"int4 in groups of 32", WeightFormat::int4, InputFormat::as_is, 32, 256, "int4"},
    {"int4 in groups of 128", WeightFormat::int4, InputFormat::as_is, 128, 512, "int4"},
    {"int4 of no kernel's shape", WeightFormat::int4, InputFormat::as_is, 32, 320, "dequantized"},
};
constexpr Scheme kWithBias{"bf16 with a bias", WeightFormat::bf16, InputFormat::as_is, 0, 256, "generic"};

// Rows [first, first + n) of a step of kRows are a step of their own. Kernels change at 16 and 512, tiles at multiples
// of 16, at 64 and at 256.
constexpr int64_t kRows = 530;
struct Part {
  int64_t first, n;
};
#ifdef L4_EMULATED  // whose every product takes its time
constexpr Part kParts[] = {{7, 1}, {5, 17}, {100, 65}};
#else
constexpr Part kParts[] = {{0, 1}, {7, 1}, {529, 1}, {3, 16}, {5, 17}, {100, 65}, {18, 512}, {0, 513}};
#endif

template <class Body>
void for_schemes(Body&& body) {
  skip_without_gpu();
  for (const Scheme& scheme : kSchemes) {
    INFO(std::string(scheme.what));
    body(scheme);
  }
}

StepPlan plain_step(int64_t n_rows) {
  StepPlan step;
  step.ids.resize(size_t(n_rows)), step.positions.resize(size_t(n_rows));
  return step;
}

// A backend for any of the steps, and weights in its memory.
struct Invariant : Side {
  Numbers numbers{7};
  std::unique_ptr<Comm> one = make_single_comm();

  explicit Invariant(const StepPlan& largest = plain_step(kRows), int64_t page_tokens = 1)
      : Side(make_cuda_backend(0, options(largest, page_tokens))) {}

  const PackedWeight* weight(const Scheme& scheme, const char* name, int64_t n, int64_t k, int64_t n_experts = 1,
                             bool gated = false, bool bias = false) {
    LinearSpec spec{.name = name, .n = n, .k = k, .n_experts = n_experts, .gated = gated, .bias = bias};
    if (!is_quantized(scheme.format)) {
      spec.format = scheme.format;
      return pack(Weights(pool_, numbers, spec, scale_of(k)));
    }
    spec.format = scheme.format, spec.group = scheme.group, spec.input = scheme.input, spec.input_scale = 0.01f;
    QuantizedWeights w(numbers, spec, {.rows = gated});
    for (int64_t i = 0; i < w.scale.view.elements(); ++i)
      w.scale.set(i, numbers.uniform(0.5, 1) * scale_of(k) / (scheme.group ? 8 : 448));
    return pack(w);
  }

 private:
  static CudaOptions options(const StepPlan& step, int64_t page_tokens) {
    CudaOptions o = Sides::options_for(step, page_tokens);
    o.max_out_rows = o.max_rows;
    o.batch_invariant = true;
    return o;
  }
  ThreadPool pool_{1};
};

// results(first, n): what a step of those rows gives, row by row.
template <class Results>
void check_parts(const Results& results) {
  const std::vector<Values> all = results(Part{0, kRows});
  for (const Part& part : kParts) {
    CAPTURE(part.first);
    CAPTURE(part.n);
    const std::vector<Values> alone = results(part);
    REQUIRE(alone.size() == all.size());
    for (size_t i = 0; i < all.size(); ++i) {
      CAPTURE(i);
      CHECK(same_bits(alone[i], all[i].view.slice(part.first, part.n)));
    }
  }
}

}  // namespace

TEST_CASE("cuda invariant: the head's products, in every format") {
  for_schemes([](const Scheme& scheme) {
    Invariant gpu;
    const int64_t k = scheme.width, n = 200;
    const PackedWeight* w = gpu.weight(scheme, "head", n, k);
    const Values h = gpu.numbers.tensor(DType::bf16, {kRows, k}, -2, 2);
    check_parts([&](const Part& part) {
      HeadArgs args{.h = gpu.upload(h.view.slice(part.first, part.n)),
                    .w = w,
                    .logits = gpu.empty(DType::f32, {part.n, n}),
                    .comm = gpu.one.get(),
                    .work = nullptr};
      CHECK(gpu.backend->kernel_of(args) == scheme.kernel);
      gpu.backend->begin_step(plain_step(part.n));
      gpu.run([&](Arena& work) {
        args.work = &work;
        gpu.backend->head(args);
      });
      std::vector<Values> results;
      results.push_back(gpu.download(args.logits));
      return results;
    });
  });
}

TEST_CASE("cuda invariant: the end of attention in every format: product, residual, norm, route") {
  auto check = [](const Scheme& scheme, bool bias) {
    Invariant gpu;
    const int64_t k = scheme.width, d = 256, n_experts = 16;
    const PackedWeight* w = gpu.weight(scheme, "o", d, k, 1, false, bias);
    const PackedWeight* router = gpu.weight(kSchemes[0], "router", n_experts, d);
    const Values attn = gpu.numbers.tensor(DType::bf16, {kRows, k}),
                 x0 = gpu.numbers.tensor(DType::bf16, {kRows, d}, -2, 2);
    const View norm = gpu.upload(gpu.numbers.tensor(DType::bf16, {d}, 0.5, 1.5));
    check_parts([&](const Part& part) {
      auto rows = [&](const Values& v) { return gpu.upload(v.view.slice(part.first, part.n)); };
      const Route route{1, gpu.empty(DType::i32, {part.n, 1}), gpu.empty(DType::f32, {part.n, 1})};
      AttnOutArgs args{.attn = rows(attn),
                       .w = w,
                       .x = rows(x0),
                       .norm_weight = norm,
                       .norm_eps = 1e-5f,
                       .h = gpu.empty(DType::bf16, {part.n, d}),
                       .router = router,
                       .route = route,
                       .comm = gpu.one.get(),
                       .work = nullptr};
      CHECK(gpu.backend->kernel_of(args) == scheme.kernel);
      gpu.backend->begin_step(plain_step(part.n));
      gpu.run([&](Arena& work) {
        args.work = &work;
        gpu.backend->attn_out(args);
      });
      std::vector<Values> results;
      for (const View& v : {args.x, args.h, route.expert, route.score}) results.push_back(gpu.download(v));
      return results;
    });
  };
  for_schemes([&](const Scheme& scheme) { check(scheme, false); });
  check(kWithBias, true);
}

TEST_CASE("cuda invariant: feed-forward blocks in every format, dense and routed, an expert elsewhere") {
  for_schemes([](const Scheme& scheme) {
    for (const int64_t n_experts : {int64_t(0), int64_t(3)}) {
      CAPTURE(n_experts);
      const bool moe = n_experts > 0;
      Invariant gpu;
      const int64_t d = scheme.width, ffn = scheme.width, experts = std::max<int64_t>(n_experts, 1);
      const PackedWeight *shared_up = gpu.weight(scheme, "shared up", 2 * ffn, d, 1, true),
                         *shared_down = gpu.weight(scheme, "shared down", d, ffn),
                         *up = gpu.weight(scheme, "up", 2 * ffn, d, experts, true),
                         *down = gpu.weight(scheme, "down", d, ffn, experts);
      const Values h = gpu.numbers.tensor(DType::bf16, {kRows, d}),
                   x0 = gpu.numbers.tensor(DType::bf16, {kRows, d}, -0.2, 0.2);
      const View norm = gpu.upload(gpu.numbers.tensor(DType::bf16, {d}, 0.5, 1.5));
      Values expert(DType::i32, {kRows, 1}), score(DType::f32, {kRows, 1});
      for (int64_t row = 0; row < kRows; ++row) {
        expert.set(row, double(row * row % 7 % (n_experts + 1)));  // the last one is another rank's
        score.set(row, round_as(DType::bf16, gpu.numbers.uniform(0.1, 0.9)));
      }
      check_parts([&](const Part& part) {
        auto rows = [&](const Values& v) { return gpu.upload(v.view.slice(part.first, part.n)); };
        const Route route = moe ? Route{1, rows(expert), rows(score)} : Route{};
        FfnUpArgs first{.h = rows(h),
                        .shared = shared_up,
                        .experts = moe ? up : nullptr,
                        .first_expert = 0,
                        .route = route,
                        .act_shared = gpu.empty(DType::bf16, {part.n, ffn}),
                        .act_routed = moe ? gpu.empty(DType::bf16, {part.n, ffn}) : View{},
                        .work = nullptr};
        FfnDownArgs second{.act_shared = first.act_shared,
                           .shared = shared_down,
                           .act_routed = first.act_routed,
                           .experts = moe ? down : nullptr,
                           .first_expert = 0,
                           .route = route,
                           .x = rows(x0),
                           .norm_weight = norm,
                           .norm_eps = 1e-5f,
                           .h = gpu.empty(DType::bf16, {part.n, d}),
                           .comm = gpu.one.get(),
                           .work = nullptr};
        CHECK(gpu.backend->kernel_of(first) ==
              (std::string(scheme.kernel) == "dequantized" ? "dequantized" : "grouped"));
        CHECK(gpu.backend->kernel_of(second) == gpu.backend->kernel_of(first));
        gpu.backend->begin_step(plain_step(part.n));
        gpu.run([&](Arena& work) {
          first.work = second.work = &work;
          gpu.backend->ffn_up(first);
          gpu.backend->ffn_down(second);
        });
        std::vector<Values> results;
        for (const View& v : {second.x, second.h}) results.push_back(gpu.download(v));
        return results;
      });
    }
  });
}

TEST_CASE("cuda invariant: attention of a span's rows, at once, cut anywhere, and beside others") {
  skip_without_gpu();
  constexpr int64_t kHeads = 10, kKv = 2, kHd = 128, kPage = 128;
  for (const DType kv : {DType::bf16, DType::f8_e4m3}) {
    CAPTURE(std::string(dtype_name(kv)));
    // The span in question is the first: 300 rows behind `past` keys.
    for (const int64_t past : {0, 77}) {
      CAPTURE(past);
      const Shape shape{300, kHeads, kHd};
      Numbers numbers(9);
      const Values q = numbers.tensor(DType::bf16, shape, -3, 3);
      // What rows [first, first + n) give in a step with `others`.
      auto attend = [&](const Part& part, std::vector<Stretch> others) {
        std::vector<Stretch> spans{{past + part.first, part.n}};
        spans.insert(spans.end(), others.begin(), others.end());
        Numbers of_cache(3);
        PagedCache cache(of_cache, kv, kKv, kHd, kPage, spans);
        int64_t seed = 0;  // the first span's entries are the same in every step
        for (const KvSpan& span : cache.plan().spans) {
          Numbers entries(uint64_t(10 + seed++));
          for (int64_t i = 0; i < span.past + span.n_rows; ++i)
            for (int64_t head = 0; head < kKv; ++head)
              for (const bool value : {false, true}) {
                Doubles written;
                for (int64_t e = 0; e < kHd; ++e) written.push_back(entries.uniform(-2, 2));
                cache.put(span, i, head, value, written);
              }
        }
        const int64_t t = cache.step.n_rows();
        Values queries = numbers.tensor(DType::bf16, {t, kHeads, kHd}, -3, 3);
        std::memcpy(queries.view.data, q.view.slice(part.first, part.n).data, q.view.slice(part.first, part.n).bytes());
        Invariant gpu(cache.step, kPage);
        AttentionArgs args{.step = &cache.step,
                           .q = gpu.upload(queries),
                           .kv = gpu.upload(cache),
                           .scale = 0.1f,
                           .out = gpu.empty(DType::bf16, {t, kHeads, kHd}),
                           .work = nullptr};
        CHECK(gpu.backend->kernel_of(args) == "prefill");
        gpu.backend->begin_step(cache.step);
        gpu.run([&](Arena& work) {
          args.work = &work;
          gpu.backend->attention(args);
        });
        const Values out = gpu.download(args.out);
        Values own(DType::bf16, {part.n, kHeads, kHd});
        std::memcpy(own.view.data, out.view.data, own.view.bytes());
        return own;
      };
      const Values all = attend({0, 300}, {});
      for (const Part& part : {Part{0, 1}, Part{299, 1}, Part{130, 8}, Part{51, 200}})
        for (const std::vector<Stretch>& others :
             {std::vector<Stretch>{}, {{0, 1}, {500, 1}, {127, 1}}, {{5, 140}, {900, 3}}}) {
          CAPTURE(part.first);
          CAPTURE(part.n);
          CAPTURE(others.size());
          CHECK(same_bits(attend(part, others), all.view.slice(part.first, part.n)));
        }
    }
  }
}
