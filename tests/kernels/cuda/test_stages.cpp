// Every stage of the CUDA backend against the CPU backend, over one table of shapes: the small odd ones of the generic
// kernels, and those that the fast kernels take. Routing is given to the MoE stages, so that both compute the same; the
// choice itself is compared where no two experts nearly tie.
#include <algorithm>

#include "kernels/cuda/stage_testing.h"

using namespace l4;
using namespace l4::test;

namespace {

struct Widths {
  const char* what;
  int64_t hidden, heads, kv, hd, page, ffn, vocab;
};
constexpr Widths kSmall{"small and odd", 48, 4, 2, 16, 8, 40, 90};
constexpr Widths kFast{"as the fast kernels want them", 256, 5, 1, 128, 128, 64, 264};

struct StepCase {
  const char* what;
  std::vector<Stretch> spans;
  int64_t second_chunk = -1;  // rows of this span are those that follow the span before it, across a chunk's edge
};
constexpr int64_t kChunk = 8192;
std::vector<StepCase> step_cases(int64_t page) {
  return {
      {"one row", {{0, 1}}},
      {"decode at the edges of pages", {{page - 1, 1}, {page, 1}, {page + 1, 1}, {0, 1}, {2 * page, 1}}},
      {"odd rows", {{3, 13}}},
      {"prefill over pages", {{page - 2, 5}, {0, page + 1}, {2 * page, 1}}},
      {"decode at the edge of a chunk", {{kChunk - 2, 1}, {kChunk - 1, 1}, {0, 1}, {1, 1}}, 2},
      {"prefill over the edge of a chunk", {{kChunk - 3, 3}, {0, 4}}, 1},
  };
}
// The table's steps as PagedCache, past entries filled.
PagedCache cache_of(Numbers& numbers, const StepCase& c, const Widths& w, DType a, AttentionKind kind, bool fill_new) {
  PagedCache cache(numbers, a, w.kv, w.hd, w.page, c.spans, kind);
  if (c.second_chunk >= 0) {
    const KvSpan& span = cache.plan().spans[size_t(c.second_chunk)];
    for (int32_t i = 0; i < span.n_rows; ++i)
      cache.step.positions[size_t(span.row + i)] = int32_t(kChunk + span.past + i);
  }
  for (const KvSpan& span : cache.plan().spans)
    for (int64_t i = 0; i < span.past + (fill_new ? span.n_rows : 0); ++i)
      for (int64_t head = 0; head < w.kv; ++head)
        for (bool value : {false, true}) {
          const View to = cache.entry(span, i, head, value);
          std::memcpy(to.data, numbers.tensor(a, {w.hd}).view.data, to.bytes());
        }
  return cache;
}

LinearSpec spec(const char* name, int64_t n, int64_t k, DType a, int64_t experts = 1, bool bias = false) {
  return {.name = name, .n = n, .k = k, .n_experts = experts, .bias = bias, .format = format_of(a)};
}
constexpr float kEps = 1e-5f;

template <class Body>
void for_widths_and_types(Body&& body) {
  for (const Widths& w : {kSmall, kFast})
    for (DType a : {DType::f32, DType::bf16}) {
      const std::string what = cat(w.what, ", ", dtype_name(a));
      INFO(what);
      body(w, a);
    }
}

}  // namespace

