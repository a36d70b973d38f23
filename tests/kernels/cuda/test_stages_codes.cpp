// The stages with FP8 and INT4 weights and with quantised input, on the CUDA backend against the CPU backend. Compared
// are whole outputs: where an input differs by its last bit, a code of it may be the next one, a sixteenth of that
// input.
#include "kernels/cuda/stage_testing.h"

using namespace l4;
using namespace l4::test;

namespace {

struct Scheme {
  const char* what;
  WeightFormat format;
  InputFormat input;
};
constexpr Scheme kPlain{"bf16", WeightFormat::bf16, InputFormat::as_is};
constexpr Scheme kSchemes[] = {
    {"fp8", WeightFormat::fp8, InputFormat::as_is},
    {"fp8, tokens quantised", WeightFormat::fp8, InputFormat::fp8_token},
    {"fp8, input by one scale", WeightFormat::fp8, InputFormat::fp8_static},
    {"int4", WeightFormat::int4, InputFormat::as_is},
};

template <class Body>
void for_schemes_and_types(Body&& body) {
  skip_without_gpu();
  for (const Scheme& scheme : kSchemes)
    for (DType a : {DType::f32, DType::bf16}) {
      const std::string what = cat(scheme.what, ", ", dtype_name(a));
      INFO(what);
      body(scheme, a);
    }
}

// Their sums are near the size of the inputs.
QuantizedWeights weights(Numbers& numbers, const Scheme& scheme, const char* name, int64_t n, int64_t k,
                         int64_t n_experts = 1, bool gated = false) {
  const bool by_groups = scheme.format == WeightFormat::int4;
  QuantizedWeights w(numbers,
                     {.name = name,
                      .n = n,
                      .k = k,
                      .n_experts = n_experts,
                      .gated = gated,
                      .format = by_groups ? WeightFormat::int4 : WeightFormat::fp8,
                      .group = by_groups ? 32 : 0,
                      .input = scheme.input,
                      .input_scale = 0.01f},
                     {.rows = gated, .columns = true});
  for (int64_t i = 0; i < w.scale.view.elements(); ++i)
    w.scale.set(i, numbers.uniform(0.5, 1) * scale_of(k) / (by_groups ? 8 : 448));
  return w;
}

// As the scheme has it: codes, or their values in BF16.
const PackedWeight* pack(Side& side, const QuantizedWeights& w, const Scheme& scheme) {
  if (is_quantized(scheme.format)) return side.pack(w);
  LinearSpec spec = w.spec;
  spec.format = scheme.format;
  const Values plain(DType::bf16, {spec.n_experts, spec.n, spec.k});
  std::vector<WeightSlice> slices;
  for (int64_t e = 0; e < spec.n_experts; ++e) {
    slices.push_back({plain.view.slice(e, 1).data, DType::bf16, spec.n, spec.k, spec.k, 1, e, 0, 0});
    for (int64_t n = 0; n < spec.n; ++n)
      for (int64_t k = 0; k < spec.k; ++k) plain.set((e * spec.n + n) * spec.k + k, w.at(e, n, k));
  }
  return side.keep(side.backend->pack(spec, slices, {}));
}

void check_near(const Values& gpu, const Values& cpu, const Scheme& scheme) {
  const bool bf16 = cpu.view.dtype == DType::bf16;
  const double codes = scheme.input == InputFormat::as_is ? 0 : bf16 ? 0.02 : 0.003;
  CHECK(relative_error(gpu, doubles(cpu)) <= std::max(codes, bf16 ? 0.005 : 3e-6));
}

StepPlan plain_step(int64_t n_rows) {
  StepPlan step;
  step.ids.resize(size_t(n_rows)), step.positions.resize(size_t(n_rows));
  return step;
}

constexpr float kEps = 1e-5f;

struct FfnCase {
  const char* what;
  int64_t n_experts, top_k, first_expert, all_experts;
  int64_t ffn = 64;  // with 256 the kernels of few rows serve it
};
void check_ffn(const Scheme& of_up, const Scheme& of_down, DType a, const FfnCase& c, int64_t t) {
  INFO(std::string(c.what));
  CAPTURE(t);
  constexpr int64_t kHidden = 256;
  const int64_t ffn = c.ffn;
  Numbers numbers(3);
  const StepPlan step = plain_step(t);
  Sides sides(step);
  const bool moe = c.n_experts > 0;
  const int64_t experts = std::max<int64_t>(c.n_experts, 1), k = std::max<int64_t>(c.top_k, 1);
  const QuantizedWeights shared_up = weights(numbers, of_up, "shared up", 2 * ffn, kHidden, 1, true),
                         shared_down = weights(numbers, of_down, "shared down", kHidden, ffn),
                         up = weights(numbers, of_up, "up", 2 * ffn, kHidden, experts, true),
                         down = weights(numbers, of_down, "down", kHidden, ffn, experts);
  const Values h = numbers.tensor(a, {t, kHidden}), x0 = numbers.tensor(a, {t, kHidden}, -0.2, 0.2);
  const Values norm = numbers.tensor(a, {kHidden}, 0.5, 1.5);
  Values expert(DType::i32, {t, k}), score(DType::f32, {t, k});
  for (int64_t slot = 0; moe && slot < t * k; ++slot) {
    expert.set(slot, double((slot + slot / k) % c.all_experts));
    score.set(slot, round_as(a, numbers.uniform(0.1, 0.9)));
  }
  struct Out {
    Values act_shared, x, h;
  };
  auto [want, got] = sides.both([&](Side& side) {
    const View x = side.upload(x0), device_h = side.upload(h);
    const Route route = moe ? Route{c.top_k, side.upload(expert), side.upload(score)} : Route{};
    const View act_shared = side.empty(a, {t, ffn});
    const View act_routed = moe ? side.empty(a, {t * k, ffn}) : View{};
    const PackedWeight *su = pack(side, shared_up, of_up), *sd = pack(side, shared_down, of_down),
                       *u = pack(side, up, of_up), *d = pack(side, down, of_down);
    const View device_norm = side.upload(norm);
    side.backend->begin_step(step);
    side.run([&](Arena& work) {
      side.backend->ffn_up({.h = device_h,
                            .shared = su,
                            .experts = moe ? u : nullptr,
                            .first_expert = c.first_expert,
                            .route = route,
                            .act_shared = act_shared,
                            .act_routed = act_routed,
                            .work = &work});
      side.backend->ffn_down({.act_shared = act_shared,
                              .shared = sd,
                              .act_routed = act_routed,
                              .experts = moe ? d : nullptr,
                              .first_expert = c.first_expert,
                              .route = route,
                              .x = x,
                              .norm_weight = device_norm,
                              .norm_eps = kEps,
                              .h = device_h,
                              .comm = sides.one.get(),
                              .work = &work});
    });
    return Out{side.download(act_shared), side.download(x), side.download(device_h)};
  });
  if (!moe || a == DType::f32 || t <= 16)  // of more rows it may lie in the order of the experts
    check_near(got.act_shared, want.act_shared, of_up);
  const Scheme& coarser = of_up.input == InputFormat::as_is ? of_down : of_up;
  check_near(got.x, want.x, coarser);
  check_near(got.h, want.h, coarser);
}

}  // namespace

