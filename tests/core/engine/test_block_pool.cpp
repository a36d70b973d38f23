#include "engine/block_pool.h"

#include <set>

#include "support/test.h"

using namespace l4;
using l4::test::error_of;

TEST_CASE("block_pool: every page once, then none, then those that were given back") {
  BlockPool pool(3);
  std::set<int32_t> pages{*pool.allocate(), *pool.allocate(), *pool.allocate()};
  CHECK(pages == std::set<int32_t>{0, 1, 2});
  CHECK(!pool.allocate());
  pool.release(1);
  CHECK(pool.n_free() == 1);
  CHECK(pool.allocate() == 1);
  CHECK(!BlockPool(0).allocate());
}

TEST_CASE("block_pool: a shared page is free after its last release") {
  BlockPool pool(1);
  int32_t page = *pool.allocate();
  CHECK(!pool.is_shared(page));
  pool.share(page);
  CHECK(pool.is_shared(page));
  pool.release(page);
  CHECK(pool.n_free() == 0);
  pool.release(page);
  CHECK(pool.n_free() == 1);
  CHECK(pool.references(page) == 0);
}

TEST_CASE("block_pool: pages that are free or not there cannot be shared or released") {
  BlockPool pool(2);
  CHECK(error_of([&] { pool.release(0); }).find("page 0 is free") != std::string::npos);
  CHECK(error_of([&] { pool.share(1); }).find("page 1 is free") != std::string::npos);
  CHECK(error_of([&] { pool.release(2); }).find("page 2 of 2") != std::string::npos);
}
