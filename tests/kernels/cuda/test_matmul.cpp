#include <optional>
#include <set>

#include "kernels/cuda/matmul/cublas.h"
#include "kernels/cuda/matmul/dispatch.h"
#include "kernels/cuda/matmul/generic.h"
#include "kernels/cuda/matmul/grouped.h"
#include "kernels/cuda/matmul/small_m.h"
#include "kernels/cuda/matmul_testing.h"

using namespace l4;
using namespace l4::test;

namespace {

// bfloat16: outputs are rounded once, by at most 2^-8 of their size, 0.0016 in the root mean square; sums in float32
// add next to nothing. Few outputs may be unlucky ones.
constexpr double kLargestRounding = 0.0039;
double roundings(double n_roundings, int64_t n_outputs) {
  return n_roundings * 0.0018 + kLargestRounding / std::sqrt(double(n_outputs));
}
// float32 sums of up to a thousand terms.
constexpr double kFloat = 2e-6;

struct LinearCase {
  int64_t m, n, k;
  DType a;
  WeightFormat format;
  DType y, round_to;
  bool bias;
};
std::string name(const LinearCase& c) {
  return cat("m ", c.m, ", n ", c.n, ", k ", c.k, ", ", dtype_name(c.a), " x ", weight_format_name(c.format), " -> ",
             dtype_name(c.y), c.bias ? " with bias" : "");
}
// Those that can send what they make to other GPUs have one argument more.
template <class Op, class... Arguments>
void call(const Op& op, Arguments&&... arguments) {
  if constexpr (std::is_invocable_v<Op, Arguments...>)
    op(arguments...);
  else
    op(arguments..., nullptr);
}

template <class Linear>
void check_linear(GpuMachine& gpu, const LinearCase& c, const Linear& linear) {
  INFO(name(c));
  Numbers numbers(uint64_t(c.m * 1000 + c.n + c.k));
  ThreadPool pool(1);
  const GpuWeights w(gpu, pool, numbers, {.name = "w", .n = c.n, .k = c.k, .bias = c.bias, .format = c.format});
  const Values x = numbers.tensor(c.a, {c.m, c.k});
  const View x_device = gpu.upload(x), y = gpu.empty(c.y, {c.m, c.n});
  Doubles want;
  for (int64_t i = 0; i < c.m; ++i)
    for (int64_t j = 0; j < c.n; ++j)
      want.push_back(w.output(0, j, [&](int64_t k) { return x.at(i * c.k + k); }).first);
  Values first;
  for (int repeat = 0; repeat < 3; ++repeat) {
    gpu.run([&](const cuda::OpContext& ctx) { call(linear, ctx, x_device, w.device, y, c.round_to); });
    const Values got = gpu.download(y);
    const Errors e = errors(got, want);
    const bool rounded = c.y == DType::bf16 || c.round_to == DType::bf16;
    CHECK(e.rms <= (rounded ? roundings(1, c.m * c.n) : kFloat));
    CHECK(e.largest <= (rounded ? 5 * kLargestRounding : 10 * kFloat));
    if (c.y == DType::f32 && rounded)
      for (int64_t i = 0; i < got.view.elements(); ++i) REQUIRE(double(round_bf16(float(got.at(i)))) == got.at(i));
    if (repeat == 0)
      first = got;
    else
      CHECK(same_bits(got, first));
  }
}

// ---- feed-forward blocks

struct FfnCase {
  int64_t m, d, f_shared, f_experts, n_experts, top_k;
  enum Routing { random, one, some } routing = random;  // some: only experts 0 and the last
  int64_t first_expert = 0, n_elsewhere = 0;            // experts of the model before and after this rank's
};
std::string name(const FfnCase& c) {
  return cat(c.m, " rows, D ", c.d, ", F ", c.f_shared, " and ", c.f_experts, ", ", c.n_experts, " experts from ",
             c.first_expert, ", top ", c.top_k, ", routing ", int(c.routing));
}

double silu(double g) {
  return g / (1 + std::exp(-g));
}

struct Ffn {
  const FfnCase& c;
  DType a;
  Numbers numbers;
  ThreadPool pool{1};
  GpuWeights shared_up, shared_down;
  std::optional<GpuWeights> experts_up, experts_down;
  Values h, expert, score;

