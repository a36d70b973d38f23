#include "engine/prefix_cache.h"

#include "core/engine/sequence_bench.h"
#include "support/test.h"

using namespace l4;
using namespace l4::test;

namespace {

constexpr int32_t kPatch = 999;

// A sequence of these ids, computed in steps of n rows and remembered as it goes.
void remember(Bench& bench, PrefixCache& cache, Sequence& s, const std::string& salt, int64_t n = 5) {
  PrefixCache::Cursor cursor;
  while (s.n_committed() < s.length()) {
    REQUIRE(s.reserve(std::min(n, s.length() - s.n_committed())));
    bench.run({&s});
    s.commit(s.n_reserved(), [&] { cache.insert(s, salt, cursor, false); });
  }
  cache.insert(s, salt, cursor, true);
}

// How much of `ids` is known; what is found is computed further, which looks at every slot.
int64_t found(Bench& bench, PrefixCache& cache, const std::vector<int32_t>& ids, int64_t most,
              const std::string& salt = "") {
  Sequence s(bench.pools, ids, {});
  const int64_t n = cache.adopt(s, salt, most);
  CHECK(n == s.n_committed());
  bench.compute(s, 3);
  return n;
}

std::vector<int32_t> with_change(std::vector<int32_t> ids, int64_t at) {
  ids[size_t(at)] = ids[size_t(at)] == 5 ? 6 : 5;
  return ids;
}

}  // namespace

TEST_CASE("prefix_cache: hits end where the ids do, at any token, around pages and chunks") {
  std::mt19937 random(1);
  for (int64_t block_pages : {0, 3})
    for (int64_t chunk : {0, 8, 16, 32}) {
      CAPTURE(chunk);
      Bench bench(4, chunk, 200, 200, block_pages);
      PrefixCache cache(bench.pools);
      const std::vector<int32_t> ids = random_ids(random, 50);
      {
        Sequence s(bench.pools, ids, {});
        remember(bench, cache, s, "");
      }
      CHECK(bench.used(AttentionKind::chunked) == 0);
      CHECK(found(bench, cache, ids, 50) == 50);
      CHECK(found(bench, cache, ids, 49) == 49);
      for (int64_t n : {1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 49}) {
        CAPTURE(n);
        CHECK(found(bench, cache, with_change(ids, n), 50) == n);
        CHECK(found(bench, cache, ids, n) == n);
        const std::vector<int32_t> shorter(ids.begin(), ids.begin() + n);
        CHECK(found(bench, cache, shorter, n - 1) == n - 1);
      }
      CHECK(found(bench, cache, with_change(ids, 0), 50) == 0);
      CHECK(found(bench, cache, ids, 50, "somebody else's") == 0);
      CHECK(found(bench, cache, ids, 0) == 0);
    }
}

TEST_CASE("prefix_cache: of the chunked pages a hit needs those of its own chunk, else it ends where they do") {
  std::mt19937 random(2);
  Bench bench(4, 16, 9, 100);  // chunked pages for two chunks and one more
  PrefixCache cache(bench.pools);
  const std::vector<int32_t> ids = random_ids(random, 60);
  {
    Sequence s(bench.pools, ids, {});
    remember(bench, cache, s, "", 4);
  }
  // 15 chunked pages were written, the first 6 are gone: of chunk [16, 32) the pages from 24 on are left.
  auto known = [&](int64_t n) {
    Sequence s(bench.pools, ids, {});
    return cache.adopt(s, "", n);
  };
  CHECK(known(60) == 60);
  CHECK(known(48) == 48);
  CHECK(known(37) == 37);
  CHECK(known(32) == 32);  // an edge: needs none
  CHECK(known(31) == 16);  // its chunk's beginning is gone
  CHECK(known(16) == 16);
  CHECK(known(15) == 0);
  // Computed again, they are known again.
  Sequence s(bench.pools, {ids.begin(), ids.begin() + 31}, {});
  CHECK(cache.adopt(s, "", 30) == 16);
  remember(bench, cache, s, "");
  CHECK(known(31) == 31);
}

TEST_CASE("prefix_cache: what was used last stays longest, and the end of a prefix goes before its beginning") {
  std::mt19937 random(3);
  Bench bench(4, 0, 10, 10);
  PrefixCache cache(bench.pools);
  const std::vector<int32_t> a = random_ids(random, 16), b = random_ids(random, 16), c = random_ids(random, 12);
  auto known = [&](const std::vector<int32_t>& ids) {
    Sequence s(bench.pools, ids, {});
    return cache.adopt(s, "", 100);
  };
  for (const auto& ids : {a, b}) {
    Sequence s(bench.pools, ids, {});
    remember(bench, cache, s, "");
  }
  CHECK(known(a) == 16);  // used: b is the older one now
  {
    Sequence s(bench.pools, c, {});
    remember(bench, cache, s, "");  // 3 pages: two were free
  }
  CHECK(known(c) == 12);
  CHECK(known(a) == 16);
  CHECK(known(b) == 12);
  CHECK(cache.n_nodes() == 10);
  cache.clear();
  CHECK(cache.n_nodes() == 0);
  CHECK(bench.pools.pool.n_cached(AttentionKind::global) == 0);
  CHECK(known(a) == 0);
}