TEST_CASE("cuda stages: norm, qkv and the pages it writes") {
  skip_without_gpu();
  for_widths_and_types([](const Widths& w, DType a) {
    for (const StepCase& c : step_cases(w.page))
      for (bool rope : {true, false}) {
        INFO(std::string(c.what));
        CAPTURE(rope);
        Numbers numbers(1);
        const AttentionKind kind = rope ? AttentionKind::chunked : AttentionKind::global;
        PagedCache cache = cache_of(numbers, c, w, a, kind, false);
        Sides sides(cache.step, w.page);
        const int64_t t = cache.step.n_rows();
        const Weights qkv(sides.pool, numbers, spec("qkv", (w.heads + 2 * w.kv) * w.hd, w.hidden, a),
                          scale_of(w.hidden));
        const Values x = numbers.tensor(a, {t, w.hidden}, -2, 2), norm = numbers.tensor(a, {w.hidden}, 0.5, 1.5);
        const Values inv_freq = numbers.tensor(DType::f32, {w.hd / 2}, 0, 1);
        PagedCache caches[2] = {cache, cache};
        for (PagedCache& each : caches) each.layer.base = each.memory.storage.data() + each.layer.layout.layer_bytes;
        int n = 0;
        auto [want, got] = sides.both([&](Side& side) {
          NormArgs first{.step = &cache.step,
                         .out_rows = false,
                         .x = side.upload(x),
                         .norm_weight = side.upload(norm),
                         .norm_eps = kEps,
                         .h = side.empty(a, {t, w.hidden}),
                         .work = nullptr};
          QkvArgs args{.step = &cache.step,
                       .h = first.h,
                       .w = side.pack(qkv),
                       .inv_freq = rope ? inv_freq.view : View{},
                       .qk_norm = rope,
                       .qk_norm_eps = kEps,
                       .temperature = !rope,
                       .floor_scale = 8192,
                       .attn_scale = 0.1f,
                       .kv = side.upload(cache),
                       .q = side.empty(a, {t, w.heads, w.hd}),
                       .work = nullptr};
          side.backend->begin_step(cache.step);
          side.run([&](Arena& work) {
            first.work = args.work = &work;
            side.backend->norm(first);
            side.backend->qkv(args);
          });
          side.download(caches[n++]);
          return side.download(args.q);
        });
        CHECK(compare(got, want, 4) == "");
        // What was written is near, everything else is untouched.
        for (const KvSpan& span : cache.plan().spans)
          for (int64_t i = span.past; i < span.past + span.n_rows; ++i)
            for (int64_t head = 0; head < w.kv; ++head)
              for (bool value : {false, true}) {
                const View on_cpu = caches[0].entry(span, i, head, value),
                           on_gpu = caches[1].entry(span, i, head, value);
                const Doubles entry = doubles(on_cpu);
                const std::string wrong = difference(on_gpu, entry, Doubles(entry.size(), 4), tolerance::kStage);
                if (!wrong.empty()) FAIL_CHECK(cat("index ", i, ", head ", head, value ? ", v: " : ", k: ", wrong));
                std::memset(on_cpu.data, 0, on_cpu.bytes());
                std::memset(on_gpu.data, 0, on_gpu.bytes());
              }
        CHECK(same_bits(caches[0].memory, caches[1].memory));
      }
  });
}

TEST_CASE("cuda stages: attention over pages") {
  skip_without_gpu();
  for_widths_and_types([](const Widths& w, DType a) {
    for (const StepCase& c : step_cases(w.page)) {
      INFO(std::string(c.what));
      Numbers numbers(2);
      const PagedCache cache = cache_of(numbers, c, w, a, AttentionKind::chunked, true);
      Sides sides(cache.step, w.page);
      const int64_t t = cache.step.n_rows();
      const Values q = numbers.tensor(a, {t, w.heads, w.hd}, -3, 3);
      auto [want, got] = sides.both([&](Side& side) {
        AttentionArgs args{.step = &cache.step,
                           .q = side.upload(q),
                           .kv = side.upload(cache),
                           .scale = float(1 / std::sqrt(double(w.hd))),
                           .out = side.empty(a, {t, w.heads, w.hd}),
                           .work = nullptr};
        side.backend->begin_step(cache.step);
        side.run([&](Arena& work) {
          args.work = &work;
          side.backend->attention(args);
        });
        return side.download(args.out);
      });
      CHECK(compare(got, want, 1, tolerance::kAttention) == "");
    }
  });
}

