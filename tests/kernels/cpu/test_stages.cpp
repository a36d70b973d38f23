// Whole stages of the backend: composition, roundings between operations, ranks, independence of the batch.
#include <thread>

#include "dist/comm.h"
#include "kernels/cpu/paged_cache.h"
#include "ops/backend.h"

using namespace l4;
using namespace l4::test;

namespace {

// Doubles rounded to A at every point where the stage is documented to round.
struct Rows {
  DType a;
  int64_t n, d;
  Doubles v;
  double* row(int64_t t) { return v.data() + t * d; }
  const double* row(int64_t t) const { return v.data() + t * d; }
};
Rows rows_of(const Values& t, int64_t n) {
  return {t.view.dtype, n, t.view.elements() / n, doubles(t)};
}
Rows ref_norm(const Rows& x, const Values& w, double eps) {
  Rows y = x;
  for (int64_t t = 0; t < x.n; ++t) {
    double square = 0;
    for (int64_t i = 0; i < x.d; ++i) square += x.row(t)[i] * x.row(t)[i] / double(x.d);
    for (int64_t i = 0; i < x.d; ++i)
      y.row(t)[i] = round_as(x.a, round_as(x.a, x.row(t)[i] / std::sqrt(square + eps)) * w.at(i));
  }
  return y;
}
Rows ref_linear(const Rows& x, const Weights& w, int64_t expert = 0) {
  Rows y{x.a, x.n, w.packed.spec.n, {}};
  for (int64_t t = 0; t < x.n; ++t)
    for (int64_t n = 0; n < y.d; ++n)
      y.v.push_back(round_as(x.a, w.output(expert, n, [&](int64_t k) { return x.row(t)[k]; }).first));
  return y;
}
Rows ref_swiglu(const Rows& gu) {
  Rows y{gu.a, gu.n, gu.d / 2, {}};
  for (int64_t t = 0; t < gu.n; ++t)
    for (int64_t i = 0; i < y.d; ++i) {
      const double g = gu.row(t)[i];
      y.v.push_back(round_as(gu.a, round_as(gu.a, g / (1 + std::exp(-g))) * gu.row(t)[y.d + i]));
    }
  return y;
}
Rows ref_add(const Rows& x, const Rows& y) {
  Rows sum = x;
  for (size_t i = 0; i < x.v.size(); ++i) sum.v[i] = round_as(x.a, x.v[i] + y.v[i]);
  return sum;
}
Doubles ones(const Doubles& v, double size) {
  return Doubles(v.size(), size);
}

// A backend, its arena, and a run of stages that is measured first.
struct Device {
  std::unique_ptr<Backend> backend;
  explicit Device(int n_threads) : backend(make_cpu_backend(n_threads)) {}
  template <class Stages>
  void run(Stages&& stages) {
    Arena measured;
    stages(*backend, measured);
    Arena work(host_buffer(measured.peak(), "test"));
    stages(*backend, work);
    CHECK(work.peak() <= measured.peak());
  }
};

constexpr int64_t kHidden = 48, kHeads = 4, kKv = 2, kHd = 16, kFfn = 40, kVocab = 90;
constexpr double kEps = 1e-5;

// One MoE layer and a head, small and odd.
struct Layer {
  DType a;
  int64_t n_experts, top_k;
  Values norm1, norm2, norm3, inv_freq;
  Weights qkv, o, router, shared_up, shared_down, up, down, head;

  Layer(ThreadPool& pool, Numbers& numbers, DType type, int64_t experts, int64_t k)
      : a(type),
        n_experts(experts),
        top_k(k),
        norm1(numbers.tensor(a, {kHidden}, 0.5, 1.5)),
        norm2(numbers.tensor(a, {kHidden}, 0.5, 1.5)),
        norm3(numbers.tensor(a, {kHidden}, 0.5, 1.5)),
        inv_freq(numbers.tensor(DType::f32, {kHd / 2}, 0, 1)),
        qkv(pool, numbers, spec("qkv", (kHeads + 2 * kKv) * kHd, kHidden), 0.3),
        o(pool, numbers, spec("o", kHidden, kHeads * kHd), 0.3),
        router(pool, numbers, spec("router", n_experts, kHidden), 0.5),
        shared_up(pool, numbers, spec("shared up", 2 * kFfn, kHidden), 0.3),
        shared_down(pool, numbers, spec("shared down", kHidden, kFfn), 0.3),
        up(pool, numbers, spec("up", 2 * kFfn, kHidden, n_experts), 0.3),
        down(pool, numbers, spec("down", kHidden, kFfn, n_experts), 0.3),
        head(pool, numbers, spec("head", kVocab, kHidden), 0.3) {}