TEST_CASE("cuda stages: qkv with quantised weights, and the pages it writes") {
  for_schemes_and_types([](const Scheme& scheme, DType a) {
    constexpr int64_t kHidden = 256, kHeads = 3, kKv = 1, kHd = 16, kPage = 8;
    Numbers numbers(1);
    const PagedCache cache(numbers, a, kKv, kHd, kPage, {{3, 13}, {kPage, 1}});
    Sides sides(cache.step, kPage);
    const int64_t t = cache.step.n_rows();
    const QuantizedWeights w = weights(numbers, scheme, "qkv", (kHeads + 2 * kKv) * kHd, kHidden);
    const Values h = numbers.tensor(a, {t, kHidden}, -2, 2), inv_freq = numbers.tensor(DType::f32, {kHd / 2}, 0, 1);
    PagedCache caches[2] = {cache, cache};
    for (PagedCache& each : caches) each.layer.base = each.memory.storage.data() + each.layer.layout.layer_bytes;
    int n = 0;
    auto [want, got] = sides.both([&](Side& side) {
      QkvArgs args{.step = &cache.step,
                   .h = side.upload(h),
                   .w = side.pack(w),
                   .inv_freq = inv_freq.view,
                   .qk_norm = false,
                   .qk_norm_eps = kEps,
                   .temperature = false,
                   .floor_scale = 8192,
                   .attn_scale = 0.1f,
                   .kv = side.upload(cache),
                   .q = side.empty(a, {t, kHeads, kHd}),
                   .work = nullptr};
      side.backend->begin_step(cache.step);
      side.run([&](Arena& work) {
        args.work = &work;
        side.backend->qkv(args);
      });
      side.download(caches[n++]);
      return side.download(args.q);
    });
    check_near(got, want, scheme);
    // Keys and values, one row a stretch of both caches.
    Values entries[2] = {Values(a, {2 * t, kHd}), Values(a, {2 * t, kHd})};
    for (int side : {0, 1}) {
      auto* to = static_cast<std::byte*>(entries[side].view.data);
      for (const KvSpan& span : cache.plan().spans)
        for (int64_t i = span.past; i < span.past + span.n_rows; ++i)
          for (bool value : {false, true}) {
            const View from = caches[side].entry(span, i, 0, value);
            std::memcpy(to, from.data, from.bytes());
            to += from.bytes();
          }
    }
    check_near(entries[1], entries[0], scheme);
  });
}

