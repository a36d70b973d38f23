#include "kernels/cuda/attention/choose.h"
#include "kernels/cuda/gpu_testing.h"
#ifdef L4_EMULATED
#include "kernels/cuda/ptx/pdl.h"
#endif

using namespace l4;
using namespace l4::test;

namespace {

struct AttentionCase {
  const char* what;
  int64_t n_heads, n_kv, hd, page_tokens;
  std::vector<Stretch> spans;
};

// How keys and values are kept.
struct Kept {
  DType dtype;
  bool fixed = false;  // F8_E4M3 with one scale for all tokens
  std::string str() const { return cat(dtype_name(dtype), fixed ? " with fixed scales" : ""); }
};
constexpr Kept kFastCaches[] = {{DType::bf16}, {DType::f8_e4m3}, {DType::f8_e4m3, true}};

// The same keys and values three times: as the device's cache, in float32, and
// in float32 with the values' sizes. All that no span reaches is NaN, the rest
// of a last page too. Tokens of an FP8 cache are of different sizes, some zero.
struct Caches {
  PagedCache device, exact, sizes;

  Caches(uint64_t seed, Kept kept, const AttentionCase& c)
      : device(make(seed, kept.dtype, c)), exact(make(seed, DType::f32, c)), sizes(make(seed, DType::f32, c)) {
    if (kept.fixed) device.fix_scales(0.0123f, 0.0456f);
    Numbers numbers(seed);
    for (const KvSpan& span : device.plan().spans)
      for (int64_t i = 0; i < (span.past + span.n_rows) * c.n_kv; ++i)
        for (bool value : {false, true}) {
          constexpr double kSizes[] = {2, 2, 0.3, 1.1, 1e-3, 0};
          const double size = kept.dtype == DType::f8_e4m3 ? kSizes[numbers.below(std::size(kSizes))] : 2;
          Doubles written;
          for (int64_t d = 0; d < c.hd; ++d) written.push_back(numbers.uniform(-size, size));
          Doubles read = device.put(span, i / c.n_kv, i % c.n_kv, value, written);
          exact.put(span, i / c.n_kv, i % c.n_kv, value, read);
          for (double& v : read) v = value ? std::abs(v) : v;
          sizes.put(span, i / c.n_kv, i % c.n_kv, value, read);
        }
  }
  const StepPlan& step() const { return device.step; }

 private:
  static PagedCache make(uint64_t seed, DType dtype, const AttentionCase& c) {
    Numbers numbers(seed);
    return PagedCache(numbers, dtype, c.n_kv, c.hd, c.page_tokens, c.spans);
  }
};

Values widened(const View& v) {
  Values out(DType::f32, v.shape);
  for (int64_t i = 0; i < v.elements(); ++i) out.set(i, Values::value(v, i));
  return out;
}

AttentionArgs arguments(const StepPlan& step, const View& q, const KvLayer& kv, double scale, const View& out) {
  return {.step = &step, .q = q, .kv = kv, .scale = float(scale), .out = out, .work = nullptr};
}

// What the device computes against the CPU in float32: "" or what differs.
std::string compare(GpuMachine& gpu, const AttentionCase& c, DType a, Kept kept, double scale) {
  Machine machine(2);
  const Caches caches(5, kept, c);
  const StepPlan& step = caches.step();
  Numbers numbers(6);
  const Shape shape{step.n_rows(), c.n_heads, c.hd};
  const Values q = numbers.tensor(a, shape, -3, 3), q32 = widened(q);
  Values exact(DType::f32, shape), sizes(DType::f32, shape);
  machine.run([&](const cpu::OpContext& ctx) {
    cpu::paged_attention(ctx, arguments(step, q32, caches.exact.layer, scale, exact));
  });
  machine.run([&](const cpu::OpContext& ctx) {
    cpu::paged_attention(ctx, arguments(step, q32, caches.sizes.layer, scale, sizes));
  });

  const KvLayer layer = gpu.upload(caches.device);
  const View on_device = gpu.upload(q), out = gpu.empty(a, shape);
  auto run = [&] {
    gpu.run(
        [&](const cuda::OpContext& ctx) { cuda::paged_attention(ctx, arguments(step, on_device, layer, scale, out)); });
    return gpu.download(out);
  };
  const Values got = run();
  CHECK(same_bits(run(), got));  // emulated blocks and threads come in another order then

  Doubles want = doubles(exact), magnitude = doubles(sizes);
  for (double& v : want) v = round_as(a, v);
  // exp turns an error of the score into one of the weight: scores reach scale
  // * 128 * 6 at most
  for (double& v : magnitude) v *= std::max(1.0, scale * double(c.hd) / 4);
  // Where a token has its own scale, decode rounds a weight after it is multiplied by its value's, not before, and prefill
  // rounds values times theirs to bfloat16: 2^-9 each, for which a few more results round otherwise.
  Tolerance tolerance = tolerance::kAttention;
  if (kept.dtype == DType::f8_e4m3 && !kept.fixed) tolerance.bf16_differ = 0.55;
  const std::string worst = difference(got, want, magnitude, tolerance);
  if (!worst.empty() || a == DType::f32) return worst;
  // In the mean: 0.0018 of bfloat16, 0.0026 at most of codes. Keys rounded after their scale would give 0.0125.
  const double mean = relative_error(got, doubles(exact));
  return mean < 0x1p-8 ? "" : cat("an error of ", mean);
}

void compare_all(std::span<const AttentionCase> cases, std::span<const int> sms) {
  for (int n_sms : sms)
    for (const Kept& kept : kFastCaches)
      for (const AttentionCase& c : cases) {
        INFO(cat(c.what, ", ", kept.str(), ", ", n_sms, " SMs"));
        GpuMachine gpu;
        gpu.gpu.n_sms = n_sms;
        CHECK(compare(gpu, c, DType::bf16, kept, 1 / std::sqrt(double(c.hd))) == "");
      }
}

KvLayout fast_layout() {
  return {.dtype = DType::bf16, .page_tokens = 128, .n_kv_heads = 8, .head_dim = 128, .v_offset = 1 << 18};
}

}  // namespace