  LinearSpec spec(const char* name, int64_t n, int64_t k, int64_t experts = 1) const {
    return {.name = name, .n = n, .k = k, .n_experts = experts, .format = format_of(a)};
  }
};

struct Routed {
  Values expert, score;
  Route route;
  Routed(int64_t n, int64_t top_k) : expert(DType::i32, {n, top_k}), score(DType::f32, {n, top_k}) {
    route = {top_k, expert, score};
  }
};

// A part of a linear: rows [n0, n1) and columns [k0, k1) of every expert in [e0, e1); with `halves`, of gate and of up.
PackedWeight part_of(Backend& backend, const Weights& w, int64_t e0, int64_t e1, int64_t n0, int64_t n1, int64_t k0,
                     int64_t k1, bool halves = false) {
  LinearSpec spec = w.packed.spec;
  const DType dtype = w.w.view.dtype;
  const int64_t n_all = spec.n, k_all = spec.k;
  spec.n = (n1 - n0) * (halves ? 2 : 1), spec.k = k1 - k0, spec.n_experts = e1 - e0, spec.gated = halves;
  std::vector<WeightSlice> slices;
  for (int64_t e = e0; e < e1; ++e)
    for (int64_t half = 0; half < (halves ? 2 : 1); ++half) {
      const int64_t row = n0 + half * n_all / 2;
      slices.push_back({w.w.storage.data() + size_t((e * n_all + row) * k_all + k0) * dtype_bytes(dtype), dtype,
                        n1 - n0, k1 - k0, k_all, 1, e - e0, half * (n1 - n0), 0});
    }
  PackedWeight packed = backend.pack(spec, slices, {});
  CHECK(packed.bytes() == backend.packed_bytes(spec));
  return packed;
}

// Runs body(rank, comm, backend) on every rank of a thread group.
template <class Body>
void on_ranks(int n, Body&& body) {
  std::vector<std::unique_ptr<Comm>> comms = make_thread_comms(n);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < n; ++rank)
    threads.emplace_back([&, rank] {
      Device device(1);
      body(rank, *comms[size_t(rank)], device);
    });
  for (std::thread& t : threads) t.join();
}

QkvArgs qkv_args(const Layer& l, const PagedCache& cache, const Values& h, const View& q, bool rope) {
  return {.step = &cache.step,
          .h = h,
          .w = &l.qkv.packed,
          .inv_freq = rope ? l.inv_freq.view : View{},
          .qk_norm = rope,
          .qk_norm_eps = float(kEps),
          .temperature = !rope,
          .floor_scale = 8,
          .attn_scale = 0.1f,
          .kv = cache.layer,
          .q = q,
          .work = nullptr};
}

}  // namespace

TEST_CASE("cpu stages: norm of all rows and of some; qkv is projection and what finish_qkv does") {
  ThreadPool pool(2);
  std::unique_ptr<Comm> one = make_single_comm();
  Device device(2);
  for (DType a : {DType::f32, DType::bf16}) {
    Numbers numbers(1);
    Layer l(pool, numbers, a, 4, 1);
    const int64_t t = 13;
    PagedCache cache(numbers, a, kKv, kHd, 8, {{3, t}});
    Values x = numbers.tensor(a, {t, kHidden}, -2, 2), q(a, {t, kHeads, kHd});
    Values h(a, {t, kHidden}), some(a, {2, kHidden});
    cache.step.out_rows = {4, 11};
    QkvArgs args = qkv_args(l, cache, h, q, false);
    args.temperature = false;
    device.run([&](Backend& backend, Arena& work) {
      backend.norm({&cache.step, false, x, l.norm1, float(kEps), h, &work});
      backend.norm({&cache.step, true, x, l.norm1, float(kEps), some, &work});
      args.work = &work;
      backend.qkv(args);
    });
    Rows normed = ref_norm(rows_of(x, t), l.norm1, kEps);
    CHECK(difference(h, normed.v, ones(normed.v, 4), tolerance::kStage) == "");
    for (int64_t i : {0, 1}) CHECK(same_bits(some.view.slice(i, 1), h.view.slice(cache.step.out_rows[size_t(i)], 1)));
    Rows want = ref_linear(normed, l.qkv);
    Values got(a, {t, want.d});
    for (int64_t r = 0; r < t; ++r)
      for (int64_t i = 0; i < want.d; ++i) {
        const int64_t head = i / kHd, kv = head - kHeads, index = 3 + r;
        got.set(r * want.d + i,
                head < kHeads ? q.at(r * kHeads * kHd + i)
                              : Values::value(cache.entry(cache.plan().spans[0], index, kv % kKv, kv >= kKv), i % kHd));
      }
    CHECK(difference(got, want.v, ones(want.v, 4), tolerance::kStage) == "");
  }
}

