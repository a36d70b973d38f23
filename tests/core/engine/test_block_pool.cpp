#include "engine/block_pool.h"

#include <random>
#include <set>

#include "support/test.h"

using namespace l4;
using l4::test::error_of;

namespace {
constexpr AttentionKind kChunked = AttentionKind::chunked, kGlobal = AttentionKind::global;
}

TEST_CASE("block_pool: every page once, then none, then those that were given back") {
  BlockPool pool({3, 1});
  std::set<int32_t> pages{*pool.allocate(kChunked), *pool.allocate(kChunked), *pool.allocate(kChunked)};
  CHECK(pages == std::set<int32_t>{0, 1, 2});
  CHECK(!pool.allocate(kChunked));
  CHECK(pool.allocate(kGlobal) == 0);
  pool.release(kChunked, 1);
  CHECK(pool.n_free(kChunked) == 1);
  CHECK(pool.n_free(kGlobal) == 0);
  CHECK(pool.allocate(kChunked) == 1);
  CHECK(!BlockPool({0, 0}).allocate(kGlobal));
}

TEST_CASE("block_pool: a shared page is free after its last release") {
  BlockPool pool({1, 0});
  int32_t page = *pool.allocate(kChunked);
  CHECK(!pool.is_shared(kChunked, page));
  pool.share(kChunked, page);
  CHECK(pool.is_shared(kChunked, page));
  pool.release(kChunked, page);
  CHECK(pool.n_free(kChunked) == 0);
  pool.release(kChunked, page);
  CHECK(pool.n_free(kChunked) == 1);
  CHECK(pool.references(kChunked, page) == 0);
}

TEST_CASE("block_pool: pages that are free or not there cannot be shared or released") {
  BlockPool pool({2, 0});
  CHECK(error_of([&] { pool.release(kChunked, 0); }).find("page 0 is free") != std::string::npos);
  CHECK(error_of([&] { pool.share(kChunked, 1); }).find("page 1 is free") != std::string::npos);
  CHECK(error_of([&] { pool.release(kChunked, 2); }).find("page 2 of 2") != std::string::npos);
  CHECK(error_of([&] { pool.unkeep(kChunked, 0); }) != "");
  CHECK(error_of([&] { pool.keep(kChunked, 0, 1); }) != "");
  CHECK(error_of([] { BlockPool({2, 5}, 3); }) != "");
}

TEST_CASE("block_pool: what the cache keeps stays until its place is needed, the page released first goes first") {
  BlockPool pool({3, 0});
  std::vector<int32_t> evicted;
  pool.on_evict = [&](AttentionKind kind, int32_t page) {
    evicted.push_back(page);
    pool.unkeep(kind, page);
  };
  const int32_t a = *pool.allocate(kChunked), b = *pool.allocate(kChunked), c = *pool.allocate(kChunked);
  pool.keep(kChunked, a, 4);
  pool.keep(kChunked, b, 2);
  pool.release(kChunked, b);
  pool.release(kChunked, a);
  CHECK(pool.n_free(kChunked) == 2);
  CHECK(pool.n_cached(kChunked) == 2);
  CHECK(pool.kept_slots(kChunked, b) == 2);
  pool.share(kChunked, b);  // used again: younger than a
  CHECK(pool.n_cached(kChunked) == 1);
  pool.release(kChunked, b);
  CHECK(pool.allocate(kChunked) == a);
  CHECK(evicted == std::vector<int32_t>{a});
  pool.release(kChunked, c);  // not kept: free, and taken before anything is evicted
  CHECK(pool.allocate(kChunked) == c);
  CHECK(pool.allocate(kChunked) == b);
  CHECK(evicted == std::vector<int32_t>{a, b});
  CHECK(!pool.allocate(kChunked));
}

