#include "engine/sequence.h"

#include <memory>
#include <random>

#include "core/engine/sequence_bench.h"
#include "engine/prefix_cache.h"
#include "support/test.h"

using namespace l4;
using namespace l4::test;

TEST_CASE("sequence: token by token, in odd steps and at once see the same, across chunk edges") {
  std::mt19937 random(1);
  for (auto [page, chunk] : {std::pair<int64_t, int64_t>{4, 16}, {1, 3}, {4, 4}, {8, 0}, {2, 6}})
    for (int64_t step : {1, 2, 3, 5, 7, 16, 17, 50}) {
      Bench bench(page, chunk, 100, 100);
      Sequence s(bench.pools, random_ids(random, 50), {});
      bench.compute(s, step);
      CHECK(s.n_committed() == 50);
    }
}

TEST_CASE("sequence: pages of a finished chunk are freed when a token behind its edge is committed") {
  std::mt19937 random(2);
  Bench bench(4, 8, 100, 100);
  Sequence s(bench.pools, random_ids(random, 20), {});
  auto advance = [&](int64_t n) {
    REQUIRE(s.reserve(n));
    bench.run({&s});
    s.commit(n);
  };
  advance(7);
  CHECK(bench.used(AttentionKind::chunked) == 2);
  advance(1);  // 8: the chunk is full, nothing is behind its edge
  CHECK(bench.used(AttentionKind::chunked) == 2);
  advance(1);
  CHECK(bench.used(AttentionKind::chunked) == 1);
  CHECK(s.table(AttentionKind::chunked).begin == 8);
  CHECK(bench.used(AttentionKind::global) == 3);
  // A step that is taken back behind the edge frees nothing of the chunk before it.
  advance(6);  // 15
  REQUIRE(s.reserve(4));
  bench.run({&s});
  CHECK(bench.used(AttentionKind::chunked) == 3);
  s.commit(1);  // 16
  CHECK(bench.used(AttentionKind::chunked) == 2);
  CHECK(s.truncate(13) == 13);
}

TEST_CASE("sequence: truncate goes back within the chunk, else to an edge") {
  std::mt19937 random(3);
  struct Case {
    int64_t computed, to, kept;
  };
  for (Case c : {Case{7, 3, 3},
                 {8, 3, 3},
                 {9, 8, 8},
                 {9, 3, 0},
                 {20, 17, 17},
                 {20, 16, 16},
                 {20, 15, 8},
                 {20, 8, 8},
                 {24, 17, 17},
                 {24, 0, 0},
                 {25, 23, 16},
                 {25, 25, 25}}) {
    CAPTURE(c.computed);
    CAPTURE(c.to);
    Bench bench(4, 8, 100, 100);
    Sequence s(bench.pools, random_ids(random, 30), {});
    while (s.n_committed() < c.computed) {
      REQUIRE(s.reserve(1));
      bench.run({&s});
      s.commit(1);
    }
    CHECK(s.truncate(c.to) == c.kept);
    CHECK(s.length() == c.to);
    CHECK(s.n_committed() == c.kept);
    for (int i = 0; i < 20; ++i) s.append(int32_t(500 + i));
    bench.compute(s, 3);
  }
  // Without chunks it always goes all the way.
  Bench bench(4, 0, 100, 100);
  Sequence s(bench.pools, random_ids(random, 30), {});
  bench.compute(s, 30);
  CHECK(s.truncate(5) == 5);
}

TEST_CASE("sequence: out of pages is an answer, and leaves everything as it was") {
  Bench bench(4, 8, 3, 2);
  Sequence s(bench.pools, std::vector<int32_t>(100, 7), {});
  CHECK(!s.reserve(9));  // 3 global pages of 2
  CHECK(bench.used(AttentionKind::chunked) == 0);
  CHECK(bench.used(AttentionKind::global) == 0);
  CHECK(s.reserve(8));
  bench.run({&s});
  s.commit(8);
  CHECK(!s.reserve(1));
  CHECK(s.n_reserved() == 0);
  CHECK(s.n_committed() == 8);
}