TEST_CASE("cpu stages: attn_out, dense and routed, on one rank and with columns split over two") {
  ThreadPool pool(2);
  std::unique_ptr<Comm> one = make_single_comm();
  Device device(2);
  for (DType a : {DType::f32, DType::bf16})
    for (bool moe : {false, true}) {
      INFO(cat(dtype_name(a), moe));
      Numbers numbers(2);
      Layer l(pool, numbers, a, 4, 2);
      const int64_t t = 11, width = kHeads * kHd;
      Values attn = numbers.tensor(a, {t, width}), x0 = numbers.tensor(a, {t, kHidden}, -2, 2);
      auto run = [&](Device& d, Comm& comm, const PackedWeight& o, const View& in, const Values& x, const Values& h,
                     const Route& route) {
        d.run([&](Backend& backend, Arena& work) {
          backend.attn_out({.attn = in,
                            .w = &o,
                            .x = x,
                            .norm_weight = l.norm2,
                            .norm_eps = float(kEps),
                            .h = h,
                            .router = moe ? &l.router.packed : nullptr,
                            .route = route,
                            .comm = &comm,
                            .work = &work});
        });
      };
      Values x = x0, h(a, {t, kHidden});
      Routed r(t, 2);
      run(device, *one, l.o.packed, attn, x, h, r.route);
      Rows want_x = ref_add(rows_of(x0, t), ref_linear(rows_of(attn, t), l.o));
      Rows want_h = ref_norm(want_x, l.norm2, kEps);
      CHECK(difference(x, want_x.v, ones(want_x.v, 4), tolerance::kStage) == "");
      CHECK(difference(h, want_h.v, ones(want_h.v, 4), tolerance::kStage) == "");
      if (moe) {  // routed by the stage's own h: ties aside that is what routing is about
        Rows logits = ref_linear(rows_of(h, t), l.router);
        for (int64_t i = 0; i < t; ++i) {
          const int32_t best = r.expert.view.i32()[i * 2];
          for (int64_t e = 0; e < 4; ++e)
            CHECK(logits.row(i)[best] >= logits.row(i)[e] - (a == DType::f32 ? 1e-5 : 0.02));
          CHECK(r.score.at(i * 2) == doctest::Approx(1 / (1 + std::exp(-logits.row(i)[best]))).epsilon(0.01));
        }
      }
      Values ranks_x[2] = {x0, x0}, ranks_h[2] = {h, h};
      on_ranks(2, [&](int rank, Comm& comm, Device& d) {
        const int64_t half = width / 2;
        PackedWeight o = part_of(*d.backend, l.o, 0, 1, 0, kHidden, rank * half, (rank + 1) * half);
        Values in(a, {t, half});
        for (int64_t i = 0; i < t * half; ++i) in.set(i, attn.at(i / half * width + rank * half + i % half));
        Routed mine(t, 2);
        run(d, comm, o, in, ranks_x[rank], ranks_h[rank], mine.route);
      });
      CHECK(same_bits(ranks_x[0], ranks_x[1]));
      CHECK(same_bits(ranks_h[0], ranks_h[1]));
      CHECK(difference(ranks_x[0], want_x.v, ones(want_x.v, 4), tolerance::kStage) == "");
    }
}