TEST_CASE("cuda stages: attn_out with quantised weights") {
  for_schemes_and_types([](const Scheme& scheme, DType a) {
    for (int64_t t : {1, 17}) {
      CAPTURE(t);
      constexpr int64_t kHidden = 72, kWidth = 96;
      Numbers numbers(2);
      const StepPlan step = plain_step(t);
      Sides sides(step);
      const QuantizedWeights o = weights(numbers, scheme, "o", kHidden, kWidth);
      const Values attn = numbers.tensor(a, {t, kWidth}), x0 = numbers.tensor(a, {t, kHidden}, -0.2, 0.2);
      const Values norm = numbers.tensor(a, {kHidden}, 0.5, 1.5);
      auto [want, got] = sides.both([&](Side& side) {
        AttnOutArgs args{.attn = side.upload(attn),
                         .w = side.pack(o),
                         .x = side.upload(x0),
                         .norm_weight = side.upload(norm),
                         .norm_eps = kEps,
                         .h = side.empty(a, {t, kHidden}),
                         .router = nullptr,
                         .route = {},
                         .comm = sides.one.get(),
                         .work = nullptr};
        side.backend->begin_step(step);
        side.run([&](Arena& work) {
          args.work = &work;
          side.backend->attn_out(args);
        });
        return std::pair(side.download(args.x), side.download(args.h));
      });
      check_near(got.first, want.first, scheme);
      check_near(got.second, want.second, scheme);
    }
  });
}

TEST_CASE("cuda stages: feed-forward with quantised weights, dense and routed") {
  for_schemes_and_types([](const Scheme& scheme, DType a) {
    for (const FfnCase& c :
         {FfnCase{"dense", 0, 0, 0, 0}, FfnCase{"top 1", 3, 1, 0, 3}, FfnCase{"top 2, some elsewhere", 3, 2, 2, 7}})
      for (int64_t t : {1, 19}) check_ffn(scheme, scheme, a, c, t);
  });
}