  static LinearSpec spec(int64_t n, int64_t k, int64_t e, bool gated, DType a) {
    return {.name = "w", .n = n, .k = k, .n_experts = e, .gated = gated, .format = format_of(a)};
  }
  Ffn(GpuMachine& gpu, const FfnCase& of, DType a_)
      : c(of),
        a(a_),
        numbers(uint64_t(of.m * 31 + of.d + of.top_k)),
        shared_up(gpu, pool, numbers, spec(2 * of.f_shared, of.d, 1, true, a_), 0.5),
        shared_down(gpu, pool, numbers, spec(of.d, of.f_shared, 1, false, a_)) {
    h = numbers.tensor(a, {c.m, c.d});
    if (c.n_experts == 0) return;
    experts_up.emplace(gpu, pool, numbers, spec(2 * c.f_experts, c.d, c.n_experts, true, a), 0.5);
    experts_down.emplace(gpu, pool, numbers, spec(c.d, c.f_experts, c.n_experts, false, a));
    expert = Values(DType::i32, {c.m, c.top_k});
    score = Values(DType::f32, {c.m, c.top_k});
    const int64_t all = c.first_expert + c.n_experts + c.n_elsewhere;
    for (int64_t t = 0; t < c.m; ++t) {
      std::set<int64_t> taken;
      for (int64_t i = 0; i < c.top_k; ++i) {
        int64_t e;
        do e = numbers.below(all);
        while (taken.count(e));
        if (c.top_k == 1 && c.routing == FfnCase::one) e = c.first_expert + c.n_experts / 2;
        if (c.top_k == 1 && c.routing == FfnCase::some) e = t % 3 ? c.first_expert : all - 1;
        taken.insert(e);
        expert.set(t * c.top_k + i, double(e));
        score.set(t * c.top_k + i, round_as(a, numbers.uniform(0.1, 1)));
      }
    }
  }

  // One expert's share of y[t], in exact arithmetic.
  void add(const GpuWeights& up, const GpuWeights& down, int64_t e, int64_t t, double scale, Doubles& y) const {
    const int64_t f = up.device.spec.n / 2;
    auto x = [&](int64_t k) { return h.at(t * c.d + k) * scale; };
    Doubles act(static_cast<size_t>(f));
    for (int64_t j = 0; j < f; ++j) act[size_t(j)] = silu(up.output(e, j, x).first) * up.output(e, f + j, x).first;
    for (int64_t i = 0; i < c.d; ++i)
      y[size_t(t * c.d + i)] += down.output(e, i, [&](int64_t k) { return act[size_t(k)]; }).first;
  }
  Doubles want() const {
    Doubles y(size_t(c.m * c.d));
    for (int64_t t = 0; t < c.m; ++t) {
      add(shared_up, shared_down, 0, t, 1, y);
      for (int64_t i = 0; c.n_experts && i < c.top_k; ++i) {
        const int64_t e = int64_t(expert.at(t * c.top_k + i)) - c.first_expert;
        if (e >= 0 && e < c.n_experts) add(*experts_up, *experts_down, e, t, score.at(t * c.top_k + i), y);
      }
    }
    return y;
  }

  // The arguments of both stages, with everything on the device.
  struct Placed {
    FfnUpArgs up;
    FfnDownArgs down;
    View y;
  };
  Placed place(GpuMachine& gpu) const {
    Route route{};
    View act_routed;
    if (c.n_experts) {
      route = {c.top_k, gpu.upload(expert), gpu.upload(score)};
      act_routed = gpu.empty(a, {c.m * c.top_k, c.f_experts});
    }
    const View act_shared = gpu.empty(a, {c.m, c.f_shared});
    const PackedWeight* up_routed = experts_up ? &experts_up->device : nullptr;
    const PackedWeight* down_routed = experts_down ? &experts_down->device : nullptr;
    return {{gpu.upload(h), &shared_up.device, up_routed, c.first_expert, route, act_shared, act_routed, nullptr},
            {act_shared, &shared_down.device, act_routed, down_routed, c.first_expert, route, {}, {}, 0, {}, nullptr, nullptr},
            gpu.empty(a, {c.m, c.d})};
  }
  template <class Up, class Down>
  Values run(GpuMachine& gpu, const Up& up, const Down& down) const {
    const Placed at = place(gpu);
    gpu.run([&](const cuda::OpContext& ctx) { up(ctx, at.up); });
    gpu.run([&](const cuda::OpContext& ctx) { call(down, ctx, at.down, at.y); });
    return gpu.download(at.y);
  }
};

// Roundings of bfloat16 on the way: g, u, silu and the activation, then y; each 2^-9 / sqrt(3) of its size.
template <class Up, class Down>
void check_ffn(GpuMachine& gpu, const FfnCase& c, DType a, const Up& up, const Down& down) {
  INFO(name(c));
  const Ffn ffn(gpu, c, a);
  const Values got = ffn.run(gpu, up, down);
  const Errors e = errors(got, ffn.want());
  CHECK(e.rms <= (a == DType::bf16 ? roundings(3, c.m * c.f_shared) : kFloat));
  CHECK(e.largest <= (a == DType::bf16 ? 25 * kLargestRounding : 10 * kFloat));  // products have long tails
  CHECK(same_bits(got, ffn.run(gpu, up, down)));
}

}  // namespace