TEST_CASE("cpu stages: feed-forward, dense and routed, one and two experts a row, one rank, TP 2, EP 2") {
  ThreadPool pool(2);
  std::unique_ptr<Comm> one = make_single_comm();
  Device device(2);
  struct Case {
    const char* what;
    int64_t n_experts, top_k;  // 0 experts: dense
    int32_t only;              // all rows to this expert first; -1: spread, but never expert 2
  };
  for (const Case& c :
       {Case{"dense", 0, 0, 0}, Case{"top 1", 4, 1, -1}, Case{"top 2", 4, 2, -1}, Case{"all to one", 4, 1, 3}})
    for (DType a : {DType::f32, DType::bf16})
      for (int64_t t : {1, 14}) {
        INFO(cat(c.what, " ", dtype_name(a), " ", t));
        Numbers numbers(3);
        Layer l(pool, numbers, a, std::max<int64_t>(c.n_experts, 1), c.top_k);
        const bool moe = c.n_experts > 0;
        Values h = numbers.tensor(a, {t, kHidden}), x0 = numbers.tensor(a, {t, kHidden}, -2, 2);
        Routed r(t, std::max<int64_t>(c.top_k, 1));
        const int32_t spread[] = {0, 1, 3};
        for (int64_t slot = 0; slot < t * c.top_k; ++slot) {
          r.expert.set(slot, c.only >= 0 ? c.only : spread[(slot + slot / 3) % 3]);
          if (slot % 2 && c.top_k == 2)
            r.expert.set(slot, (int(r.expert.at(slot - 1)) + 1) % 4 == 2 ? 0 : (int(r.expert.at(slot - 1)) + 1) % 4);
          r.score.set(slot, round_as(a, numbers.uniform(0.1, 0.9)));
        }

        auto run = [&](Device& d, Comm& comm, const PackedWeight& su, const PackedWeight& sd, const PackedWeight* up,
                       const PackedWeight* down, int64_t first, const Values& x, const View& next) {
          Values act_shared(a, {t, su.spec.n / 2}), act_routed(a, {t * r.route.top_k, up ? up->spec.n / 2 : 1});
          Route route = moe ? r.route : Route{};
          d.run([&](Backend& backend, Arena& work) {
            backend.ffn_up({.h = h,
                            .shared = &su,
                            .experts = up,
                            .first_expert = first,
                            .route = route,
                            .act_shared = act_shared,
                            .act_routed = moe ? act_routed.view : View{},
                            .work = &work});
            CHECK(work.mark() == 0);  // a stage leaves nothing behind
            backend.ffn_down({.act_shared = act_shared,
                              .shared = &sd,
                              .act_routed = moe ? act_routed.view : View{},
                              .experts = down,
                              .first_expert = first,
                              .route = route,
                              .x = x,
                              .norm_weight = next ? l.norm1.view : View{},
                              .norm_eps = float(kEps),
                              .h = next,
                              .comm = &comm,
                              .work = &work});
          });
        };

        // The reference: shared and routed sums rounded apart, then added, then the residual.
        Rows y = ref_linear(ref_swiglu(ref_linear(rows_of(h, t), l.shared_up)), l.shared_down);
        if (moe) {
          Rows routed{a, t, kHidden, Doubles(size_t(t * kHidden))};
          for (int64_t slot = 0; slot < t * c.top_k; ++slot) {
            const int64_t row = slot / c.top_k, e = int64_t(r.expert.at(slot));
            Rows in{a, 1, kHidden, {}};
            for (int64_t i = 0; i < kHidden; ++i)
              in.v.push_back(round_as(a, double(float(h.at(row * kHidden + i)) * float(r.score.at(slot)))));
            Rows out = ref_linear(ref_swiglu(ref_linear(in, l.up, e)), l.down, e);
            for (int64_t i = 0; i < kHidden; ++i) routed.row(row)[i] += out.v[size_t(i)];
          }
          for (double& v : routed.v) v = round_as(a, v);
          y = ref_add(y, routed);
        }
        Rows want = ref_add(rows_of(x0, t), y);

        Values x = x0, next(a, {t, kHidden}), last = x0;
        for (bool is_last : {false, true})
          run(device, *one, l.shared_up.packed, l.shared_down.packed, moe ? &l.up.packed : nullptr,
              moe ? &l.down.packed : nullptr, 0, is_last ? last : x, is_last ? View{} : next.view);
        Tolerance close = tolerance::kStage;
        close.bf16_differ = 0.01;  // one rank rounds exactly where the reference does
        CHECK(difference(x, want.v, ones(want.v, 4), close) == "");
        CHECK(same_bits(last, x));
        Rows want_next = ref_norm(rows_of(x, t), l.norm1, kEps);
        CHECK(difference(next, want_next.v, ones(want_next.v, 4), tolerance::kStage) == "");

        for (bool ep : {false, true}) {
          if (ep && !moe) continue;
          INFO(cat("two ranks, ", ep ? "EP" : "TP"));
          Values parts[2] = {x0, x0}, nexts[2] = {next, next};
          on_ranks(2, [&](int rank, Comm& comm, Device& d) {
            Backend& b = *d.backend;
            const int64_t f0 = rank * kFfn / 2, f1 = f0 + kFfn / 2;  // of the shared expert's columns
            PackedWeight su = part_of(b, l.shared_up, 0, 1, f0, f1, 0, kHidden, true);
            PackedWeight sd = part_of(b, l.shared_down, 0, 1, 0, kHidden, f0, f1);
            PackedWeight up, down;
            if (moe && ep) {
              up = part_of(b, l.up, 2 * rank, 2 * rank + 2, 0, kFfn, 0, kHidden, true);
              down = part_of(b, l.down, 2 * rank, 2 * rank + 2, 0, kHidden, 0, kFfn);
            } else if (moe) {
              up = part_of(b, l.up, 0, 4, f0, f1, 0, kHidden, true);
              down = part_of(b, l.down, 0, 4, 0, kHidden, f0, f1);
            }
            run(d, comm, su, sd, moe ? &up : nullptr, moe ? &down : nullptr, ep ? 2 * rank : 0, parts[rank],
                nexts[rank]);
          });
          CHECK((same_bits(parts[0], parts[1]) && same_bits(nexts[0], nexts[1])));
          CHECK(difference(parts[0], want.v, ones(want.v, 4), tolerance::kStage) == "");
        }
      }
}