TEST_CASE("cuda stages: attn_out, dense and routed") {
  skip_without_gpu();
  for_widths_and_types([](const Widths& w, DType a) {
    for (int64_t t : {1, 2, 13, 17, 70})
      for (int64_t top_k : {0, 1, 2}) {
        CAPTURE(t);
        CAPTURE(top_k);
        if (w.hidden == kFast.hidden && a == DType::f32 && t > 17) continue;  // generic kernels, done in small
        Numbers numbers(3);
        StepPlan step;
        step.ids.resize(size_t(t)), step.positions.resize(size_t(t));
        Sides sides(step);
        const int64_t width = w.heads * w.hd, n_experts = 16;
        const Weights o(sides.pool, numbers, spec("o", w.hidden, width, a), scale_of(width));
        const Weights router(sides.pool, numbers, spec("router", n_experts, w.hidden, a), scale_of(w.hidden));
        const Values attn = numbers.tensor(a, {t, width}), x0 = numbers.tensor(a, {t, w.hidden}, -2, 2);
        const Values norm = numbers.tensor(a, {w.hidden}, 0.5, 1.5);
        struct Out {
          Values x, h, expert, score;
        };
        auto [want, got] = sides.both([&](Side& side) {
          const View x = side.upload(x0), h = side.empty(a, {t, w.hidden});
          Route route{top_k, side.empty(DType::i32, {t, std::max<int64_t>(top_k, 1)}),
                      side.empty(DType::f32, {t, std::max<int64_t>(top_k, 1)})};
          AttnOutArgs args{.attn = side.upload(attn),
                           .w = side.pack(o),
                           .x = x,
                           .norm_weight = side.upload(norm),
                           .norm_eps = kEps,
                           .h = h,
                           .router = top_k ? side.pack(router) : nullptr,
                           .route = route,
                           .comm = sides.one.get(),
                           .work = nullptr};
          side.backend->begin_step(step);
          side.run([&](Arena& work) {
            args.work = &work;
            side.backend->attn_out(args);
          });
          return Out{side.download(x), side.download(h), side.download(route.expert), side.download(route.score)};
        });
        CHECK(compare(got.x, want.x, 4) == "");
        CHECK(compare(got.h, want.h, 4) == "");
        for (int64_t row = 0; row < t && top_k; ++row) {
          // Logits of the GPU's own h, and how far apart two may be and still be told apart.
          const double near = a == DType::f32 ? 1e-4 : 0.05;
          Doubles logits;
          for (int64_t e = 0; e < n_experts; ++e)
            logits.push_back(router.output(0, e, [&](int64_t k) { return got.h.at(row * w.hidden + k); }).first);
          Doubles sorted = logits;
          std::sort(sorted.rbegin(), sorted.rend());
          for (int64_t i = 0; i < top_k; ++i) {
            const int64_t e = int64_t(got.expert.at(row * top_k + i));
            REQUIRE((e >= 0 && e < n_experts));
            CHECK(logits[size_t(e)] > sorted[size_t(i)] - near);
            CHECK(got.score.at(row * top_k + i) ==
                  doctest::Approx(1 / (1 + std::exp(-logits[size_t(e)]))).epsilon(0.02));
          }
        }
      }
  });
}

