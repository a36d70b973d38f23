#include "engine/step_builder.h"

#include <random>

#include "support/test.h"

using namespace l4;

TEST_CASE("step_builder: one global span a sequence, one chunked span a chunk touched") {
  KvPools pools(4, 8, {20, 20});
  Sequence a(pools, std::vector<int32_t>(30, 1), {}), b(pools, {5, 6}, {});
  REQUIRE(a.reserve(6));
  a.commit(6);
  REQUIRE(a.reserve(12));  // positions 6 .. 17: chunks 0, 1, 2
  REQUIRE(b.reserve(2));
  const StepPart parts[] = {{&a, OutRows::last}, {&b, OutRows::all}};
  const StepPlan plan = build_step(parts, 0);

  CHECK(plan.n_rows() == 14);
  CHECK(plan.positions == std::vector<int32_t>{6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 0, 1});
  CHECK(plan.ids[12] == 5);
  CHECK(plan.out_rows == std::vector<int32_t>{11, 12, 13});

  struct Expected {
    int32_t row, n_rows, past, n_pages;
  };
  auto check = [](const KvPlan& kv, std::vector<Expected> expected) {
    REQUIRE(kv.spans.size() == expected.size());
    int32_t table = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
      CHECK(kv.spans[i].row == expected[i].row);
      CHECK(kv.spans[i].n_rows == expected[i].n_rows);
      CHECK(kv.spans[i].past == expected[i].past);
      CHECK(kv.spans[i].table == table);
      table += expected[i].n_pages;
    }
    CHECK(int32_t(kv.pages.size()) == table);
  };
  check(plan.of(AttentionKind::global), {{0, 12, 6, 5}, {12, 2, 0, 1}});
  check(plan.of(AttentionKind::chunked), {{0, 2, 6, 2}, {2, 8, 0, 2}, {10, 2, 0, 1}, {12, 2, 0, 1}});
}

TEST_CASE("step_builder: image tokens take the rows of their tile's slot") {
  KvPools pools(4, 0, {20, 20});
  constexpr int32_t kPatch = 99;
  const std::vector<int32_t> ids{1, kPatch, kPatch, kPatch, kPatch, 2, kPatch, kPatch, 3};
  std::vector<ImageInput> images(2);
  images[0].n_tiles = 2;
  images[1].n_tiles = 1;
  Sequence s(pools, ids, locate_images(ids, images, kPatch, 2));
  REQUIRE(s.reserve(2));
  s.commit(2);
  REQUIRE(s.reserve(5));  // positions 2 .. 6
  const StepPart part{&s, OutRows::none};
  CHECK_THROWS_AS(build_step(std::span(&part, 1), 2), Error);  // no slots yet
  s.images()[0].slots = {std::make_shared<const int32_t>(10), std::make_shared<const int32_t>(4)};
  s.images()[1].slots = {std::make_shared<const int32_t>(6)};
  const StepPlan plan = build_step(std::span(&part, 1), 2);
  REQUIRE(plan.image_rows.size() == 4);
  const std::pair<int32_t, int32_t> expected[] = {{0, 11}, {1, 4}, {2, 5}, {4, 6}};
  for (size_t i = 0; i < 4; ++i) {
    CHECK(plan.image_rows[i].row == expected[i].first);
    CHECK(plan.image_rows[i].feature == expected[i].second);
  }
  CHECK(plan.out_rows.empty());
}

TEST_CASE("step_builder: prefill steps end at chunk edges unless the prompt ends sooner") {
  CHECK(prefill_step_end(0, 100, 512, 64) == 100);  // all of it fits
  CHECK(prefill_step_end(0, 20000, 8192, 8192) == 8192);
  CHECK(prefill_step_end(5000, 20000, 8192, 8192) == 8192);   // aligned from here on
  CHECK(prefill_step_end(8192, 20000, 2048, 8192) == 10240);  // no edge in reach
  CHECK(prefill_step_end(7000, 20000, 2048, 8192) == 8192);
  CHECK(prefill_step_end(0, 50000, 20000, 8192) == 16384);  // the last edge in reach
  CHECK(prefill_step_end(5000, 20000, 8192, 0) == 13192);   // no chunks
  std::mt19937 random(1);
  for (int i = 0; i < 1000; ++i) {
    const int64_t begin = random() % 50, end = begin + 1 + random() % 50, rows = 1 + random() % 20,
                  chunk = random() % 10;
    const int64_t stop = prefill_step_end(begin, end, rows, chunk);
    CHECK(stop > begin);
    CHECK(stop <= end);
    CHECK(stop - begin <= rows);
  }
}