TEST_CASE("cpu stages: embedding and head, whole and with the vocabulary split over two") {
  ThreadPool pool(2);
  std::unique_ptr<Comm> one = make_single_comm();
  Device device(2);
  for (DType a : {DType::f32, DType::bf16}) {
    Numbers numbers(4);
    Layer l(pool, numbers, a, 4, 1);
    Values table = numbers.tensor(a, {kVocab, kHidden}), features = numbers.tensor(a, {3, kHidden});
    StepPlan step;
    for (int64_t i = 0; i < 9; ++i) step.ids.push_back(int32_t(numbers.below(kVocab)));
    step.ids[0] = 0, step.ids[1] = kVocab - 1, step.ids[2] = kVocab / 2, step.ids[3] = kVocab / 2 - 1;
    step.image_rows = {{5, 2}, {6, 0}};
    step.out_rows = {0, 4, 8};
    Values x(a, {9, kHidden}), h(a, {3, kHidden}), logits(DType::f32, {3, kVocab});
    auto run = [&](Device& d, Comm& comm, const View& part, int64_t first, const PackedWeight& head, const Values& to,
                   const Values& normed, const Values& out) {
      d.run([&](Backend& backend, Arena& work) {
        backend.begin_step(step);
        backend.embed({.step = &step,
                       .table = part,
                       .first_vocab = first,
                       .features = features,
                       .x = to,
                       .comm = &comm,
                       .work = &work});
        backend.norm({&step, true, to, l.norm3, float(kEps), normed, &work});
        backend.head({.h = normed,
                      .w = &head,
                      .logits = out,
                      .comm = &comm,
                      .work = &work});
      });
    };
    run(device, *one, table, 0, l.head.packed, x, h, logits);
    for (int64_t t = 0; t < 9; ++t) {
      const View want = t == 5   ? features.view.slice(2, 1)
                        : t == 6 ? features.view.slice(0, 1)
                                 : table.view.slice(step.ids[size_t(t)], 1);
      CHECK(same_bits(x.view.slice(t, 1), want));
    }
    Rows out{a, 3, kHidden, {}};
    for (int32_t r : step.out_rows)
      for (int64_t i = 0; i < kHidden; ++i) out.v.push_back(x.at(r * kHidden + i));
    Rows want = ref_linear(ref_norm(out, l.norm3, kEps), l.head);
    Tolerance tolerance = tolerance::kStage;
    if (a == DType::bf16) tolerance.f32 = tolerance.bf16;  // logits are float32, rounded to A
    CHECK(difference(logits, want.v, ones(want.v, 4), tolerance) == "");
    for (int64_t i = 0; i < 3 * kVocab; ++i) CHECK(logits.at(i) == round_as(a, logits.at(i)));

    Values xs[2] = {x, x}, hs[2] = {h, h}, outs[2] = {logits, logits};
    on_ranks(2, [&](int rank, Comm& comm, Device& d) {
      const int64_t half = kVocab / 2;
      PackedWeight head = part_of(*d.backend, l.head, 0, 1, rank * half, (rank + 1) * half, 0, kHidden);
      std::memset(xs[rank].view.data, 0xFF, xs[rank].view.bytes());
      std::memset(outs[rank].view.data, 0xFF, outs[rank].view.bytes());
      run(d, comm, table.view.slice(rank * half, half), rank * half, head, xs[rank], hs[rank], outs[rank]);
    });
    for (int rank : {0, 1}) {
      CHECK(same_bits(xs[rank], x));
      CHECK(same_bits(outs[rank], logits));  // a column's sum is the same whoever has it
    }
  }
}

