#include "engine/ngram_drafts.h"

#include <algorithm>

namespace l4 {

namespace {
uint64_t hash_of(std::span<const int32_t> ids) {
  uint64_t h = 0;
  for (int32_t id : ids) h = (h ^ uint32_t(id)) * 0x9E3779B97F4A7C15ull, h ^= h >> 29;
  return h;
}
}  // namespace

std::vector<int32_t> NgramDrafts::propose(std::span<const int32_t> ids, int64_t most) {
  const int64_t n = int64_t(ids.size());
  // All but the last: it would find itself.
  for (int64_t end = std::max(n_known_ + 1, kTokens); end < n; ++end)
    ends_[hash_of(ids.subspan(size_t(end - kTokens), size_t(kTokens)))] = end;
  n_known_ = std::max<int64_t>(n_known_, n - 1);

  if (length_ == 0 && ++idle_ < kTokensUntilNewTry) return {};
  if (length_ == 0) length_ = 1, idle_ = 0;
  most = std::min<int64_t>(most, length_);
  if (n < kTokens || most <= 0) return {};
  const std::span<const int32_t> last = ids.last(size_t(kTokens));
  const auto found = ends_.find(hash_of(last));
  if (found == ends_.end()) return {};
  const int64_t from = found->second;
  if (!std::equal(last.begin(), last.end(), ids.begin() + from - kTokens)) return {};
  const auto begin = ids.begin() + from;
  return {begin, begin + std::min(most, n - from)};
}

void NgramDrafts::learn(int64_t n_drafts, int64_t n_right) {
  if (n_drafts == 0) return;
  if (n_right == n_drafts)
    length_ = std::min(max_, std::max(1, 2 * length_));
  else if (n_right == 0)
    length_ /= 2;
}

}  // namespace l4