TEST_CASE("cuda matmul: the generic product, any shape, in float32 and bfloat16") {
  GpuMachine gpu;
  auto generic = [](const cuda::OpContext& ctx, const View& x, const PackedWeight& w, const View& y, DType round_to) {
    cuda::generic_gemm(ctx, {.w = &w, .x = x, .y = y, .round_to = round_to});
  };
  for (auto [m, n, k] : {std::array<int64_t, 3>{1, 1, 1}, {1, 65, 17}, {3, 7, 100}, {65, 64, 16}, {70, 130, 33}})
    for (bool bias : {false, true}) {
      check_linear(gpu, {m, n, k, DType::f32, WeightFormat::f32, DType::f32, DType::f32, bias}, generic);
      check_linear(gpu, {m, n, k, DType::bf16, WeightFormat::bf16, DType::bf16, DType::bf16, bias}, generic);
      check_linear(gpu, {m, n, k, DType::bf16, WeightFormat::f32, DType::f32, DType::bf16, bias}, generic);
    }
}

TEST_CASE("cuda matmul: small_m with every number of rows and tiles split in any way") {
  for (int n_sms : {1, 3, 7}) {
    GpuMachine gpu;
    gpu.gpu.n_sms = n_sms;
    for (int64_t m : {1, 2, 4, 5, 8, 9, 16})
      for (auto [n, k] : {std::array<int64_t, 2>{16, 64}, {40, 192}, {7, 1088}, {130, 256}, {1, 64}}) {
        if (n_sms != 3 && m % 4 == 1 && n != 40) continue;
        check_linear(gpu, {m, n, k, DType::bf16, WeightFormat::bf16, DType::bf16, DType::bf16, m % 2 == 0},
                     cuda::small_m_linear);
        check_linear(gpu, {m, n, k, DType::bf16, WeightFormat::bf16, DType::f32, DType::bf16, m % 2 == 1},
                     cuda::small_m_linear);
      }
    check_linear(gpu, {3, 33, 1536, DType::bf16, WeightFormat::bf16, DType::f32, DType::f32, true},
                 cuda::small_m_linear);
    // More items than blocks are given: they draw; tiles of several pieces.
    for (int64_t m : {1, 7, 12})
      for (auto [n, k] : {std::array<int64_t, 2>{500, 128}, {70, 2112}, {16, 4992}})
        check_linear(gpu, {m, n, k, DType::bf16, WeightFormat::bf16, DType::bf16, DType::bf16, false},
                     cuda::small_m_linear);
  }
}

TEST_CASE("cuda matmul: the generic feed-forward block") {
  GpuMachine gpu;
  for (DType a : {DType::f32, DType::bf16}) {
    check_ffn(gpu, {1, 20, 12, 0, 0, 0}, a, cuda::generic_ffn_up, cuda::generic_ffn_down);
    check_ffn(gpu, {5, 20, 12, 10, 4, 1}, a, cuda::generic_ffn_up, cuda::generic_ffn_down);
    check_ffn(gpu, {7, 24, 16, 8, 5, 2, FfnCase::random, 2, 1}, a, cuda::generic_ffn_up, cuda::generic_ffn_down);
    check_ffn(gpu, {70, 16, 8, 16, 3, 1, FfnCase::one}, a, cuda::generic_ffn_up, cuda::generic_ffn_down);
  }
}