TEST_CASE("cuda stages: feed-forward, dense and routed, with an expert nobody goes to and one that takes all") {
  skip_without_gpu();
  struct Case {
    const char* what;
    int64_t n_experts, top_k;  // 0 experts: dense
    int32_t only;              // all rows to this expert; -1: spread, but never to expert 2
    int64_t first_expert;      // of those that live here
  };
  for_widths_and_types([](const Widths& w, DType a) {
    for (const Case& c : {Case{"dense", 0, 0, 0, 0}, Case{"top 1", 4, 1, -1, 0}, Case{"top 2", 4, 2, -1, 0},
                          Case{"all to one", 4, 1, 3, 0}, Case{"half of the experts", 4, 1, -1, 4}})
      for (int64_t t : {1, 2, 14, 17, 70}) {
        if (w.hidden == kFast.hidden && a == DType::f32 && t > 17) continue;  // generic kernels, done in small
        INFO(std::string(c.what));
        CAPTURE(t);
        Numbers numbers(4);
        StepPlan step;
        step.ids.resize(size_t(t)), step.positions.resize(size_t(t));
        Sides sides(step);
        const bool moe = c.n_experts > 0;
        auto gated = [&](const char* name, int64_t experts) {
          LinearSpec s = spec(name, 2 * w.ffn, w.hidden, a, experts);
          s.gated = true;
          return s;
        };
        const int64_t experts = std::max<int64_t>(c.n_experts, 1);
        const Weights shared_up(sides.pool, numbers, gated("shared up", 1), scale_of(w.hidden)),
            shared_down(sides.pool, numbers, spec("shared down", w.hidden, w.ffn, a), scale_of(w.ffn)),
            up(sides.pool, numbers, gated("up", experts), scale_of(w.hidden)),
            down(sides.pool, numbers, spec("down", w.hidden, w.ffn, a, experts), scale_of(w.ffn));
        const Values h = numbers.tensor(a, {t, w.hidden}), x0 = numbers.tensor(a, {t, w.hidden}, -2, 2);
        const Values norm = numbers.tensor(a, {w.hidden}, 0.5, 1.5);
        const int64_t k = std::max<int64_t>(c.top_k, 1);
        Values expert(DType::i32, {t, k}), score(DType::f32, {t, k});
        for (int64_t slot = 0; slot < t * k; ++slot) {
          const int32_t spread[] = {0, 1, 3};
          int64_t e = c.only >= 0 ? c.only : spread[(slot + slot / 3) % 3];
          if (slot % k) e = (int64_t(expert.at(slot - 1)) + 1) % 4 == 2 ? 0 : (int64_t(expert.at(slot - 1)) + 1) % 4;
          if (c.first_expert && slot % 2) e += c.first_expert;  // half of the rows' experts live here, half elsewhere
          expert.set(slot, double(e));
          score.set(slot, round_as(a, numbers.uniform(0.1, 0.9)));
        }
        auto [want, got] = sides.both([&](Side& side) {
          const View x = side.upload(x0), device_h = side.upload(h), device_norm = side.upload(norm);
          const View last = side.upload(x0);  // the same without a norm to follow
          const Route route = moe ? Route{c.top_k, side.upload(expert), side.upload(score)} : Route{};
          const View act_shared = side.empty(a, {t, w.ffn}), act_routed = side.empty(a, {t * k, w.ffn});
          const PackedWeight *su = side.pack(shared_up), *sd = side.pack(shared_down), *u = side.pack(up),
                             *d = side.pack(down);
          side.backend->begin_step(step);
          side.run([&](Arena& work) {
            side.backend->ffn_up({.h = device_h,
                                  .shared = su,
                                  .experts = moe ? u : nullptr,
                                  .first_expert = c.first_expert,
                                  .route = route,
                                  .act_shared = act_shared,
                                  .act_routed = moe ? act_routed : View{},
                                  .work = &work});
            CHECK(work.mark() == 0);  // a stage leaves nothing behind
            for (bool is_last : {false, true})
              side.backend->ffn_down({.act_shared = act_shared,
                                      .shared = sd,
                                      .act_routed = moe ? act_routed : View{},
                                      .experts = moe ? d : nullptr,
                                      .first_expert = c.first_expert,
                                      .route = route,
                                      .x = is_last ? last : x,
                                      .norm_weight = is_last ? View{} : device_norm,
                                      .norm_eps = kEps,
                                      .h = is_last ? View{} : device_h,
                                      .comm = sides.one.get(),
                                      .work = &work});
          });
          CHECK(same_bits(side.download(last), side.download(x)));
          return std::pair(side.download(x), side.download(device_h));
        });
        // The CPU rounds the shared and the routed part before it adds them, the GPU only their sum.
        Tolerance tolerance = tolerance::kStage;
        tolerance.bf16_differ = 0.3;
        CHECK(compare(got.first, want.first, 4, tolerance) == "");
        CHECK(compare(got.second, want.second, 4, tolerance) == "");
      }
  });
}

