// Decode steps padded to the numbers of rows that are recorded (engine/decode_rows.h): nobody's rows leave nothing
// behind.
#include <set>

#include "engine/decode_rows.h"
#include "kernels/cpu/op_testing.h"
#include "kernels/cuda/stage_testing.h"

using namespace l4;
using namespace l4::test;

namespace {

constexpr int64_t kPage = 128, kKv = 2, kHd = 128, kHeads = 4, kHidden = 256;

// Five sequences, padded to six; the cache's memory is zeros but for what lies in `cache`.
PagedCache padded_cache(Numbers& numbers, DType kv) {
  PagedCache cache(numbers, kv, kKv, kHd, kPage, {{3, 1}, {127, 1}, {128, 1}, {0, 1}, {40, 1}});
  std::memset(cache.memory.view.data, 0, cache.memory.view.bytes());
  cache.step.of(AttentionKind::global) = cache.step.of(AttentionKind::chunked);
  for (int32_t row = 0; row < 5; ++row) cache.step.out_rows.push_back(row);
  pad_decode_step(cache.step, 100);
  return cache;
}

}  // namespace

TEST_CASE("cuda padding: a few numbers of rows, at most half as many again, and no more than there may be") {
  for (int64_t n = 1; n <= 300; ++n) {
    const int64_t rows = padded_decode_rows(n, 1000);
    CAPTURE(n);
    CHECK(rows >= n);
    CHECK(2 * rows <= 3 * n);
    CHECK(padded_decode_rows(rows, 1000) == rows);
    CHECK(padded_decode_rows(n, 40) == (rows <= 40 ? rows : n));
  }
  std::set<int64_t> all;
  for (int64_t n = 1; n <= 256; ++n) all.insert(padded_decode_rows(n, 256));
  CHECK(all.size() == 18);
  for (const int64_t n : {1, 2, 3, 4, 8, 16, 64, 256}) CHECK(all.contains(n));
}

TEST_CASE("cuda padding: only steps of one new row of each sequence, all with an output, are padded") {
  Numbers numbers(1);
  StepPlan step = padded_cache(numbers, DType::bf16).step;
  CHECK(step.n_rows() == 6);
  CHECK(step.n_out() == 6);
  CHECK(step.positions.back() == -1);
  CHECK(StepShape(step).is_decode());
  const PagedCache prefill(numbers, DType::bf16, kKv, kHd, kPage, {{0, 5}});
  for (const bool without_output : {false, true}) {
    StepPlan other = prefill.step;
    if (without_output)
      other = PagedCache(numbers, DType::bf16, kKv, kHd, kPage, {{0, 1}, {1, 1}, {2, 1}, {3, 1}, {4, 1}}).step;
    other.of(AttentionKind::global) = other.of(AttentionKind::chunked);
    other.out_rows = {4};
    pad_decode_step(other, 100);
    CHECK(other.n_rows() == 5);
  }
}

TEST_CASE("cuda padding: nobody's key and value are not written, and goes to no expert") {
  skip_without_gpu();
  for (const DType kv : {DType::bf16, DType::f8_e4m3}) {
    CAPTURE(std::string(dtype_name(kv)));
    Numbers numbers(2);
    PagedCache cache = padded_cache(numbers, kv);
    const StepPlan& step = cache.step;
    Side gpu(make_cuda_backend(0, Sides::options_for(step, kPage)));
    ThreadPool pool(1);
    const std::unique_ptr<Comm> one = make_single_comm();
    const int64_t width = (kHeads + 2 * kKv) * kHd;
    const auto weight = [&](const char* name, int64_t n, int64_t k) {
      return gpu.pack(Weights(pool, numbers, {.name = name, .n = n, .k = k}, scale_of(k)));
    };
    const PackedWeight *qkv = weight("qkv", width, kHidden), *o = weight("o", kHidden, kHeads * kHd),
                       *router = weight("router", 4, kHidden);
    QkvArgs first{.step = &step,
                  .h = gpu.upload(numbers.tensor(DType::bf16, {6, kHidden})),
                  .w = qkv,
                  .inv_freq = {},
                  .qk_norm = false,
                  .qk_norm_eps = 1e-5f,
                  .temperature = false,
                  .floor_scale = 8192,
                  .attn_scale = 0.1f,
                  .kv = gpu.upload(cache),
                  .q = gpu.empty(DType::bf16, {6, kHeads, kHd}),
                  .work = nullptr};
    AttentionArgs second{.step = &step,
                         .q = first.q,
                         .kv = first.kv,
                         .scale = 0.1f,
                         .out = gpu.empty(DType::bf16, {6, kHeads * kHd}),
                         .work = nullptr};
    second.out.shape = {6, kHeads, kHd};
    View attn = second.out;
    attn.shape = {6, kHeads * kHd};
    const Route route{1, gpu.empty(DType::i32, {6, 1}), gpu.empty(DType::f32, {6, 1})};
    AttnOutArgs third{.attn = attn,
                      .w = o,
                      .x = gpu.upload(numbers.tensor(DType::bf16, {6, kHidden})),
                      .norm_weight = gpu.upload(numbers.tensor(DType::bf16, {kHidden}, 0.5, 1.5)),
                      .norm_eps = 1e-5f,
                      .h = gpu.empty(DType::bf16, {6, kHidden}),
                      .router = router,
                      .route = route,
                      .comm = one.get(),
                      .work = nullptr};
    gpu.backend->begin_step(step);
    gpu.run([&](Arena& work) {
      first.work = second.work = third.work = &work;
      gpu.backend->qkv(first);
      gpu.backend->attention(second);
      gpu.backend->attn_out(third);
    });
    gpu.download(cache);
    auto is_zero = [](std::byte b) { return b == std::byte(); };
    for (const KvSpan& span : cache.plan().spans)
      for (int64_t head = 0; span.row < 5 && head < kKv; ++head)
        for (const bool value : {false, true}) {
          const View entry = cache.entry(span, span.past, head, value);
          auto* bytes = static_cast<std::byte*>(entry.data);
          CHECK(!std::all_of(bytes, bytes + entry.bytes(), is_zero));
          std::fill_n(bytes, entry.bytes(), std::byte());
          if (kv == DType::f8_e4m3) cache.scale(span, span.past, head, value).bf16()[0] = {};
        }
    const auto* all = static_cast<const std::byte*>(cache.memory.view.data);
    CHECK(std::all_of(all, all + cache.memory.view.bytes(), is_zero));
    const Values expert = gpu.download(route.expert), score = gpu.download(route.score);
    for (int64_t row = 0; row < 6; ++row) {
      CHECK((expert.at(row) == -1) == (row == 5));
      CHECK((score.at(row) == 0) == (row == 5));
    }
  }
}