TEST_CASE("cuda matmul: small_m's feed-forward block, shared and routed in one launch") {
  for (int n_sms : {2, 5}) {
    GpuMachine gpu;
    gpu.gpu.n_sms = n_sms;
    for (const FfnCase& c : {FfnCase{1, 64, 64, 64, 4, 1}, FfnCase{1, 128, 64, 0, 0, 0}, FfnCase{8, 192, 128, 64, 3, 1},
                             FfnCase{4, 64, 64, 128, 16, 1}, FfnCase{8, 64, 64, 64, 4, 1, FfnCase::one},
                             FfnCase{5, 64, 64, 64, 4, 2}, FfnCase{16, 64, 64, 64, 7, 1}, FfnCase{16, 64, 64, 64, 6, 2},
                             FfnCase{11, 64, 64, 64, 2, 1, FfnCase::some, 3, 2},
                             FfnCase{3, 64, 64, 64, 2, 1, FfnCase::some, 3, 2}, FfnCase{2, 1088, 64, 64, 2, 1},
                             FfnCase{2, 2176, 128, 192, 3, 1}, FfnCase{7, 64, 2240, 1152, 4, 1}})
      check_ffn(gpu, c, DType::bf16, cuda::small_m_ffn_up, cuda::small_m_ffn_down);
  }
}

TEST_CASE("cuda matmul: the grouped feed-forward block, narrow") {
  GpuMachine gpu;
  for (const FfnCase& c :
       {FfnCase{17, 72, 40, 0, 0, 0}, FfnCase{20, 64, 64, 64, 4, 1}, FfnCase{70, 136, 72, 24, 3, 1, FfnCase::one},
        FfnCase{33, 200, 8, 136, 5, 1, FfnCase::some}, FfnCase{40, 64, 24, 16, 2, 1, FfnCase::random, 3, 2},
        FfnCase{1, 8, 8, 8, 40, 1}, FfnCase{50, 72, 264, 40, 3, 1}, FfnCase{40, 136, 200, 0, 0, 0},
        FfnCase{40, 64, 136, 16, 2, 1, FfnCase::random, 3, 2}})
    check_ffn(gpu, c, DType::bf16, cuda::grouped_ffn_up, cuda::grouped_ffn_down);
}

TEST_CASE("cuda matmul: the grouped feed-forward block, wide") {
  GpuMachine gpu;
  for (const FfnCase& c :
       {FfnCase{600, 72, 40, 0, 0, 0}, FfnCase{530, 64, 16, 72, 4, 1},
        FfnCase{700, 40, 24, 16, 2, 1, FfnCase::some, 3, 2}, FfnCase{515, 136, 8, 16, 3, 1, FfnCase::one},
        FfnCase{1300, 24, 72, 136, 3, 1}, FfnCase{900, 136, 8, 136, 2, 1, FfnCase::random, 1, 3}})
    check_ffn(gpu, c, DType::bf16, cuda::grouped_ffn_up, cuda::grouped_ffn_down);
}

TEST_CASE("cuda matmul: the grouped feed-forward block on an odd number of multiprocessors, or one") {
  for (int n_sms : {1, 3}) {
    GpuMachine gpu;
    gpu.gpu.n_sms = n_sms;
    for (int64_t m : {30, 560})  // 264: three tiles of rows
      check_ffn(gpu, {m, 264, 8, 136, 2, 1}, DType::bf16, cuda::grouped_ffn_up, cuda::grouped_ffn_down);
  }
}

TEST_CASE("cuda matmul: small_m on as many multiprocessors as a Hopper GPU has") {
  GpuMachine gpu;
  gpu.gpu.n_sms = 132;
  for (int64_t m : {1, 8, 16}) {
    check_linear(gpu, {m, 200, 576, DType::bf16, WeightFormat::bf16, DType::bf16, DType::bf16, false},
                 cuda::small_m_linear);
    check_ffn(gpu, {m, 192, 128, 64, 4, 1}, DType::bf16, cuda::small_m_ffn_up, cuda::small_m_ffn_down);
  }
}

TEST_CASE("cuda matmul: a graph of the feed-forward block follows the route of its replay") {
  GpuMachine gpu;
  for (const FfnCase& c : {FfnCase{3, 64, 64, 128, 6, 1}, FfnCase{8, 64, 64, 128, 6, 2}, FfnCase{20, 64, 24, 40, 6, 1}}) {
    INFO(name(c));
    Ffn ffn(gpu, c, DType::bf16);
    const Ffn::Placed at = ffn.place(gpu);
    auto replay = gpu.record([&](const cuda::OpContext& ctx) {
      cuda::ffn_up(ctx, at.up);
      cuda::ffn_down(ctx, at.down, at.y);
    });
    for (int64_t turn = 0; turn < 4; ++turn) {
      replay();
      const Errors e = errors(gpu.download(at.y), ffn.want());
      CHECK(e.rms <= roundings(3, c.m * c.f_shared));
      for (int64_t i = 0; i < c.m * c.top_k; ++i)  // all to one expert in the third turn, elsewhere in the last
        ffn.expert.set(i, double(turn == 1   ? 4 + i % c.top_k
                                 : turn == 2 ? 6 + i % c.top_k
                                             : (int64_t(ffn.expert.at(i)) + 1) % 6));
      gpu.write(at.up.route.expert, ffn.expert);
    }
  }
}