TEST_CASE("cuda attention: which kernels serve which step") {
  const cuda::AttentionShape scout{DType::bf16, fast_layout(), 40, 0.1f};
  auto chosen = [&](std::vector<KvSpan> spans) { return cuda::choose_attention(scout, spans).str(); };
  CHECK(chosen({{0, 1, 5, 0}}) == "decode");
  CHECK(chosen({{0, 1, 5, 0}, {1, 8, 0, 3}}) == "decode");
  CHECK(chosen({{0, 9, 0, 0}}) == "prefill");
  CHECK(chosen({{0, 1, 5, 0}, {1, 200, 0, 3}, {201, 1, 7, 5}}) == "decode + prefill");

  auto other = [&](auto change) {
    cuda::AttentionShape shape = scout;
    change(shape);
    return cuda::choose_attention(shape, std::vector<KvSpan>{{0, 1, 0, 0}}).str();
  };
  CHECK(other([](auto& s) { s.activations = DType::f32; }) == "generic");
  CHECK(other([](auto& s) { s.kv.dtype = DType::f32; }) == "generic");
  CHECK(other([](auto& s) { s.kv.dtype = DType::f8_e4m3; }) == "decode");
  CHECK(other([](auto& s) { s.kv.dtype = DType::f8_e4m3, s.kv.k_scale_offset = 1 << 19; }) == "decode");
  CHECK(other([](auto& s) { s.kv.dtype = DType::f8_e4m3, s.kv.v_scale_offset = 2; }) == "generic");
  CHECK(other([](auto& s) { s.kv.head_dim = 64; }) == "generic");
  CHECK(other([](auto& s) { s.kv.page_tokens = 64; }) == "generic");
  CHECK(other([](auto& s) { s.n_heads = 72; }) == "generic");  // nine heads a kv head
  CHECK(other([](auto& s) { s.n_heads = 64; }) == "decode");
  CHECK(other([](auto& s) { s.kv.v_offset += 8; }) == "generic");
  CHECK(other([](auto& s) { s.scale = 0; }) == "generic");

  using Tile = cuda::TileAttentionKernel;
  CHECK(cuda::choose_tile_attention(DType::bf16, 88, 0.1f) == Tile::flash);
  CHECK(cuda::choose_tile_attention(DType::f32, 88, 0.1f) == Tile::generic);
  CHECK(cuda::choose_tile_attention(DType::bf16, 16, 0.1f) == Tile::generic);
}

