// Which KV pages are free, how many sequences share the others, and which of them the prefix cache would like to keep.
// Bookkeeping only: the memory is the executor's.
//
// Where a chunked page is as large as a whole number of global pages, which the layer kinds' numbers decide (Llama 4:
// 36 chunked and 12 global layers, three), both kinds come out of one slab: it is cut into blocks, and a block is one
// chunked page or block_pages global ones. Page p of a kind lies in block p or p / block_pages. So memory goes to the
// kind that asks for it: many short texts or few long ones. Otherwise each kind has pages of its own.
//
// A page that only the cache keeps counts as free and goes when its place is needed: of one kind the page that was
// released first, of whole blocks the one whose last page was released first.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <vector>

#include "ops/attention_kind.h"

namespace l4 {

using PageCounts = std::array<int64_t, kNumAttentionKinds>;

class BlockPool {
 public:
  // block_pages 0: each kind has n_pages of its own. Otherwise n_pages are {n blocks, n * block_pages}.
  explicit BlockPool(const PageCounts& n_pages, int64_t block_pages = 0);

  // A page with one reference; nothing when all are taken, which is a normal outcome of service.
  std::optional<int32_t> allocate(AttentionKind kind);
  // One more reference to a page in use, or the first to one that the cache keeps.
  void share(AttentionKind kind, int32_t page);
  // One reference less; the last one frees the page, unless the cache keeps it.
  void release(AttentionKind kind, int32_t page);
  // allocate() would give so many of both kinds.
  bool has_room(const PageCounts& wanted) const;

  // The cache relies on the first n_slots slots of the page. Sequences that share it may write behind them.
  void keep(AttentionKind kind, int32_t page, int32_t n_slots);
  void unkeep(AttentionKind kind, int32_t page);
  // Takes the page from the cache: on_evict is told, and must unkeep() it.
  void evict(AttentionKind kind, int32_t page);
  std::function<void(AttentionKind kind, int32_t page)> on_evict;

  int32_t references(AttentionKind kind, int32_t page) const { return at(kind, page).references; }  // of sequences
  int32_t kept_slots(AttentionKind kind, int32_t page) const { return at(kind, page).kept_slots; }
  bool is_shared(AttentionKind kind, int32_t page) const { return references(kind, page) > 1; }
  int64_t n_pages(AttentionKind kind) const { return int64_t(pages_[size_t(kind)].size()); }
  int64_t n_used(AttentionKind kind) const { return n_referenced_[size_t(kind)]; }
  int64_t n_cached(AttentionKind kind) const { return int64_t(idle_pages_[size_t(kind)].size()); }
  // What allocate() would give of this kind alone.
  int64_t n_free(AttentionKind kind) const;
  // Of all memory, what is referenced, counting whole blocks.
  double usage() const;

 private:
  struct Page {
    int32_t references = 0, kept_slots = 0;
    uint64_t idle_since = 0;
    bool is_taken() const { return references > 0 || kept_slots > 0; }
  };
  // The kind is that of its pages; a block without taken pages is in free_blocks_.
  struct Block {
    AttentionKind kind = AttentionKind::chunked;
    int32_t n_taken = 0, n_referenced = 0;
    uint64_t idle_since = 0;  // without references, but kept
  };
  const Page& at(AttentionKind kind, int32_t page) const;
  Page& at(AttentionKind kind, int32_t page);
  size_t slab(AttentionKind kind) const { return block_pages_ > 0 ? 0 : size_t(kind); }
  int64_t pages_of_block(AttentionKind kind) const {
    return block_pages_ > 0 && kind == AttentionKind::global ? block_pages_ : 1;
  }
  Block& block_of(AttentionKind kind, int32_t page);
  void change(AttentionKind kind, int32_t page, int32_t references, int32_t kept_slots);
  bool make_room(AttentionKind kind);
  int64_t free_in_used_blocks(AttentionKind kind) const;
  int64_t n_blocks_to_have(size_t slab) const;

  const int64_t block_pages_;
  std::array<std::vector<Page>, kNumAttentionKinds> pages_;
  std::array<std::vector<Block>, kNumAttentionKinds> blocks_;                // by slab
  std::array<std::vector<int32_t>, kNumAttentionKinds> free_blocks_;         // by slab, a stack
  std::array<std::map<uint64_t, int32_t>, kNumAttentionKinds> idle_blocks_;  // by slab
  std::array<std::map<uint64_t, int32_t>, kNumAttentionKinds> idle_pages_;   // by kind: kept, without references
  std::array<std::set<int32_t>, kNumAttentionKinds> open_used_,
      open_idle_;  // by kind: blocks with free pages, with and without references
  std::array<int64_t, kNumAttentionKinds> n_referenced_{}, n_used_blocks_{};  // by kind: pages, blocks with references
  uint64_t clock_ = 0;
};

}  // namespace l4