TEST_CASE("cuda stages: feed-forward with quantised weights, of few rows") {
  skip_without_gpu();
  for (const Scheme& scheme : {kSchemes[1], kSchemes[2], kSchemes[3]})
    for (const FfnCase& c : {FfnCase{"dense", 0, 0, 0, 0, 256}, FfnCase{"top 1", 3, 1, 0, 3, 256},
                             FfnCase{"top 2, some elsewhere", 3, 2, 2, 7, 256}})
      for (int64_t t : {1, 4, 7, 13}) {
        INFO(std::string(scheme.what));
        check_ffn(scheme, scheme, DType::bf16, c, t);
      }
}

TEST_CASE("cuda stages: feed-forward with quantised weights alone, of more rows") {
  skip_without_gpu();
  for (const Scheme& scheme : {kSchemes[0], kSchemes[3]})
    for (const FfnCase& c : {FfnCase{"dense", 0, 0, 0, 0, 256}, FfnCase{"top 1, some elsewhere", 3, 1, 2, 7, 256}})
      for (int64_t t : {17, 100}) {
        INFO(std::string(scheme.what));
        check_ffn(scheme, scheme, DType::bf16, c, t);
      }
}

TEST_CASE("cuda stages: a feed-forward block of few rows of which one half alone is quantised is refused") {
  skip_without_gpu();
  for (bool up_is : {false, true}) {
    const std::string error = error_of([&] {
      check_ffn(up_is ? kSchemes[3] : kPlain, up_is ? kPlain : kSchemes[3], DType::bf16, {"top 1", 3, 1, 0, 3}, 1);
    });
    CHECK(error.find("shared down: the CUDA backend wants the weights of a feed-forward block's two halves in "
                     "formats that one "
                     "kernel serves: up has ") == 0);
  }
}

TEST_CASE("cuda stages: feed-forward blocks of more rows whose halves are of any two formats") {
  skip_without_gpu();
  for (const Scheme* up : {&kPlain, &kSchemes[0], &kSchemes[1], &kSchemes[2], &kSchemes[3]})
    for (const Scheme* down : {&kPlain, &kSchemes[1], &kSchemes[3]}) {
      INFO(std::string(up->what), ", ", std::string(down->what));
      check_ffn(*up, *down, DType::bf16, {"top 1, some elsewhere", 3, 1, 1, 5, 256}, 40);
    }
}

TEST_CASE("cuda stages: the head with quantised weights") {
  for_schemes_and_types([](const Scheme& scheme, DType a) {
    constexpr int64_t kHidden = 256, kVocab = 90;
    for (int64_t t : {1, 9}) {
      CAPTURE(t);
      Numbers numbers(4);
      StepPlan step = plain_step(t);
      for (int64_t i = 0; i < t; ++i) step.out_rows.push_back(int32_t(i));
      Sides sides(step);
      const QuantizedWeights head = weights(numbers, scheme, "head", kVocab, kHidden);
      const Values h = numbers.tensor(a, {t, kHidden}, -2, 2);
      auto [want, got] = sides.both([&](Side& side) {
        HeadArgs args{.h = side.upload(h),
                      .w = side.pack(head),
                      .logits = side.empty(DType::f32, {t, kVocab}),
                      .comm = sides.one.get(),
                      .work = nullptr};
        side.backend->begin_step(step);
        side.run([&](Arena& work) {
          args.work = &work;
          side.backend->head(args);
        });
        return side.download(args.logits);
      });
      if (a == DType::f32) {
        check_near(got, want, scheme);
      } else {  // float32 rounded to A
        CHECK(relative_error(got, doubles(want)) <= 0.005);
        for (int64_t i = 0; i < got.view.elements(); ++i) CHECK(got.at(i) == round_as(a, got.at(i)));
      }
    }
  });
}