TEST_CASE("prefix_cache: an answer that goes on in the page where another one ended is written in place or to a copy") {
  std::mt19937 random(4);
  Bench bench(4, 16, 8, 8);
  PrefixCache cache(bench.pools);
  const std::vector<int32_t> ids = random_ids(random, 30);
  const std::vector<int32_t> first(ids.begin(), ids.begin() + 6), other = with_change(ids, 7);
  {
    Sequence s(bench.pools, first, {});
    remember(bench, cache, s, "");
  }
  {
    Sequence s(bench.pools, ids, {});
    CHECK(cache.adopt(s, "", 29) == 6);
    REQUIRE(s.reserve(5));
    CHECK(s.copies().empty());  // behind what is known
    bench.run({&s});
    s.abandon();
    remember(bench, cache, s, "");
  }
  CHECK(cache.n_nodes() == 8);  // the page that was known up to 6 is known up to 8
  {
    Sequence s(bench.pools, other, {});
    CHECK(cache.adopt(s, "", 29) == 7);
    REQUIRE(s.reserve(2));
    CHECK(s.copies().size() == 2);  // token 7 is another one there: one page of each kind
    bench.run({&s});
    s.commit(2);
  }
  // All pages in one sequence's hands: no room for a copy, so what is known there is given up.
  Sequence s(bench.pools, with_change(ids, 29), {});
  CHECK(cache.adopt(s, "", 29) >= 16);
  bench.compute(s, 2);
}

TEST_CASE("prefix_cache: pictures are part of the ids") {
  Bench bench(4, 0, 100, 100);
  PrefixCache cache(bench.pools);
  const std::vector<int32_t> ids{1, kPatch, kPatch, 2, kPatch, kPatch, kPatch, kPatch, 3};
  auto image = [](int64_t n_tiles, uint8_t digest) {
    ImageInput input;
    input.n_tiles = n_tiles;
    input.digest[0] = digest;
    return input;
  };
  auto sequence = [&](std::vector<ImageInput> images) {
    return Sequence(bench.pools, ids, locate_images(ids, images, kPatch, 2));
  };
  {
    Sequence s = sequence({image(1, 7), image(2, 8)});
    REQUIRE(s.reserve(9));
    s.commit(9);
    PrefixCache::Cursor cursor;
    cache.insert(s, "", cursor, true);
  }
  struct Case {
    std::vector<ImageInput> images;
    int64_t kept;
  };
  for (const Case& c :
       {Case{{image(1, 7), image(2, 8)}, 9}, Case{{image(1, 6), image(2, 8)}, 1}, Case{{image(1, 7), image(2, 9)}, 4},
        Case{{image(1, 7), image(1, 8), image(1, 8)}, 4}, Case{{image(2, 7), image(1, 8)}, 1}}) {
    Sequence s = sequence(c.images);
    CHECK(cache.adopt(s, "", 9) == c.kept);
  }
  // Two pictures that begin a page: each is found beside the other.
  {
    Sequence s = sequence({image(1, 7), image(2, 9)});
    CHECK(cache.adopt(s, "", 9) == 4);
    REQUIRE(s.reserve(5));
    s.commit(5);
    PrefixCache::Cursor cursor;
    cache.insert(s, "", cursor, true);
  }
  for (uint8_t digest : {8, 9}) {
    Sequence s = sequence({image(1, 7), image(2, digest)});
    CHECK(cache.adopt(s, "", 9) == 9);
  }
}

TEST_CASE("prefix_cache: what is forgotten is not found, nor what lies behind it") {
  std::mt19937 random(5);
  Bench bench(4, 8, 50, 50);
  PrefixCache cache(bench.pools);
  const std::vector<int32_t> ids = random_ids(random, 20);
  Sequence s(bench.pools, ids, {});
  remember(bench, cache, s, "");
  CHECK(found(bench, cache, ids, 20) == 20);
  cache.forget(s);
  CHECK(found(bench, cache, ids, 20) == 0);
  CHECK(cache.n_nodes() == 0);
  // It goes on, and what it computes is known from its beginning again.
  s.append(3);
  PrefixCache::Cursor cursor;
  REQUIRE(s.reserve(1));
  bench.run({&s});
  s.commit(1);
  cache.insert(s, "", cursor, true);
  CHECK(found(bench, cache, s.ids(), 21) == 21);
}

TEST_CASE("prefix_cache: a prefix of very many pages is kept and dropped without recursion") {
  constexpr int64_t kTokens = 200'000;
  KvPools pools(1, 4, {kTokens, kTokens});
  PrefixCache cache(pools);
  Sequence s(pools, std::vector<int32_t>(size_t(kTokens), 1), {});
  REQUIRE(s.reserve(kTokens));
  PrefixCache::Cursor cursor;
  s.commit(kTokens, [&] { cache.insert(s, "", cursor, true); });
  CHECK(cache.n_nodes() == kTokens);
  Sequence other(pools, s.ids(), {});
  CHECK(cache.adopt(other, "", kTokens - 1) == kTokens - 1);
}
