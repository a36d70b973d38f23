#include <algorithm>
#include <numeric>

#include "kernels/cuda/gpu_testing.h"

using namespace l4;
using namespace l4::test;

TEST_CASE("cuda moe: routes as the CPU's, ties and values that are no numbers included") {
  Machine cpu_machine(1);
  GpuMachine gpu;
  for (int64_t n_experts : {1, 2, 16, 128, 131})
    for (int64_t top_k : {1, 2, 5})
      for (DType a : {DType::f32, DType::bf16}) {
        if (top_k > n_experts) continue;
        INFO(cat(n_experts, " ", top_k, " ", dtype_name(a)));
        Numbers numbers(uint64_t(n_experts * 10 + top_k));
        const int64_t n_rows = 21;
        Values logits(a, {n_rows, n_experts}), expert(DType::i32, {n_rows, top_k}), score(DType::f32, {n_rows, top_k});
        for (int64_t i = 0; i < n_rows * n_experts; ++i) logits.set(i, double(numbers.below(9)) - 4);  // many ties
        for (int64_t i = 0; i < n_experts; ++i) {
          logits.set(i, NAN);
          logits.set(n_experts + i, i % 2 ? -INFINITY : NAN);
          if (numbers.below(2)) logits.set(2 * n_experts + i, INFINITY);
        }
        const View glogits = gpu.upload(logits), gexpert = gpu.upload(expert), gscore = gpu.upload(score);
        Route route, gpu_route;
        route.top_k = gpu_route.top_k = top_k;
        route.expert = expert, route.score = score, gpu_route.expert = gexpert, gpu_route.score = gscore;
        cpu_machine.run([&](const cpu::OpContext& ctx) { cpu::route_rows(ctx, logits, route); });
        gpu.run([&](const cuda::OpContext& ctx) { cuda::route_rows(ctx, glogits, gpu_route); });
        CHECK(same_bits(gpu.download(gexpert), expert));
        for (int64_t i = top_k; i < n_rows * top_k; ++i)
          if (score.at(i) == score.at(i))
            CHECK(std::abs(gpu.download(gscore).at(i) - score.at(i)) <= (a == DType::bf16 ? 0x1p-8 : 4e-7));
      }
}

TEST_CASE("cuda moe: slots grouped by the experts that live here, as the CPU's") {
  Machine cpu_machine(1);
  GpuMachine gpu;
  struct Case {
    const char* what;
    int64_t n_rows, top_k, n_experts, first, n;
  };
  const Case cases[] = {{"one token", 1, 1, 16, 0, 16},
                        {"a decode step", 5, 1, 16, 0, 16},
                        {"none lives here", 3, 1, 4, 7, 2},
                        {"half lives here", 333, 1, 16, 8, 8},
                        {"two a row", 75, 2, 128, 0, 128},
                        {"some of two a row", 75, 2, 128, 30, 70},
                        {"more than a thread each", 5003, 1, 16, 0, 16},
                        {"all to one", 2000, 1, 1, 0, 3}};
  for (const Case& c : cases) {
    INFO(c.what);
    Numbers numbers(7);
    Values expert(DType::i32, {c.n_rows, c.top_k}), score = numbers.tensor(DType::f32, {c.n_rows, c.top_k});
    for (int64_t i = 0; i < c.n_rows * c.top_k; ++i) expert.set(i, double(numbers.below(c.n_experts)));
    const View gexpert = gpu.upload(expert), gscore = gpu.upload(score);
    Route route, gpu_route;
    route.top_k = gpu_route.top_k = c.top_k;
    route.expert = expert, route.score = score, gpu_route.expert = gexpert, gpu_route.score = gscore;
    std::vector<int32_t> begin, slots, rows;
    std::vector<float> scores;
    cpu_machine.run([&](const cpu::OpContext& ctx) {
      Scratch scratch(ctx.work);
      cpu::ExpertGroups g = cpu::group_by_expert(scratch, ctx, route, c.first, c.n);
      if (ctx.measuring()) return;
      begin.assign(g.begin, g.begin + c.n + 1);
      slots.assign(g.slots, g.slots + begin.back()), rows.assign(g.rows, g.rows + begin.back());
      scores.assign(g.scores, g.scores + begin.back());
    });
    gpu.run([&](const cuda::OpContext& ctx) {
      Scratch scratch(ctx.work);
      cuda::ExpertGroups g = cuda::group_by_expert(scratch, ctx, gpu_route, c.first, c.n);
      CHECK((g.n_experts == c.n && g.n_slots == c.n_rows * c.top_k));
      if (ctx.measuring()) return;
      CHECK(doubles(gpu.download({g.begin, DType::i32, {int64_t(begin.size())}})) ==
            Doubles(begin.begin(), begin.end()));
      CHECK(doubles(gpu.download({g.slots, DType::i32, {int64_t(slots.size())}})) ==
            Doubles(slots.begin(), slots.end()));
      CHECK(doubles(gpu.download({g.rows, DType::i32, {int64_t(rows.size())}})) == Doubles(rows.begin(), rows.end()));
      CHECK(doubles(gpu.download({g.scores, DType::f32, {int64_t(scores.size())}})) ==
            Doubles(scores.begin(), scores.end()));
    });
  }
}
