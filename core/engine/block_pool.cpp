#include "engine/block_pool.h"

#include <algorithm>
#include <limits>

#include "base/error.h"

namespace l4 {

namespace {
constexpr AttentionKind kKinds[] = {AttentionKind::chunked, AttentionKind::global};
}

BlockPool::BlockPool(const PageCounts& n_pages, int64_t block_pages) : block_pages_(block_pages) {
  const int64_t n_chunked = n_pages[size_t(AttentionKind::chunked)];
  L4_CHECK(block_pages >= 0 && (block_pages == 0 || n_pages[size_t(AttentionKind::global)] == n_chunked * block_pages));
  for (AttentionKind kind : kKinds) {
    const int64_t n = n_pages[size_t(kind)];
    L4_CHECK(n >= 0 && n <= std::numeric_limits<int32_t>::max());
    pages_[size_t(kind)].resize(size_t(n));
    if (slab(kind) != size_t(kind)) continue;
    blocks_[size_t(kind)].resize(size_t(n / pages_of_block(kind)));
    for (int64_t block = int64_t(blocks_[size_t(kind)].size()); block-- > 0;)
      free_blocks_[size_t(kind)].push_back(int32_t(block));
  }
}

const BlockPool::Page& BlockPool::at(AttentionKind kind, int32_t page) const {
  L4_CHECK(page >= 0 && page < n_pages(kind), "page ", page, " of ", n_pages(kind));
  return pages_[size_t(kind)][size_t(page)];
}

BlockPool::Page& BlockPool::at(AttentionKind kind, int32_t page) {
  return const_cast<Page&>(std::as_const(*this).at(kind, page));
}

BlockPool::Block& BlockPool::block_of(AttentionKind kind, int32_t page) {
  return blocks_[slab(kind)][size_t(page / pages_of_block(kind))];
}

// The one place where pages change: keeps the lists and numbers of pages and blocks true.
void BlockPool::change(AttentionKind kind, int32_t page, int32_t references, int32_t kept_slots) {
  Page& p = at(kind, page);
  Block& block = block_of(kind, page);
  const size_t k = size_t(kind), s = slab(kind);
  const int32_t id = int32_t(page / pages_of_block(kind));
  const bool was_taken = p.is_taken(), was_referenced = p.references > 0, block_was_taken = block.n_taken > 0,
             block_was_used = block.n_referenced > 0;
  if (was_taken && !was_referenced) idle_pages_[k].erase(p.idle_since);
  p.references = references;
  p.kept_slots = kept_slots;
  block.n_taken += p.is_taken() - was_taken;
  block.n_referenced += (references > 0) - was_referenced;
  n_referenced_[k] += (references > 0) - was_referenced;
  n_used_blocks_[k] += (block.n_referenced > 0) - block_was_used;
  if (p.is_taken() && references == 0) idle_pages_[k].emplace(p.idle_since = ++clock_, page);

  if (block_was_taken && !block_was_used) idle_blocks_[s].erase(block.idle_since);
  if (block.n_taken > 0 && block.n_referenced == 0) {
    if (block_was_used) block.idle_since = ++clock_;
    idle_blocks_[s].emplace(block.idle_since, id);
  }
  if (block_was_taken && block.n_taken == 0) free_blocks_[s].push_back(id);
  if (pages_of_block(kind) == 1) return;
  const bool is_open = block.n_taken > 0 && block.n_taken < pages_of_block(kind);
  const auto set = [&](std::set<int32_t>& blocks, bool in) { in ? void(blocks.insert(id)) : void(blocks.erase(id)); };
  set(open_used_[k], is_open && block.n_referenced > 0);
  set(open_idle_[k], is_open && block.n_referenced == 0);
}

std::optional<int32_t> BlockPool::allocate(AttentionKind kind) {
  const size_t k = size_t(kind), s = slab(kind);
  do {
    const int32_t n = int32_t(pages_of_block(kind));
    for (const std::set<int32_t>* open : {&open_used_[k], &open_idle_[k]})
      if (!open->empty())
        for (int32_t page = *open->begin() * n;; ++page)
          if (!at(kind, page).is_taken()) return change(kind, page, 1, 0), page;
    if (!free_blocks_[s].empty()) {
      const int32_t block = free_blocks_[s].back();
      free_blocks_[s].pop_back();
      blocks_[s][size_t(block)].kind = kind;
      change(kind, block * n, 1, 0);
      return block * n;
    }
  } while (make_room(kind));
  return std::nullopt;
}

// Evicts the kind's oldest page, or a whole block that is older.
bool BlockPool::make_room(AttentionKind kind) {
  const auto& pages = idle_pages_[size_t(kind)];
  const auto& blocks = idle_blocks_[slab(kind)];
  const bool page_will_do = !pages.empty();
  if (page_will_do && (blocks.empty() || pages.begin()->first <= blocks.begin()->first)) {
    evict(kind, pages.begin()->second);
    return true;
  }
  if (blocks.empty()) return false;
  const int32_t block = blocks.begin()->second;
  const AttentionKind held = blocks_[slab(kind)][size_t(block)].kind;
  const int32_t n = int32_t(pages_of_block(held));
  for (int32_t page = block * n; page < (block + 1) * n; ++page)
    if (at(held, page).kept_slots > 0) evict(held, page);
  return true;
}

void BlockPool::share(AttentionKind kind, int32_t page) {
  const Page& p = at(kind, page);
  L4_CHECK(p.is_taken(), "page ", page, " is free");
  change(kind, page, p.references + 1, p.kept_slots);
}

void BlockPool::release(AttentionKind kind, int32_t page) {
  const Page& p = at(kind, page);
  L4_CHECK(p.references > 0, "page ", page, " is free");
  change(kind, page, p.references - 1, p.kept_slots);
}

void BlockPool::keep(AttentionKind kind, int32_t page, int32_t n_slots) {
  const Page& p = at(kind, page);
  L4_CHECK(n_slots > 0 && p.references > 0, "page ", page, " is free");
  change(kind, page, p.references, n_slots);
}

void BlockPool::unkeep(AttentionKind kind, int32_t page) {
  const Page& p = at(kind, page);
  L4_CHECK(p.kept_slots > 0, "page ", page, " is not kept");
  change(kind, page, p.references, 0);
}

void BlockPool::evict(AttentionKind kind, int32_t page) {
  on_evict(kind, page);
  L4_CHECK(kept_slots(kind, page) == 0, "page ", page, " is kept still");
}

// ---- how much there is ----------------------------------------------------------------------------------------------

int64_t BlockPool::free_in_used_blocks(AttentionKind kind) const {
  return n_used_blocks_[size_t(kind)] * pages_of_block(kind) - n_referenced_[size_t(kind)];
}

int64_t BlockPool::n_blocks_to_have(size_t slab) const {
  return int64_t(free_blocks_[slab].size() + idle_blocks_[slab].size());
}

int64_t BlockPool::n_free(AttentionKind kind) const {
  return free_in_used_blocks(kind) + n_blocks_to_have(slab(kind)) * pages_of_block(kind);
}

bool BlockPool::has_room(const PageCounts& wanted) const {
  PageCounts blocks{};  // by slab
  for (AttentionKind kind : kKinds) {
    const int64_t beyond = std::max<int64_t>(0, wanted[size_t(kind)] - free_in_used_blocks(kind));
    blocks[slab(kind)] += (beyond + pages_of_block(kind) - 1) / pages_of_block(kind);
  }
  return blocks[0] <= n_blocks_to_have(0) && blocks[1] <= n_blocks_to_have(1);
}

double BlockPool::usage() const {
  double most = 0;
  for (size_t slab = 0; slab < blocks_.size(); ++slab)
    if (!blocks_[slab].empty())
      most = std::max(most, 1 - double(n_blocks_to_have(slab)) / double(blocks_[slab].size()));
  return most;
}

}  // namespace l4