TEST_CASE("cuda attention: any shape and type against the CPU") {
  const std::vector<AttentionCase> cases = {
      {"one token", 1, 1, 8, 4, {{0, 1}}},
      {"decode at a page's first and last entry", 4, 2, 16, 8, {{8, 1}, {7, 1}, {15, 1}, {16, 1}}},
      {"prefill over pages of one entry", 2, 1, 16, 1, {{0, 9}}},
      {"pages of a size that divides no block", 2, 1, 16, 24, {{50, 40}}},
      {"head dimension 24, five heads a kv head", 10, 2, 24, 8, {{3, 20}, {0, 17}}},
      {"head dimension 256", 2, 2, 256, 16, {{10, 5}}},
      {"nine heads a kv head", 9, 1, 128, 128, {{130, 2}}},
      {"chunks: a sequence's rows as two stretches", 2, 1, 16, 8, {{4, 4}, {0, 8}, {0, 2}}},
  };
  for (const AttentionCase& c : cases)
    for (DType a : {DType::f32, DType::bf16})
      for (const Kept& kept :
           {Kept{DType::f32}, Kept{DType::bf16}, Kept{DType::f8_e4m3}, Kept{DType::f8_e4m3, true}}) {
        INFO(cat(c.what, ", ", dtype_name(a), ", cache ", kept.str()));
        GpuMachine gpu;
        CHECK(compare(gpu, c, a, kept, 1 / std::sqrt(double(c.hd))) == "");
      }
}

TEST_CASE("cuda attention: decode against the CPU") {
  const std::vector<AttentionCase> cases = {
      {"one token", 1, 1, 128, 128, {{0, 1}}},
      {"edges of units and pages, five heads a kv head",
       10,
       2,
       128,
       128,
       {{62, 1}, {63, 1}, {64, 1}, {126, 1}, {127, 1}, {128, 1}, {0, 1}, {15, 1}, {16, 1}}},
      {"a long one beside short ones, eight heads a kv head", 8, 1, 128, 128, {{3, 1}, {1500, 1}, {64, 1}}},
      {"four heads a kv head, several rows a span", 8, 2, 128, 128, {{130, 4}, {254, 3}, {0, 8}, {63, 2}}},
      {"one head a kv head", 3, 3, 128, 128, {{200, 1}, {31, 1}}},
  };
  // Blocks with a part of a pair, with one pair, with many, and without work.
  compare_all(cases, std::vector<int>{1, 3, 40});
  const std::vector<AttentionCase> long_cases = {
      {"the edge of a chunk", 1, 1, 128, 128, {{8190, 1}, {8191, 1}, {8192, 2}}},
      {"more parts than a warp has threads", 2, 1, 128, 128, {{5900, 1}}},
  };
  compare_all(long_cases, std::vector<int>{40});
}

TEST_CASE("cuda attention: more spans than a block has threads") {
  AttentionCase c{"", 2, 1, 128, 128, {}};
  for (int i = 0; i < 300; ++i) c.spans.push_back({i % 7 * 11, 1});
  compare_all({&c, 1}, std::vector<int>{5});
}

#ifdef L4_EMULATED
TEST_CASE("cuda attention: decode reads what its predecessor writes after the wait for it") {
  // One block, so that no other block has waited before; units with keys of both kinds are its first, too.
  const std::vector<std::vector<Stretch>> cases = {
      {{1, 1}}, {{62, 1}}, {{64, 1}, {47, 8}}, {{0, 5}, {130, 4}}, {{127, 1}, {128, 2}}, {{300, 3}}};
  for (size_t n = 0; n < 2 * cases.size(); ++n) {
    const Kept kept = kFastCaches[n % 2];
    INFO(cat(kept.str(), ", case ", n / 2));
    const AttentionCase c{
        "", 8, 1, 128, 128, cases[n / 2]};  // whichever thread comes first, its part of the queries counts
    GpuMachine gpu;
    gpu.gpu.n_sms = 1;
    const Caches all(5, kept, c), old(5, kept, c);
    Numbers numbers(6);
    const Shape shape{all.step().n_rows(), c.n_heads, c.hd};
    const Values q = numbers.tensor(DType::bf16, shape, -3, 3);
    for (const KvSpan& span : old.device.plan().spans)
      for (int32_t i = span.past; i < span.past + span.n_rows; ++i)
        for (bool value : {false, true}) {
          const View entry = old.device.entry(span, i, 0, value);
          std::memset(entry.data, 0xFF, entry.bytes());
          if (kept.dtype == DType::f8_e4m3) *old.device.scale(span, i, 0, value).bf16() = to_bf16(NAN);
        }
    const View out = gpu.empty(DType::bf16, shape), ready = gpu.upload(q), coming = gpu.empty(DType::bf16, shape);
    auto attend = [&](const View& queries, const KvLayer& layer) {
      gpu.run([&](const cuda::OpContext& ctx) {
        cuda::paged_attention(ctx, arguments(all.step(), queries, layer, 0.1, out));
      });
      return gpu.download(out);
    };
    const Values want = attend(ready, gpu.upload(all.device));
    for (int i = 0; i < 4; ++i) {  // copies happen at once, or as late as they may
      gpu.write(coming, gpu.download(gpu.empty(DType::bf16, shape)));
      const KvLayer layer = gpu.upload(old.device);
      void* pages = static_cast<std::byte*>(layer.base) -
                    (static_cast<std::byte*>(old.device.layer.base) - old.device.memory.storage.data());
      emulation::predecessor = [&] {
        std::memcpy(pages, all.device.memory.storage.data(), all.device.memory.view.bytes());
        std::memcpy(coming.data, q.view.data, q.view.bytes());
      };
      CHECK(same_bits(attend(coming, layer), want));
    }
  }
}
#endif