TEST_CASE("cpu stages: results independent of batch composition and threads, bit for bit, through a whole layer") {
  ThreadPool pool(2);
  std::unique_ptr<Comm> one = make_single_comm();
  Device single(1), three(3);
  for (const Types& types : kTypes)
    for (bool rope : {true, false}) {
      const DType a = types.a;
      INFO(cat(dtype_name(a), rope, dtype_name(types.kv)));
      Numbers numbers(5);
      Layer l(pool, numbers, a, 4, 2);
      const int64_t t = 37;
      PagedCache cache(numbers, types.kv, kKv, kHd, 8, {{0, 20}, {1100, 16}, {5, 1}});
      for (const KvSpan& span : cache.plan().spans)  // what earlier steps wrote
        for (int64_t i = 0; i < span.past * kKv; ++i)
          for (bool value : {false, true}) cache.put(span, i / kKv, i % kKv, value, doubles(numbers.tensor(a, {kHd})));
      for (int32_t i = 0; i < t; ++i) cache.step.out_rows.push_back(i);
      Values x0 = numbers.tensor(a, {t, kHidden}, -2, 2);

      // x and logits of the rows of `step`, whose cache is `cache`.
      auto run = [&](Device& d, const StepPlan& step, Values x, Values* logits) {
        const int64_t n = step.n_rows();
        Values q(a, {n, kHeads, kHd}), attn(a, {n, kHeads * kHd}), h(a, {n, kHidden});
        Values act_shared(a, {n, kFfn}), act_routed(a, {n * 2, kFfn});
        Routed r(n, 2);
        *logits = Values(DType::f32, {n, kVocab});
        d.run([&](Backend& backend, Arena& work) {
          backend.norm({&step, false, x, l.norm1, float(kEps), h, &work});
          QkvArgs qkv = qkv_args(l, cache, h, q, rope);
          qkv.step = &step, qkv.work = &work;
          backend.qkv(qkv);
          backend.attention({.step = &step, .q = q, .kv = cache.layer, .scale = 0.25f, .out = attn, .work = &work});
          backend.attn_out({.attn = attn,
                            .w = &l.o.packed,
                            .x = x,
                            .norm_weight = l.norm2,
                            .norm_eps = float(kEps),
                            .h = h,
                            .router = &l.router.packed,
                            .route = r.route,
                            .comm = one.get(),
                            .work = &work});
          backend.ffn_up({.h = h,
                          .shared = &l.shared_up.packed,
                          .experts = &l.up.packed,
                          .first_expert = 0,
                          .route = r.route,
                          .act_shared = act_shared,
                          .act_routed = act_routed,
                          .work = &work});
          backend.ffn_down({.act_shared = act_shared,
                            .shared = &l.shared_down.packed,
                            .act_routed = act_routed,
                            .experts = &l.down.packed,
                            .first_expert = 0,
                            .route = r.route,
                            .x = x,
                            .norm_weight = l.norm3,
                            .norm_eps = float(kEps),
                            .h = h,
                            .comm = one.get(),
                            .work = &work});
          backend.head({.h = h,
                        .w = &l.head.packed,
                        .logits = *logits,
                        .comm = one.get(),
                        .work = &work});
        });
        return x;
      };
      Values logits1, logits3;
      Values x1 = run(single, cache.step, x0, &logits1), x3 = run(three, cache.step, x0, &logits3);
      CHECK(same_bits(x1, x3));
      CHECK(same_bits(logits1, logits3));
      for (const KvSpan& span : cache.plan().spans)
        for (int32_t i = 0; i < span.n_rows; i += 3) {
          const int32_t row = span.row + i;
          StepPlan alone;
          alone.ids = {0}, alone.positions = {cache.step.positions[size_t(row)]}, alone.out_rows = {0};
          alone.of(cache.layer.kind) = {{{0, 1, span.past + i, span.table}}, cache.plan().pages};
          Values x(a, {1, kHidden}), logits;
          std::memcpy(x.view.data, x0.view.slice(row, 1).data, x.view.bytes());
          x = run(i % 2 ? three : single, alone, x, &logits);
          CHECK(same_bits(x, x1.view.slice(row, 1)));
          CHECK(same_bits(logits, logits1.view.slice(row, 1)));
        }
    }
}

