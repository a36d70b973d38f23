#include <algorithm>
#include <numeric>

#include "kernels/cpu/op_testing.h"

using namespace l4;
using namespace l4::test;

namespace {
struct Routed {
  Values expert, score;
  Route route;
  Routed(int64_t n_rows, int64_t top_k) : expert(DType::i32, {n_rows, top_k}), score(DType::f32, {n_rows, top_k}) {
    route = {top_k, expert, score};
  }
};
}  // namespace

TEST_CASE("cpu moe: routing takes the largest logits, the lowest index among equals") {
  Machine machine(2);
  for (int64_t n_experts : {1, 2, 16, 128})
    for (int64_t top_k : {1, 2, 5})
      for (DType a : {DType::f32, DType::bf16}) {
        if (top_k > n_experts) continue;
        INFO(cat(n_experts, " ", top_k, " ", dtype_name(a)));
        Numbers numbers(uint64_t(n_experts * 10 + top_k));
        const int64_t n_rows = 200;
        Values logits(a, {n_rows, n_experts});
        for (int64_t i = 0; i < n_rows * n_experts; ++i) logits.set(i, double(numbers.below(9)) - 4);  // many ties
        Routed r(n_rows, top_k);
        machine.run([&](const cpu::OpContext& ctx) { cpu::route_rows(ctx, logits, r.route); });
        Doubles scores;
        for (int64_t t = 0; t < n_rows; ++t) {
          std::vector<int32_t> order(static_cast<size_t>(n_experts));
          std::iota(order.begin(), order.end(), 0);
          auto logit = [&](int32_t e) { return logits.at(t * n_experts + e); };
          std::stable_sort(order.begin(), order.end(), [&](int32_t x, int32_t y) { return logit(x) > logit(y); });
          for (int64_t i = 0; i < top_k; ++i) {
            CHECK(r.expert.view.i32()[t * top_k + i] == order[size_t(i)]);
            scores.push_back(round_as(a, 1 / (1 + std::exp(-logit(order[size_t(i)])))));
          }
        }
        CHECK(difference(r.score, scores, tolerance::kScore) == "");
        if (a == DType::bf16)
          for (int64_t i = 0; i < n_rows * top_k; ++i) CHECK(r.score.at(i) == round_as(a, r.score.at(i)));
      }
}

TEST_CASE("cpu moe: logits that are not numbers still give distinct experts") {
  Machine machine(1);
  Values logits(DType::f32, {3, 4});  // all NaN
  logits.set(4 + 2, 1.0);             // the second row has one number
  for (int64_t i = 8; i < 12; ++i) logits.set(i, -INFINITY);
  Routed r(3, 2);
  machine.run([&](const cpu::OpContext& ctx) { cpu::route_rows(ctx, logits, r.route); });
  const int32_t* e = r.expert.view.i32();
  CHECK(std::vector<int32_t>(e, e + 6) == std::vector<int32_t>{0, 1, 2, 0, 0, 1});
}

TEST_CASE("cpu moe: slots grouped by the experts that live here") {
  Machine machine(1);
  struct Case {
    const char* what;
    std::vector<int32_t> expert;  // of each slot
    int64_t top_k, first, n;
    std::vector<int32_t> begin, slots;
  };
  const Case cases[] = {
      {"one token", {2}, 1, 0, 4, {0, 0, 0, 1, 1}, {0}},
      {"an expert without rows", {1, 0, 1, 3}, 1, 0, 4, {0, 1, 3, 3, 4}, {1, 0, 2, 3}},
      {"all rows to one expert", {3, 3, 3}, 1, 0, 4, {0, 0, 0, 0, 3}, {0, 1, 2}},
      {"only the second half lives here", {0, 3, 2, 1, 3}, 1, 2, 2, {0, 1, 3}, {2, 1, 4}},
      {"none lives here", {0, 1, 0}, 1, 2, 2, {0, 0, 0}, {}},
      {"two experts a row", {0, 2, 2, 1, 1, 0}, 2, 0, 3, {0, 2, 4, 6}, {0, 5, 3, 4, 1, 2}},
      {"two a row, the first expert absent", {0, 2, 2, 1, 1, 0}, 2, 1, 2, {0, 2, 4}, {3, 4, 1, 2}},
  };
  for (const Case& c : cases) {
    INFO(c.what);
    const int64_t n_rows = int64_t(c.expert.size()) / c.top_k;
    Routed r(n_rows, c.top_k);
    for (size_t i = 0; i < c.expert.size(); ++i)
      r.expert.set(int64_t(i), c.expert[i]), r.score.set(int64_t(i), 10 + double(i));
    machine.run([&](const cpu::OpContext& ctx) {
      Scratch scratch(ctx.work);
      cpu::ExpertGroups g = cpu::group_by_expert(scratch, ctx, r.route, c.first, c.n);
      if (ctx.measuring()) return;
      CHECK(std::vector<int32_t>(g.begin, g.begin + c.n + 1) == c.begin);
      CHECK(std::vector<int32_t>(g.slots, g.slots + c.slots.size()) == c.slots);
      for (size_t i = 0; i < c.slots.size(); ++i) {
        CHECK(g.rows[i] == c.slots[i] / c.top_k);
        CHECK(g.scores[i] == float(10 + c.slots[i]));
      }
    });
  }
}

TEST_CASE("cpu moe: the experts' outputs summed a row, each rounded or not") {
  Machine machine(2);
  Numbers numbers(6);
  const int64_t n_rows = 19, top_k = 2, d = 70;
  Values down = numbers.tensor(DType::f32, {n_rows * top_k, d}), sums(DType::f32, {n_rows, d});
  Routed r(n_rows, top_k);
  for (int64_t i = 0; i < n_rows * top_k; ++i) r.expert.set(i, double(numbers.below(6)));
  for (bool round_each : {false, true})
    for (DType a : {DType::f32, DType::bf16}) {
      machine.run(
          [&](const cpu::OpContext& ctx) { cpu::combine_experts(ctx, down, r.route, 2, 3, a, round_each, sums); });
      for (int64_t t = 0; t < n_rows; ++t)
        for (int64_t j = 0; j < d; ++j) {
          float want = 0;  // experts 2, 3 and 4 live here; a row with none gets zero
          for (int64_t slot = t * top_k; slot < (t + 1) * top_k; ++slot)
            if (int e = r.expert.view.i32()[slot]; e >= 2 && e < 5)
              want += float(round_as(round_each ? a : DType::f32, down.at(slot * d + j)));
          CHECK(sums.at(t * d + j) == double(want));
        }
    }
}
