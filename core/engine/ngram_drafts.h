// What a sequence may go on with, looked up in what it holds already ("prompt lookup"): where its last tokens stood
// before, and what followed there. Costs nothing but the rows that try the drafts, so how many are tried follows how
// many were right: all of them right doubles the number, none halves it, and where it reaches nothing a single draft is
// tried now and then.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

namespace l4 {

class NgramDrafts {
 public:
  explicit NgramDrafts(int max_drafts) : max_(max_drafts), length_(max_drafts > 4 ? 4 : max_drafts) {}

  // At most `most` tokens that may follow `ids`, which must begin with those of the call before.
  std::vector<int32_t> propose(std::span<const int32_t> ids, int64_t most);
  // Of n_drafts that were tried, n_right were.
  void learn(int64_t n_drafts, int64_t n_right);

 private:
  static constexpr int64_t kTokens = 3;          // that must have stood before
  static constexpr int kTokensUntilNewTry = 16;  // after nothing was right

  std::unordered_map<uint64_t, int64_t> ends_;  // by hash of kTokens tokens: where what follows them begins
  int64_t n_known_ = 0;                         // ids whose n-grams are in ends_
  int max_, length_, idle_ = 0;
};

}  // namespace l4
