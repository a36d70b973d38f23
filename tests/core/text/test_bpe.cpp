#include "text/bpe.h"

#include <random>
#include <set>

#include "support/test.h"

using namespace l4;

namespace {

BpeModel byte_model() {
  BpeModel model;
  for (int b = 0; b < 256; ++b) model.add_token(b, std::string(1, char(b)));
  return model;
}

std::vector<int32_t> encode(const BpeModel& model, std::string_view piece) {
  std::vector<int32_t> ids;
  BpeModel::Scratch scratch;
  model.encode(piece, ids, scratch);
  return ids;
}

struct NaiveMerge {
  std::string left, right;
};

// Merges by looking at every adjacent pair each time: the definition of the algorithm.
std::vector<std::string> naive(std::string_view piece, const std::vector<NaiveMerge>& by_rank) {
  std::vector<std::string> parts;
  for (char c : piece) parts.emplace_back(1, c);
  while (true) {
    size_t best_rank = by_rank.size(), best_at = 0;
    for (size_t at = 0; at + 1 < parts.size(); ++at)
      for (size_t rank = 0; rank < best_rank; ++rank)
        if (by_rank[rank].left == parts[at] && by_rank[rank].right == parts[at + 1]) best_rank = rank, best_at = at;
    if (best_rank == by_rank.size()) return parts;
    parts[best_at] += parts[best_at + 1];
    parts.erase(parts.begin() + long(best_at) + 1);
  }
}

}  // namespace

TEST_CASE("bpe: equals the definition on random vocabularies and texts") {
  std::mt19937 random(11);
  for (int round = 0; round < 60; ++round) {
    BpeModel model = byte_model();
    model.set_whole_pieces(false);
    std::vector<std::string> tokens = {"a", "b", "c"};
    std::vector<NaiveMerge> merges;
    for (int i = 0; i < 25; ++i) {
      NaiveMerge merge = {tokens[random() % tokens.size()], tokens[random() % tokens.size()]};
      std::string whole = merge.left + merge.right;
      bool again = false;
      for (const NaiveMerge& m : merges) again = again || (m.left == merge.left && m.right == merge.right);
      if (whole.size() > 9 || again) continue;
      if (model.find(whole) < 0) {
        REQUIRE(model.add_token(model.n_ids(), whole));
        tokens.push_back(whole);
      }
      REQUIRE(model.add_merge(merge.left, merge.right, uint32_t(merges.size())));
      merges.push_back(merge);
    }
    for (int text_round = 0; text_round < 20; ++text_round) {
      std::string text;
      for (size_t n = random() % 60; n > 0; --n) text.push_back("abc"[random() % 3]);
      std::vector<std::string> parts;
      for (int32_t id : encode(model, text)) parts.emplace_back(model.bytes(id));
      CHECK(parts == naive(text, merges));
    }
  }
}

TEST_CASE("bpe: ranks as ids, tiktoken's rule") {
  BpeModel model = byte_model();
  CHECK(model.add_token(256, "ab"));
  CHECK(model.add_token(257, "bc"));
  CHECK(model.add_token(258, "abc"));
  CHECK(model.add_token(259, "aa"));
  CHECK(model.add_token(260, "xyz"));  // no way to merge to it
  model.merge_by_id();
  CHECK(encode(model, "abcbc") == std::vector<int32_t>{258, 257});
  CHECK(encode(model, "aaa") == std::vector<int32_t>{259, 'a'});  // leftmost of equals
  CHECK(encode(model, "xyz") == std::vector<int32_t>{260});       // the whole piece is a token
  CHECK(encode(model, "xyzx") == std::vector<int32_t>{'x', 'y', 'z', 'x'});
  model.set_whole_pieces(false);
  CHECK(encode(model, "xyz") == std::vector<int32_t>{'x', 'y', 'z'});
  CHECK(encode(model, "").empty());
}

TEST_CASE("bpe: what is no token is refused") {
  BpeModel model = byte_model();
  CHECK(model.missing_byte() == -1);
  CHECK(!model.add_token(255, "new"));  // id taken
  CHECK(!model.add_token(256, "a"));    // bytes taken
  CHECK(!model.add_token(256, ""));
  CHECK(!model.add_token(-1, "new"));
  CHECK(!model.add_merge("a", "b", 0));  // ab is no token
  CHECK(!model.add_merge("zz", "a", 0));
  CHECK(model.find("ab") == -1);
  CHECK(model.bytes(-1).empty());
  CHECK(model.bytes(1 << 30).empty());
  BpeModel empty;
  CHECK(empty.missing_byte() == 0);
}
