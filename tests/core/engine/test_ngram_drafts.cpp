#include "engine/ngram_drafts.h"

#include "support/test.h"

using namespace l4;

TEST_CASE("ngram_drafts: what followed the last three tokens before, the latest time") {
  NgramDrafts drafts(8);
  std::vector<int32_t> ids{1, 2, 3, 4, 5, 1, 2, 3};
  CHECK(drafts.propose(ids, 10) == std::vector<int32_t>{4, 5, 1, 2});  // four to begin with
  CHECK(drafts.propose(ids, 2) == std::vector<int32_t>{4, 5});
  CHECK(drafts.propose(ids, 0).empty());
  ids.insert(ids.end(), {9, 1, 2, 3});
  CHECK(drafts.propose(ids, 10) == std::vector<int32_t>{9, 1, 2, 3});
  ids.push_back(7);
  CHECK(drafts.propose(ids, 10).empty());
  CHECK(NgramDrafts(8).propose(std::vector<int32_t>{1, 2}, 10).empty());
  CHECK(NgramDrafts(8).propose(std::vector<int32_t>{1, 1, 1, 1}, 10) == std::vector<int32_t>{1});
}

TEST_CASE("ngram_drafts: all right doubles the number, all wrong halves it, and nothing is tried for a while at last") {
  NgramDrafts drafts(8);
  const std::vector<int32_t> ids(100, 1);
  auto n = [&] {
    return drafts.propose(std::vector<int32_t>{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 1, 2, 3}, 100).size();
  };
  CHECK(n() == 4);
  drafts.learn(4, 4);
  CHECK(n() == 8);
  drafts.learn(8, 8);
  CHECK(n() == 8);
  drafts.learn(8, 3);
  CHECK(n() == 8);
  for (size_t expected : {4, 2, 1}) {
    drafts.learn(8, 0);
    CHECK(n() == expected);
  }
  drafts.learn(1, 0);
  for (int i = 0; i < 15; ++i) CHECK(n() == 0);
  CHECK(n() == 1);
  drafts.learn(1, 1);
  CHECK(n() == 2);
}