TEST_CASE("sequence: abandon gives back what reserve took") {
  std::mt19937 random(4);
  Bench bench(4, 8, 100, 100);
  Sequence a(bench.pools, random_ids(random, 20), {});
  REQUIRE(a.reserve(6));
  bench.run({&a});
  a.commit(6);
  Sequence b = a.fork();
  REQUIRE(b.reserve(10));
  CHECK(b.copies().size() == 2);
  b.abandon();
  CHECK(b.copies().empty());
  CHECK(bench.used(AttentionKind::global) == 2);
  CHECK(bench.used(AttentionKind::chunked) == 2);
  bench.compute(a, 5);  // still right, also where the pages are shared
  bench.compute(b, 7);
}

TEST_CASE("sequence: forks share pages; the first write to a shared partial page copies it") {
  std::mt19937 random(5);
  Bench bench(4, 16, 100, 100);
  Sequence a(bench.pools, random_ids(random, 6), {});
  bench.compute(a, 6);
  Sequence b = a.fork();
  CHECK(bench.used(AttentionKind::global) == 2);
  a.append(1);
  b.append(2);
  REQUIRE(b.reserve(1));
  CHECK(b.copies().size() == 2);  // one of each kind
  REQUIRE(a.reserve(1));
  bench.run({&a, &b});
  a.commit(1);
  b.commit(1);
  CHECK(bench.used(AttentionKind::global) == 3);  // the full page is shared, each has its own partial one
  bench.compute(a, 1);
  // At a page's edge nothing needs to be copied.
  a.append(3);
  bench.compute(a, 1);
  Sequence c = a.fork();
  c.append(4);
  REQUIRE(c.reserve(1));
  CHECK(c.copies().empty());
  bench.run({&c});
}

TEST_CASE("sequence: images must be those of the image tokens") {
  constexpr int32_t kPatch = 999;
  const std::vector<int32_t> ids{1, kPatch, kPatch, 2, kPatch, kPatch, kPatch, kPatch, 3};
  std::vector<ImageInput> images(2);
  images[0].n_tiles = 1, images[1].n_tiles = 2;
  const std::vector<SequenceImage> located = locate_images(ids, images, kPatch, 2);
  CHECK(located[0].positions == std::vector<int64_t>{1, 2});
  CHECK(located[1].positions == std::vector<int64_t>{4, 5, 6, 7});
  images.resize(1);
  CHECK(error_of([&] { locate_images(ids, images, kPatch, 2); }) ==
        "the prompt has 6 image tokens (id 999), its 1 image needs 2");
  CHECK(error_of([&] { locate_images(ids, {}, kPatch, 2); }) ==
        "the prompt has 6 image tokens (id 999), its 0 images need 0");
}

TEST_CASE("sequence: with the pages that are said to be enough a sequence never runs out") {
  std::mt19937 random(7);
  for (int round = 0; round < 200; ++round) {
    const int64_t page = int64_t(1) << random() % 3, chunk = random() % 4 == 0 ? 0 : page * int64_t(1 + random() % 5);
    const int64_t context = 1 + int64_t(random() % 60), max_rows = 1 + int64_t(random() % 20);
    auto needed = kv_pages_needed(context, max_rows, page, chunk);
    KvPools pools(page, chunk, needed);
    Sequence s(pools, std::vector<int32_t>(size_t(context), 1), {});
    while (s.n_committed() < context) {
      const int64_t n = 1 + int64_t(random()) % max_rows;
      REQUIRE(s.reserve(std::min(n, context - s.n_committed())));
      s.commit(random() % 5 == 0 ? random() % uint64_t(s.n_reserved() + 1) : s.n_reserved());
      if (random() % 10 == 0) {
        s.truncate(int64_t(random() % uint64_t(s.n_committed() + 1)));
        while (s.length() < context) s.append(1);
      }
    }
  }
}

