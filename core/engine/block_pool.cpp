#include "engine/block_pool.h"

#include <limits>

#include "base/error.h"

namespace l4 {

BlockPool::BlockPool(int64_t n_pages) {
  L4_CHECK(n_pages >= 0 && n_pages <= std::numeric_limits<int32_t>::max());
  references_.resize(size_t(n_pages), 0);
  free_.reserve(size_t(n_pages));
  for (int64_t page = n_pages; page-- > 0;) free_.push_back(int32_t(page));
}

std::optional<int32_t> BlockPool::allocate() {
  if (free_.empty()) return std::nullopt;
  int32_t page = free_.back();
  free_.pop_back();
  references_[size_t(page)] = 1;
  return page;
}

void BlockPool::share(int32_t page) {
  L4_CHECK(references(page) > 0, "page ", page, " is free");
  ++references_[size_t(page)];
}

void BlockPool::release(int32_t page) {
  L4_CHECK(references(page) > 0, "page ", page, " is free");
  if (--references_[size_t(page)] == 0) free_.push_back(page);
}

int32_t BlockPool::references(int32_t page) const {
  L4_CHECK(page >= 0 && page < n_pages(), "page ", page, " of ", n_pages());
  return references_[size_t(page)];
}

}  // namespace l4