TEST_CASE("cpu stages: the vision tower's stages against doubles") {
  ThreadPool pool(2);
  Device device(2);
  for (DType a : {DType::f32, DType::bf16}) {
    INFO(dtype_name(a));
    Numbers numbers(6);
    const int64_t n = 2, grid = 4, p = 3, s = grid * grid + 1, d = 24, heads = 3, hd = 8;
    auto spec = [&](const char* name, int64_t rows, int64_t k, bool bias) {
      return LinearSpec{.name = name, .n = rows, .k = k, .bias = bias, .format = format_of(a)};
    };
    Weights patch(pool, numbers, spec("patch", d, 3 * p * p, false)),
        qkv(pool, numbers, spec("qkv", 3 * d, d, true), 0.4);
    Weights fc(pool, numbers, spec("fc", 50, d, true), 0.4);
    Values pixels = numbers.tensor(DType::bf16, {n, 3, grid * p, grid * p}), cls = numbers.tensor(a, {d});
    Values position = numbers.tensor(a, {s, d}), w = numbers.tensor(a, {d}), b = numbers.tensor(a, {d}),
           x(a, {n, s, d});
    const LayerNormWeights norm{w, b, 1e-5f};
    auto layer_norm = [&](const Rows& in) {
      Rows y = in;
      for (int64_t t = 0; t < in.n; ++t) {
        double mean = 0, variance = 0;
        for (int64_t i = 0; i < d; ++i) mean += in.row(t)[i] / double(d);
        for (int64_t i = 0; i < d; ++i) variance += std::pow(in.row(t)[i] - mean, 2) / double(d);
        for (int64_t i = 0; i < d; ++i)
          y.row(t)[i] = round_as(a, (in.row(t)[i] - mean) / std::sqrt(variance + 1e-5) * w.at(i) + b.at(i));
      }
      return y;
    };
    device.run([&](Backend& backend, Arena& work) {
      backend.vision_embed({.pixels = pixels,
                            .patch_size = p,
                            .patch = &patch.packed,
                            .class_embedding = cls,
                            .position_embedding = position,
                            .norm = norm,
                            .x = x,
                            .work = &work});
    });
    Rows want{a, n * s, d, {}};
    for (int64_t i = 0; i < n * s; ++i)
      for (int64_t j = 0; j < d; ++j) {
        const int64_t tile = i / s, token = i % s, row = token / grid, column = token % grid;
        double v = cls.at(j);
        if (token < s - 1)
          v = round_as(
              a, patch
                     .output(0, j,
                             [&](int64_t k) {
                               const int64_t c = k / (p * p), y = k / p % p, xx = k % p;
                               return pixels.at(((tile * 3 + c) * grid * p + row * p + y) * grid * p + column * p + xx);
                             })
                     .first);
        want.v.push_back(round_as(a, v + position.at(token * d + j)));
      }
    want = layer_norm(want);
    CHECK(difference(x, want.v, ones(want.v, 4), tolerance::kStage) == "");

    Values table(DType::f32, {s, hd / 2, 2}), q(a, {n, s, heads, hd}), k = q, v = q, shuffled(a, {n, 4, d * 4});
    for (int64_t i = 0; i < s * hd / 2; ++i) table.set(2 * i, 1), table.set(2 * i + 1, 0);  // rotation is tested alone
    device.run([&](Backend& backend, Arena& work) {
      backend.vision_qkv(
          {.x = x, .norm = norm, .w = &qkv.packed, .rope = table, .q = q, .k = k, .v = v, .work = &work});
      backend.vision_shuffle({.x = x, .norm = norm, .grid = grid, .shuffle = 2, .out = shuffled, .work = &work});
    });
    const Rows normed = layer_norm(rows_of(x, n * s));
    const Rows all = ref_linear(normed, qkv);
    const Values* parts[] = {&q, &k, &v};
    for (int64_t part = 0; part < 3; ++part) {
      Doubles of_part;
      for (int64_t t = 0; t < n * s; ++t)
        of_part.insert(of_part.end(), all.row(t) + part * d, all.row(t) + (part + 1) * d);
      CHECK(difference(*parts[part], of_part, ones(of_part, 4), tolerance::kStage) == "");
    }
    Doubles shuffled_want(size_t(shuffled.view.elements()));
    for (int64_t t = 0; t < n * s; ++t)
      for (int64_t j = 0; j < d; ++j) {
        const int64_t tile = t / s, row = t % s / grid, column = t % s % grid;
        if (t % s == s - 1) continue;
        const int64_t token = tile * 4 + row / 2 * 2 + column / 2;
        shuffled_want[size_t((token * 4 + row % 2 * 2 + column % 2) * d + j)] = normed.row(t)[j];
      }
    CHECK(difference(shuffled, shuffled_want, ones(shuffled_want, 4), tolerance::kStage) == "");

    // linear: norm, projection, GELU, residual, in every combination
    Values in = numbers.tensor(a, {n * s, d});
    for (bool with_norm : {false, true})
      for (Activation activation : {Activation::none, Activation::gelu})
        for (bool residual : {false, true}) {
          Values add = numbers.tensor(a, {n * s, 50});
          const Doubles before = doubles(add);
          device.run([&](Backend& backend, Arena& work) {
            backend.linear({.in = in,
                            .norm = with_norm ? &norm : nullptr,
                            .w = &fc.packed,
                            .activation = activation,
                            .residual = residual ? add.view : View{},
                            .out = add,
                            .work = &work});
          });
          Rows y = ref_linear(with_norm ? layer_norm(rows_of(in, n * s)) : rows_of(in, n * s), fc);
          for (size_t i = 0; i < y.v.size(); ++i) {
            if (activation == Activation::gelu)
              y.v[i] = round_as(a, 0.5 * y.v[i] * std::erfc(-y.v[i] / std::sqrt(2.0)));
            if (residual) y.v[i] = round_as(a, before[i] + y.v[i]);
          }
          CHECK(difference(add, y.v, ones(y.v, 4), tolerance::kStage) == "");
        }
  }
}