// A layer's order, again and again: the end of attention, up of its rows, down, the next norm, a product of that one's rows.
TEST_CASE("cuda matmul: small_m begins when its rows are there, before the kernel ends that makes them") {
  GpuMachine gpu;
  for (const FfnCase& c :
       {FfnCase{1, 192, 128, 64, 4, 1}, FfnCase{4, 64, 192, 0, 0, 0}, FfnCase{7, 64, 64, 64, 4, 2},
        FfnCase{16, 128, 64, 64, 16, 1}}) {
    INFO(name(c));
    Ffn ffn(gpu, c, DType::bf16);
    const Ffn::Placed at = ffn.place(gpu);
    std::optional<GpuWeights> router;
    if (c.n_experts) router.emplace(gpu, ffn.pool, ffn.numbers, LinearSpec{.name = "r", .n = c.n_experts, .k = c.d});
    const GpuWeights next(gpu, ffn.pool, ffn.numbers, LinearSpec{.name = "w", .n = 72, .k = c.d});
    const View norm = gpu.upload(ffn.numbers.tensor(DType::bf16, {c.d}, 0, 2)),
               y = gpu.upload(ffn.numbers.tensor(DType::bf16, {c.m, c.d}));
    const Values x0 = ffn.numbers.tensor(DType::bf16, {c.m, c.d});
    const View x = gpu.upload(x0), z = gpu.empty(DType::bf16, {c.m, 72});
    auto layer = [&](bool early) {
      gpu.write(x, x0);
      auto replay = gpu.record([&](const cuda::OpContext& ctx) {
        bool published = cuda::add_residual_norm_route(ctx, y, x, norm, 1e-5f, at.up.h,
                                                       router ? &router->device : nullptr, at.up.route);
        CHECK(published != ctx.measuring());
        auto then = [&] { return cuda::OpContext{ctx.gpu, ctx.work, early && published ? at.up.h.data : nullptr}; };
        cuda::small_m_ffn_up(then(), at.up);
        cuda::small_m_ffn_down(ctx, at.down, at.y);
        published = cuda::add_residual_norm_route(ctx, at.y, x, norm, 1e-5f, at.up.h, nullptr, {});
        cuda::small_m_linear(then(), at.up.h, next.device, z, DType::bf16);
      });
      for (int i = 0; i < 20; ++i) replay();
      return std::pair(gpu.download(x), gpu.download(z));
    };
    const auto want = layer(false), got = layer(true);
    CHECK(same_bits(got.first, want.first));
    CHECK(same_bits(got.second, want.second));
  }
}

TEST_CASE("cuda matmul: cuBLASLt's product, from its cache too, with and without bias") {
  GpuMachine gpu;
  for (auto [m, n, k] : {std::array<int64_t, 3>{17, 64, 72}, {40, 136, 64}, {33, 16, 588}})
    for (bool bias : {false, true})
      for (DType y : {DType::bf16, DType::f32})
        check_linear(gpu, {m, n, k, DType::bf16, WeightFormat::bf16, y, DType::bf16, bias}, cuda::cublas_linear);
}

TEST_CASE("cuda matmul: linear, whatever serves it") {
  GpuMachine gpu;
  for (int64_t m : {1, 16, 17, 40})
    for (int64_t k : {64, 12}) {
      check_linear(gpu, {m, 24, k, DType::bf16, WeightFormat::bf16, DType::bf16, DType::bf16, true}, cuda::linear);
      check_linear(gpu, {m, 24, k, DType::f32, WeightFormat::f32, DType::f32, DType::f32, false}, cuda::linear);
    }
}