TEST_CASE("cuda stages: embedding with image rows, and the head") {
  skip_without_gpu();
  for_widths_and_types([](const Widths& w, DType a) {
    for (int64_t t : {1, 9, 40})
      for (int64_t first_vocab : {int64_t(0), w.vocab / 2}) {
        CAPTURE(t);
        CAPTURE(first_vocab);
        Numbers numbers(5);
        StepPlan step;
        for (int64_t i = 0; i < t; ++i) {
          step.ids.push_back(int32_t(numbers.below(w.vocab)));
          step.positions.push_back(int32_t(i));
          if (i % 3 != 1) step.out_rows.push_back(int32_t(i));
        }
        if (t > 1) {
          step.ids[0] = 0, step.ids[1] = int32_t(w.vocab - 1);
          step.ids[2] = int32_t(w.vocab / 2), step.ids[3] = int32_t(w.vocab / 2 - 1);
          step.image_rows = {{5, 2}, {6, 0}};
        }
        Sides sides(step);
        const Values table = numbers.tensor(a, {w.vocab / 2, w.hidden}), features = numbers.tensor(a, {3, w.hidden});
        const Values norm = numbers.tensor(a, {w.hidden}, 0.5, 1.5);
        const Weights head(sides.pool, numbers, spec("head", w.vocab, w.hidden, a), scale_of(w.hidden));
        auto [want, got] = sides.both([&](Side& side) {
          const View x = side.empty(a, {t, w.hidden}), logits = side.empty(DType::f32, {step.n_out(), w.vocab});
          EmbedArgs embed{.step = &step,
                          .table = side.upload(table),
                          .first_vocab = first_vocab,
                          .features = side.upload(features),
                          .x = x,
                          .comm = sides.one.get(),
                          .work = nullptr};
          NormArgs last{.step = &step,
                        .out_rows = true,
                        .x = x,
                        .norm_weight = side.upload(norm),
                        .norm_eps = kEps,
                        .h = side.empty(a, {step.n_out(), w.hidden}),
                        .work = nullptr};
          HeadArgs out{.h = last.h,
                       .w = side.pack(head),
                       .logits = logits,
                       .comm = sides.one.get(),
                       .work = nullptr};
          side.backend->begin_step(step);
          side.run([&](Arena& work) {
            embed.work = last.work = out.work = &work;
            side.backend->embed(embed);
            side.backend->norm(last);
            side.backend->head(out);
          });
          return std::pair(side.download(x), side.download(logits));
        });
        CHECK(same_bits(got.first, want.first));
        Tolerance tolerance = tolerance::kStage;
        if (a == DType::bf16) tolerance.f32 = tolerance.bf16;  // logits are float32, rounded to A
        CHECK(compare(got.second, want.second, 4, tolerance) == "");
        int n_unrounded = 0;
        for (int64_t i = 0; i < got.second.view.elements(); ++i)
          n_unrounded += got.second.at(i) != round_as(a, got.second.at(i));
        CHECK(n_unrounded == 0);
      }
  });
}