TEST_CASE("cuda attention: prefill against the CPU") {
  const std::vector<AttentionCase> cases = {
      {"nine rows", 1, 1, 128, 128, {{0, 9}}},
      {"a tile and two rows, five heads a kv head", 5, 1, 128, 128, {{0, 130}}},
      {"whole pages", 2, 2, 128, 128, {{0, 256}}},
      {"a past of whole pages", 2, 1, 128, 128, {{256, 128}}},
      {"a past that ends in a page", 4, 2, 128, 128, {{130, 140}, {100, 20}}},
      {"a warpgroup whose first row sees all but one key of a tile", 1, 1, 128, 128, {{126, 130}, {62, 100}}},
      {"the first key tile of the second warpgroup has keys of no row of the "
       "first",
       1,
       1,
       128,
       128,
       {{65, 127}}},
      {"one key in the last page", 2, 1, 128, 128, {{0, 129}, {1, 128}}},
      {"the edge of a chunk", 1, 1, 128, 128, {{8180, 14}}},
      {"chunks: a sequence's rows as stretches", 2, 1, 128, 128, {{200, 56}, {0, 256}, {0, 30}}},
      {"beside decode rows", 5, 1, 128, 128, {{300, 1}, {70, 90}, {129, 2}, {0, 64}, {7, 1}}},
  };
  compare_all(cases, std::vector<int>{1, 3});
}

TEST_CASE("cuda attention: scores far apart") {
  const AttentionCase cases[] = {{"decode", 5, 1, 128, 128, {{270, 1}, {129, 3}}},
                                 {"prefill", 2, 1, 128, 128, {{100, 160}}}};
  for (const AttentionCase& c : cases)
    for (double scale : {1e-3, 3.0})
      for (const Kept& kept : kFastCaches) {
        INFO(cat(c.what, " ", scale, " ", kept.str()));
        GpuMachine gpu;
        CHECK(compare(gpu, c, DType::bf16, kept, scale) == "");
      }
}

TEST_CASE("cuda attention: a row's bits do not depend on keys after its own") {
  const AttentionCase cases[] = {{"prefill, 126 keys before", 1, 1, 128, 128, {{126, 130}}},
                                 {"prefill, 62 keys before", 1, 1, 128, 128, {{62, 100}}},
                                 {"prefill from the start", 1, 1, 128, 128, {{0, 129}}},
                                 {"decode", 5, 1, 128, 128, {{125, 8}}}};
  for (size_t n = 0; n < 2 * std::size(cases); ++n) {
    const AttentionCase& c = cases[n / 2];
    const Kept kept = kFastCaches[n % 2];
    GpuMachine gpu;
    gpu.gpu.n_sms = 2;
    Caches caches(11, kept, c);
    const KvSpan span = caches.device.plan().spans[0];
    Numbers numbers(12);
    const Shape shape{span.n_rows, c.n_heads, c.hd};
    const View q = gpu.upload(numbers.tensor(DType::bf16, shape, -3, 3)), out = gpu.empty(DType::bf16, shape);
    auto attend = [&] {
      const KvLayer layer = gpu.upload(caches.device);
      gpu.run([&](const cuda::OpContext& ctx) {
        cuda::paged_attention(ctx, arguments(caches.step(), q, layer, 0.1, out));
      });
      return gpu.download(out);
    };
    const Values before = attend();
    for (int32_t row : {1, 2, 3, 7, 63, 64, 65, 66, 127, 128}) {
      if (row >= span.n_rows) continue;
      INFO(cat(c.what, ", ", kept.str(), ", the key of row ", row));
      const Values old = caches.device.memory;
      caches.device.put(span, span.past + row, 0, true, Doubles(size_t(c.hd), 1e4));
      const Values after = attend();
      CHECK(same_bits(after.view.slice(0, row), before.view.slice(0, row)));
      for (int32_t r = row; r < span.n_rows; ++r) CHECK(!same_bits(after.view.slice(r, 1), before.view.slice(r, 1)));
      std::memcpy(caches.device.memory.view.data, old.view.data, old.view.bytes());
    }
  }
}

