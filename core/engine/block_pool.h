// Which KV pages of one kind are free, and how many sequences share the others. Bookkeeping only: the memory is the
// executor's.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace l4 {

class BlockPool {
 public:
  explicit BlockPool(int64_t n_pages);

  // A page with one reference; nothing when all are taken, which is a normal outcome of service.
  std::optional<int32_t> allocate();
  // One more reference to a page in use.
  void share(int32_t page);
  // One reference less; the last one frees the page.
  void release(int32_t page);

  int32_t references(int32_t page) const;  // 0: free
  bool is_shared(int32_t page) const { return references(page) > 1; }
  int64_t n_pages() const { return int64_t(references_.size()); }
  int64_t n_free() const { return int64_t(free_.size()); }

 private:
  std::vector<int32_t> references_;  // by page
  std::vector<int32_t> free_;        // a stack: the page freed last is taken first
};

}  // namespace l4