TEST_CASE("cuda stages: the vision tower's") {
  skip_without_gpu();
  struct Tower {
    int64_t n, grid, p, heads, hd;
  };
  for (const Tower& v : {Tower{2, 4, 3, 3, 8}, Tower{1, 12, 14, 2, 88}})
    for (DType a : {DType::f32, DType::bf16}) {
      CAPTURE(v.hd);
      INFO(dtype_name(a));
      Numbers numbers(6);
      Sides sides;
      const int64_t s = v.grid * v.grid + 1, d = v.heads * v.hd, fc_width = 2 * d;
      const Weights patch(sides.pool, numbers, spec("patch", d, 3 * v.p * v.p, a), scale_of(3 * v.p * v.p));
      const Weights qkv(sides.pool, numbers, spec("qkv", 3 * d, d, a, 1, true), scale_of(d));
      const Weights fc(sides.pool, numbers, spec("fc", fc_width, d, a, 1, true), scale_of(d));
      const Weights back(sides.pool, numbers, spec("back", d, fc_width, a, 1, true), scale_of(fc_width));
      const Values pixels = numbers.tensor(DType::bf16, {v.n, 3, v.grid * v.p, v.grid * v.p});
      const Values class_embedding = numbers.tensor(a, {d}), positions = numbers.tensor(a, {s, d});
      const Values weight = numbers.tensor(a, {d}, 0.5, 1.5), bias = numbers.tensor(a, {d});
      const Values x0 = numbers.tensor(a, {v.n, s, d}, -2, 2), q0 = numbers.tensor(a, {v.n, s, v.heads, v.hd}, -3, 3);
      const Values k0 = numbers.tensor(a, {v.n, s, v.heads, v.hd}), v0 = numbers.tensor(a, {v.n, s, v.heads, v.hd});
      Values rope(DType::f32, {s, v.hd / 2, 2});
      for (int64_t i = 0; i < s * v.hd / 2; ++i) {
        const double angle = numbers.uniform(-3, 3);
        rope.set(2 * i, std::cos(angle)), rope.set(2 * i + 1, std::sin(angle));
      }
      struct Out {
        Values embedded, q, k, v, attended, hidden, residual, shuffled;
      };
      auto [want, got] = sides.both([&](Side& side) {
        const LayerNormWeights norm{side.upload(weight), side.upload(bias), kEps};
        const View x = side.upload(x0), embedded = side.empty(a, {v.n, s, d});
        View out[4];
        for (View& o : out) o = side.empty(a, {v.n, s, v.heads, v.hd});
        const View hidden = side.empty(a, {v.n * s, fc_width}), residual = side.upload(x0.view.reshape({v.n * s, d}));
        const View shuffled = side.empty(a, {v.n, v.grid * v.grid / 4, d * 4});
        VisionEmbedArgs embed{.pixels = side.upload(pixels),
                              .patch_size = v.p,
                              .patch = side.pack(patch),
                              .class_embedding = side.upload(class_embedding),
                              .position_embedding = side.upload(positions),
                              .norm = norm,
                              .x = embedded,
                              .work = nullptr};
        VisionQkvArgs project{.x = x,
                              .norm = norm,
                              .w = side.pack(qkv),
                              .rope = rope,
                              .q = out[0],
                              .k = out[1],
                              .v = out[2],
                              .work = nullptr};
        VisionAttentionArgs attend{.q = side.upload(q0),
                                   .k = side.upload(k0),
                                   .v = side.upload(v0),
                                   .scale = float(1 / std::sqrt(double(v.hd))),
                                   .out = out[3],
                                   .work = nullptr};
        LinearArgs up{.in = x.reshape({v.n * s, d}),
                      .norm = &norm,
                      .w = side.pack(fc),
                      .activation = Activation::gelu,
                      .residual = {},
                      .out = hidden,
                      .work = nullptr};
        LinearArgs down{.in = hidden,
                        .norm = nullptr,
                        .w = side.pack(back),
                        .activation = Activation::none,
                        .residual = residual,
                        .out = residual,
                        .work = nullptr};
        VisionShuffleArgs shuffle{.x = x, .norm = norm, .grid = v.grid, .shuffle = 2, .out = shuffled, .work = nullptr};
        side.run([&](Arena& work) {
          embed.work = project.work = attend.work = up.work = down.work = shuffle.work = &work;
          side.backend->vision_embed(embed);
          side.backend->vision_qkv(project);
          side.backend->vision_attention(attend);
          side.backend->linear(up);
          side.backend->linear(down);
          side.backend->vision_shuffle(shuffle);
        });
        return Out{side.download(embedded), side.download(out[0]), side.download(out[1]),   side.download(out[2]),
                   side.download(out[3]),   side.download(hidden), side.download(residual), side.download(shuffled)};
      });
      CHECK(compare(got.embedded, want.embedded, 4) == "");
      CHECK(compare(got.q, want.q, 4) == "");
      CHECK(compare(got.k, want.k, 4) == "");
      CHECK(compare(got.v, want.v, 4) == "");
      CHECK(compare(got.attended, want.attended, 1, tolerance::kAttention) == "");
      CHECK(compare(got.hidden, want.hidden, 4) == "");
      CHECK(compare(got.residual, want.residual, 6) == "");
      CHECK(compare(got.shuffled, want.shuffled, 4, tolerance::kNorm) == "");
    }
}