TEST_CASE(
    "cuda attention: a recorded decode step serves other lengths, with "
    "the bits of the step itself") {
  GpuMachine gpu;
  gpu.gpu.n_sms = 6;
  const AttentionCase c{"", 5, 1, 128, 128, {{700, 1}, {400, 1}, {300, 1}}};
  const Caches caches(7, {DType::bf16}, c);
  const KvLayer layer = gpu.upload(caches.device);
  Numbers numbers(8);
  const Shape shape{3, c.n_heads, c.hd};
  const View q = gpu.upload(numbers.tensor(DType::bf16, shape, -3, 3)), out = gpu.empty(DType::bf16, shape);
  StepPlan shorter = caches.step();
  std::vector<KvSpan>& spans = shorter.of(layer.kind).spans;
  for (KvSpan& span : spans) span.past /= 30;
  auto attend = [&](const StepPlan& step) {
    return [&](const cuda::OpContext& ctx) { cuda::paged_attention(ctx, arguments(step, q, layer, 0.1, out)); };
  };
  gpu.run(attend(caches.step()));
  const Values want_long = gpu.download(out);
  const View device_spans{
      const_cast<KvSpan*>(gpu.gpu.step.of(layer.kind).spans), DType::u8, {int64_t(spans.size() * sizeof(KvSpan))}};
  auto set_spans = [&](const std::vector<KvSpan>& to) {
    gpu.write(device_spans, {const_cast<KvSpan*>(to.data()), DType::u8, device_spans.shape});
  };
  set_spans(spans);
  gpu.run(attend(shorter));
  const Values want_short = gpu.download(out);
  CHECK(!same_bits(want_short, want_long));

  auto replay = gpu.record(attend(shorter));
  for (bool is_short : {true, false, true}) {
    set_spans(is_short ? spans : caches.step().of(layer.kind).spans);
    replay();
    CHECK(same_bits(gpu.download(out), is_short ? want_short : want_long));
  }
}

TEST_CASE(
    "cuda attention: image tiles see all of themselves and nothing of "
    "each other") {
  struct Case {
    int64_t n, s, heads, hd;
  };
  Machine machine(2);
  for (const Case& c : {Case{1, 1, 1, 88}, Case{2, 17, 2, 88}, Case{1, 145, 2, 88}, Case{1, 96, 1, 88},
                        Case{2, 37, 2, 16}, Case{1, 40, 1, 24}})
    for (DType a : {DType::f32, DType::bf16}) {
      INFO(cat(c.n, " ", c.s, " ", c.heads, " ", c.hd, " ", dtype_name(a)));
      GpuMachine gpu;
      Numbers numbers(10);
      const Shape shape{c.n, c.s, c.heads, c.hd};
      const Values q = numbers.tensor(a, shape, -2, 2), k = numbers.tensor(a, shape, -2, 2),
                   v = numbers.tensor(a, shape);
      const Values q32 = widened(q), k32 = widened(k), v32 = widened(v);
      Values size32 = v32, exact(DType::f32, shape), sizes(DType::f32, shape);
      for (int64_t i = 0; i < size32.view.elements(); ++i) size32.set(i, std::abs(v32.at(i)));
      const float scale = float(1 / std::sqrt(double(c.hd)));
      auto on_cpu = [&](const Values& values, const Values& out) {
        machine.run([&](const cpu::OpContext& ctx) {
          cpu::tile_attention(ctx, {.q = q32, .k = k32, .v = values, .scale = scale, .out = out, .work = nullptr});
        });
      };
      on_cpu(v32, exact);
      on_cpu(size32, sizes);
      const View dq = gpu.upload(q), dk = gpu.upload(k), dv = gpu.upload(v), out = gpu.empty(a, shape);
      gpu.run([&](const cuda::OpContext& ctx) {
        cuda::tile_attention(ctx, {.q = dq, .k = dk, .v = dv, .scale = scale, .out = out, .work = nullptr});
      });
      Doubles want = doubles(exact);
      for (double& x : want) x = round_as(a, x);
      CHECK(difference(gpu.download(out), want, doubles(sizes), tolerance::kAttention) == "");
    }
}