TEST_CASE("block_pool: one slab: global pages fill up blocks that are begun, a free block serves either kind") {
  BlockPool pool({3, 9}, 3);
  CHECK(pool.has_room({3, 0}));
  CHECK(pool.has_room({0, 9}));
  CHECK(pool.has_room({2, 3}));
  CHECK(!pool.has_room({2, 4}));
  std::vector<int32_t> global;
  for (int i = 0; i < 4; ++i) global.push_back(*pool.allocate(kGlobal));
  CHECK(global == std::vector<int32_t>{0, 1, 2, 3});
  CHECK(pool.n_free(kGlobal) == 5);
  CHECK(pool.n_free(kChunked) == 1);
  CHECK(pool.usage() == doctest::Approx(2 / 3.0));
  CHECK(pool.allocate(kChunked) == 2);
  CHECK(!pool.allocate(kChunked));
  pool.release(kGlobal, 1);
  CHECK(pool.has_room({0, 3}));
  CHECK(!pool.has_room({0, 4}));
  pool.release(kGlobal, 3);  // its block is free again
  CHECK(pool.has_room({1, 1}));
  CHECK(pool.allocate(kGlobal) == 1);
  CHECK(pool.allocate(kChunked) == 1);
  CHECK(!pool.has_room({0, 1}));
}

TEST_CASE("block_pool: one slab: random lives, with a cache, against a model of the memory") {
  for (uint32_t seed = 0; seed < 30; ++seed) {
    std::mt19937 random(seed);
    const int64_t n_blocks = 1 + random() % 8, per_block = 1 + random() % 4;
    BlockPool pool({n_blocks, n_blocks * per_block}, per_block);
    std::multiset<std::pair<AttentionKind, int32_t>> held;
    std::set<std::pair<AttentionKind, int32_t>> kept;
    pool.on_evict = [&](AttentionKind kind, int32_t page) {
      CHECK(kept.erase({kind, page}) == 1);
      pool.unkeep(kind, page);
    };
    auto blocks_of = [&](auto&& pages, AttentionKind kind) {
      std::set<int64_t> blocks;
      for (auto [k, page] : pages)
        if (k == kind) blocks.insert(kind == kChunked ? page : page / per_block);
      return blocks;
    };
    for (int turn = 0; turn < 300; ++turn) {
      const AttentionKind kind = random() % 2 ? kChunked : kGlobal;
      const int what = int(random() % 6);
      if (what < 3) {
        const bool has_room = pool.has_room(kind == kChunked ? PageCounts{1, 0} : PageCounts{0, 1});
        const auto page = pool.allocate(kind);
        CHECK(page.has_value() == has_room);
        if (!page) continue;
        CHECK(held.count({kind, *page}) == 0);
        CHECK(kept.count({kind, *page}) == 0);
        held.insert({kind, *page});
      } else if (!held.empty() && what < 5) {
        auto one = held.begin();
        std::advance(one, random() % held.size());
        if (random() % 3 == 0 && !kept.count(*one)) {
          pool.keep(one->first, one->second, 1);
          kept.insert(*one);
        }
        pool.release(one->first, one->second);
        held.erase(one);
      } else if (!kept.empty()) {
        auto one = kept.begin();
        std::advance(one, random() % kept.size());
        pool.share(one->first, one->second);
        held.insert(*one);
      }
      // No block serves both kinds, whether pages are held or kept.
      std::multiset<std::pair<AttentionKind, int32_t>> all = held;
      all.insert(kept.begin(), kept.end());
      const auto chunked = blocks_of(all, kChunked), global = blocks_of(all, kGlobal);
      for (int64_t block : chunked) CHECK(!global.count(block));
      const std::set<std::pair<AttentionKind, int32_t>> distinct(held.begin(), held.end());
      CHECK(pool.n_used(kChunked) + pool.n_used(kGlobal) == int64_t(distinct.size()));
      const int64_t used = int64_t(blocks_of(held, kChunked).size() + blocks_of(held, kGlobal).size());
      CHECK(pool.n_free(kChunked) == n_blocks - used);
    }
  }
}