// Many sequences of random ids over small pools: random steps of several sequences at once, commits of a part,
// truncations, forks, prefixes found in the cache, ends. Every row must see exactly what the rule says; in the end every
// page must be free.
TEST_CASE("sequence: random lives of many sequences against the reference") {
  int64_t n_copies = 0, n_refused = 0, n_found = 0;
  for (uint32_t seed = 0; seed < 60; ++seed) {
    CAPTURE(seed);
    std::mt19937 random(seed);
    auto below = [&](int64_t n) { return int64_t(random() % uint64_t(n)); };
    const int64_t page = int64_t(1) << below(4), chunk = below(4) == 0 ? 0 : page * (1 + below(4));
    Bench bench(page, chunk, 10 + below(60), 20 + below(60), seed % 2 * (1 + below(3)));
    PrefixCache cache(bench.pools);
    auto remember = [&](const Sequence& s, bool with_tail) {
      PrefixCache::Cursor cursor;
      if (seed % 3 > 0) cache.insert(s, "", cursor, with_tail);
    };
    std::vector<std::unique_ptr<Sequence>> live;
    for (int turn = 0; turn < 120; ++turn) {
      const int64_t what = below(12);
      if (live.empty() || (what == 0 && live.size() < 6)) {
        live.push_back(
            std::make_unique<Sequence>(bench.pools, random_ids(random, 1 + below(40)), std::vector<SequenceImage>{}));
      } else if (what == 1) {
        live.erase(live.begin() + below(int64_t(live.size())));
      } else if (what == 2 && live.size() < 6) {
        live.push_back(std::make_unique<Sequence>(live[size_t(below(int64_t(live.size())))]->fork()));
      } else if (what == 3) {
        Sequence& s = *live[size_t(below(int64_t(live.size())))];
        const int64_t n = below(s.length() + 1), before = s.n_committed();
        const int64_t kept = s.truncate(n);
        CHECK(kept == s.n_committed());
        // No further back than to the edge before n, and not at all within the last committed chunk.
        CHECK(kept >= std::min(before, chunk == 0 ? n : n / chunk * chunk));
        if (chunk == 0 || n >= before / chunk * chunk) CHECK(kept == std::min(before, n));
      } else if (what == 4) {
        Sequence& s = *live[size_t(below(int64_t(live.size())))];
        std::vector<int32_t> ids(s.ids().begin(), s.ids().begin() + below(s.length() + 1));
        for (int32_t id : random_ids(random, 1 + below(20))) ids.push_back(id);
        remember(s, true);
        s = Sequence(bench.pools, ids, {});
        n_found += cache.adopt(s, "", s.length() - 1);
      } else {
        std::vector<Sequence*> batch;
        for (auto& s : live) {
          while (s->length() <= s->n_committed() || below(3) == 0) s->append(int32_t(below(1000)));
          if (below(3) == 0) continue;
          const int64_t n = 1 + below(std::min<int64_t>(s->length() - s->n_committed(), 1 + below(25)));
          if (!s->reserve(n)) {
            ++n_refused;
            continue;
          }
          n_copies += int64_t(s->copies().size());
          batch.push_back(s.get());
        }
        if (batch.empty()) continue;
        if (below(10) == 0) {
          for (Sequence* s : batch) s->abandon();
          continue;
        }
        bench.run(batch);
        for (Sequence* s : batch)
          s->commit(below(3) == 0 ? below(s->n_reserved() + 1) : s->n_reserved(), [&] { remember(*s, false); });
      }
    }
    live.clear();
    CHECK(bench.used(AttentionKind::chunked) == 0);
    CHECK(bench.used(AttentionKind::global) == 0);
  }
  CHECK(n_copies > 100);
  CHECK(n_refused > 100);
  CHECK(n_found > 1000);
}