TEST_CASE("cuda matmul: token tiles cover a group evenly, with widths that the instruction has") {
  for (int count = 0; count <= 3000; ++count) {
    const cuda::TokenTiles wide = cuda::token_tiles<256>(count), narrow = cuda::token_tiles<64>(count);
    CHECK((wide.n == 0) == (count == 0));
    for (auto [t, most] : {std::pair{wide, 256}, std::pair{narrow, 64}}) {
      if (count == 0) continue;
      REQUIRE(t.n * t.width >= count);
      REQUIRE((t.n - 1) * t.width < count);
      REQUIRE(t.width <= most);
    }
    if (count) REQUIRE(wide.width % 16 == 0);
    if (count) REQUIRE(narrow.width % 16 == 0);
    if (count) REQUIRE(wide.n == (count + 255) / 256);
  }
  CHECK(cuda::token_tiles<256>(520).width == 176);
  CHECK(cuda::token_tiles<256>(512).width == 256);
  CHECK(cuda::token_tiles<64>(3).width == 16);
}

TEST_CASE("cuda matmul: the order of tiles has every tile once, a band of columns at a time") {
  for (auto [rows, columns, most] : {std::array{1, 1, 4}, {3, 8, 4}, {5, 9, 4}, {128, 32, 4}, {40, 7, 8}, {2, 9, 8}}) {
    std::set<std::pair<int, int>> seen;
    std::set<int> band, before;
    for (int i = 0; i < rows * columns; ++i) {
      const cuda::TilePlace at = cuda::tile_place(i, rows, columns, most);
      REQUIRE(at.row >= 0);
      REQUIRE(at.row < rows);
      REQUIRE(at.column >= 0);
      REQUIRE(at.column < columns);
      if (at.row == 0 && band.count(at.column) == 0 && int(seen.size()) == rows * int(before.size() + band.size()))
        before.merge(band), band.clear();  // the band before is complete
      if (at.row == 0) band.insert(at.column);
      REQUIRE(band.count(at.column) == 1);
      REQUIRE(int(band.size()) <= most);
      seen.insert({at.row, at.column});
    }
    CHECK(int(seen.size()) == rows * columns);
  }
}

TEST_CASE("cuda matmul: which kernel serves what") {
  using cuda::linear_kernel_name;
  auto spec = [](int64_t n, int64_t k, WeightFormat format = WeightFormat::bf16) {
    return LinearSpec{.name = "w", .n = n, .k = k, .format = format};
  };
  auto is = [](const char* got, const char* want) { return std::string(got) == want; };
  for (int64_t m : {1, 8, 16}) CHECK(is(linear_kernel_name(spec(7168, 5120), DType::bf16, m), "small_m"));
  CHECK(is(linear_kernel_name(spec(202048, 5120), DType::bf16, 1), "small_m"));
  CHECK(is(linear_kernel_name(spec(640, 5120), DType::bf16, 17), "cublaslt"));
  CHECK(is(linear_kernel_name(spec(5120, 5120), DType::f32, 1), "generic"));
  CHECK(is(linear_kernel_name(spec(5120, 5120, WeightFormat::f32), DType::bf16, 1), "generic"));
  CHECK(is(linear_kernel_name(spec(5120, 588), DType::bf16, 1), "generic"));  // rows of no multiple of 16 bytes
  CHECK(is(linear_kernel_name(spec(1408, 588), DType::bf16, 576), "cublaslt"));
  // Scout on 1, 2, 4 and 8 GPUs, Maverick with its 128 experts, and a dense layer of it.
  for (int64_t ranks : {1, 2, 4, 8})
    for (int64_t m : {1, 8, 16, 17, 64, 8192}) {
      const char* want = m <= 16 ? "small_m" : "grouped";
      cuda::FfnShape s{
          .d = 5120, .f_shared = 8192 / ranks, .f_experts = 8192 / ranks, .n_experts = 16, .top_k = 1, .slab = 64, .bf16 = true};
      CHECK(is(cuda::matmul_kernel_name(cuda::ffn_kernel(s, m)), want));
      s.n_experts = 128;
      CHECK(is(cuda::matmul_kernel_name(cuda::ffn_kernel(s, m)), want));
      const cuda::FfnShape dense{.d = 5120, .f_shared = 16384 / ranks, .slab = 64, .bf16 = true};
      CHECK(is(cuda::matmul_kernel_name(cuda::ffn_kernel(dense, m)), want));
      s.top_k = 2;
      CHECK(is(cuda::matmul_kernel_name(cuda::ffn_kernel(s, m)), m <= 16 ? "small_m" : "generic"));
      s.bf16 = false, s.slab = 0;
      CHECK(is(cuda::matmul_kernel_name(cuda::ffn_kernel(s, m)), "generic"));
    }
}
