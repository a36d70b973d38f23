// One sequence: its token ids, its pictures, and the KV pages that hold what was computed of them.
//
// The KV rules (llama4-spec 2.6): global layers need every token before; chunked layers need only the tokens of the
// attention chunk that a position lies in. So a sequence has two page tables. The global one begins at token 0. The
// chunked one begins at the chunk of the last committed token: pages of a finished chunk are freed once a token behind
// its edge is committed, and not before, so that a speculated step across the edge can be taken back.
//
//   append()   tokens become known                           length() grows
//   reserve()  pages for the next n of them, or false        the rows of one step
//   commit()   the step ran and the first m rows are right   n_committed() grows by m
//   abandon()  the step did not run                          as if reserve() had not been called
//   truncate() tokens are forgotten; says how much KV is left
//   drop_kv()  nothing is computed any more; the tokens stay
//   adopt()    KV that was computed for another sequence with the same beginning (prefix_cache.h)
//   fork()     a second sequence on the same pages
// Whoever first writes to a slot that another sequence or the prefix cache relies on gets a copy of its page.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "engine/block_pool.h"
#include "engine/encoder_cache.h"
#include "engine/request.h"
#include "ops/step_plan.h"

namespace l4 {

// The pages of both kinds and how tokens lie in them. Outlives its sequences; used by one thread.
struct KvPools {
  // chunk 0: no chunking, one chunk without end. Otherwise page_tokens divides it. The rest as BlockPool.
  KvPools(int64_t page_tokens_, int64_t chunk_, const PageCounts& n_pages, int64_t block_pages = 0);

  // First position of the chunk that `position` lies in.
  int64_t chunk_start(int64_t position) const { return chunk == 0 ? 0 : position / chunk * chunk; }
  int64_t pages_for(int64_t n_tokens) const { return (n_tokens + page_tokens - 1) / page_tokens; }

  int64_t page_tokens, chunk;
  BlockPool pool;
};

// Pages of each kind with which one sequence of max_context tokens never runs out in steps of at most max_step_rows.
PageCounts kv_pages_needed(int64_t max_context, int64_t max_step_rows, int64_t page_tokens, int64_t chunk);

struct SequenceImage {
  ImageInput input;
  std::vector<int64_t> positions;  // [n_tiles * tokens_per_tile] of its image tokens, ascending
  std::vector<TileSlot> slots;     // [n_tiles]
};

// Which image tokens belong to which picture. Error{usage} when their numbers differ.
std::vector<SequenceImage> locate_images(std::span<const int32_t> ids, std::span<const ImageInput> images,
                                         int32_t image_token_id, int64_t tokens_per_tile);

class Sequence {
 public:
  struct PageTable {
    int64_t begin = 0;  // position of the first slot of the first page
    std::vector<int32_t> pages;
  };

  explicit Sequence(KvPools& pools) : pools_(&pools) {}
  Sequence(KvPools& pools, std::vector<int32_t> ids, std::vector<SequenceImage> images)
      : pools_(&pools), ids_(std::move(ids)), images_(std::move(images)) {}
  ~Sequence();
  Sequence(Sequence&& other) noexcept;
  Sequence& operator=(Sequence&& other) noexcept;

  const std::vector<int32_t>& ids() const { return ids_; }
  int64_t length() const { return int64_t(ids_.size()); }
  int64_t n_committed() const { return n_committed_; }  // tokens whose KV is in the pages
  int64_t n_reserved() const { return n_reserved_; }    // tokens behind them that the coming step computes
  std::vector<SequenceImage>& images() { return images_; }
  const std::vector<SequenceImage>& images() const { return images_; }
  const PageTable& table(AttentionKind kind) const { return tables_[size_t(kind)]; }
  std::span<const PageCopy> copies() const { return copies_; }  // of the coming step
  const KvPools& pools() const { return *pools_; }

  void append(int32_t id) { ids_.push_back(id); }
  // False, and nothing changed, when too few pages are free.
  bool reserve(int64_t n_rows);
  int64_t rows_that_fit(int64_t n_rows) const;  // at most n_rows, that reserve() would have pages for
  // before_freeing: called when the rows count as computed and no page is freed yet.
  void commit(int64_t n_rows, const std::function<void()>& before_freeing = {});
  void abandon();

  // Forgets the tokens from n on. Returns how many of the others have their KV still: all of them where the pages of
  // n's chunk are there (so it is for the chunk that the last committed token is in) or n is an edge; else those up to
  // the edge before.
  int64_t truncate(int64_t n);
  // As truncate(), for the KV alone: the tokens stay.
  int64_t rewind(int64_t n);

  void drop_kv();
  // KV of the first n tokens of a sequence that has none: global pages from token 0 on, chunked ones from the beginning
  // of n's chunk (none where n is an edge). Takes a reference to each.
  void adopt(int64_t n, std::span<const int32_t> global, std::span<const int32_t> chunked);

  // No step may be under way.
  Sequence fork() const;

 private:
  std::optional<size_t> page_to_copy(AttentionKind kind) const;
  bool can_be_taken(AttentionKind kind) const;
  PageCounts pages_missing(int64_t n_rows, bool takes_kept_pages = false) const;
  void release_pages();
  void free_pages_after(int64_t position);
  void free_finished_chunks();

  KvPools* pools_;
  std::vector<int32_t> ids_;
  std::vector<SequenceImage> images_;
  int64_t n_committed_ = 0, n_reserved_ = 0;
  std::array<PageTable, kNumAttentionKinds> tables_;
  std::vector<PageCopy> copies_;  // keeps a reference to each `from`
};

}  // namespace l4