TEST_CASE("cpu stages: sample gives one choice a row and names the broken one; memory and pages") {
  std::unique_ptr<Backend> backend = make_cpu_backend(3);
  CHECK(backend->device_name() == "CPU, 3 threads");
  CHECK(make_cpu_backend(1)->device_name() == "CPU, 1 thread");
  const MemoryInfo memory = backend->memory();
  CHECK(memory.total_bytes > uint64_t(1) << 28);
  CHECK(memory.free_bytes <= memory.total_bytes);
  CHECK(memory.free_bytes > 0);

  Values logits(DType::f32, {5, 7});
  for (int64_t i = 0; i < 35; ++i) logits.set(i, i % 7 == i / 7 + 1 ? 3 : 0);
  std::vector<SamplingRow> rows(5);
  for (SamplingRow& row : rows) row.params.temperature = 0;
  std::vector<TokenChoice> choices = backend->sample(logits, rows);
  for (size_t i = 0; i < 5; ++i) CHECK(choices[i].id == int32_t(i) + 1);
  logits.set(3 * 7 + 2, NAN);
  CHECK(error_of([&] { backend->sample(logits, rows); }) == "logits of row 3 hold NaN (token 2)");

  Numbers numbers(7);
  Values host = numbers.tensor(DType::bf16, {3, 5}), device(DType::bf16, {3, 5}), other(DType::bf16, {3, 5}),
         back = device;
  backend->upload(device, host.view.data);
  backend->copy(other, device);
  backend->download(back.view.data, other);
  CHECK(same_bits(back, host));
  Buffer buffer = backend->allocate(1000, "a test");
  CHECK(buffer.bytes() == 1000);

  // Three layers of a kind: all of a page moves, nothing else.
  PagedCache cache(numbers, DType::f32, 2, 8, 4, {{0, 9}}, AttentionKind::global);
  KvLayer first = cache.layer;
  first.base = cache.memory.storage.data();
  for (size_t i = 0; i < cache.memory.storage.size(); ++i) cache.memory.storage[i] = std::byte(i * 7 + i / 256);
  const std::vector<std::byte> before = cache.memory.storage;
  const PageCopy copies[] = {{AttentionKind::global, 0, 3}, {AttentionKind::chunked, 0, 1}};
  backend->copy_pages(first, 3, copies);
  const size_t page = size_t(first.page_stride);
  for (size_t i = 0; i < 5 * page; ++i)
    CHECK_MESSAGE(cache.memory.storage[i] == (i / page == 3 ? before[i - 3 * page] : before[i]), i);
}
