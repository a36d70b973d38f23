#include "engine/sequence.h"

#include <algorithm>

namespace l4 {

namespace {
constexpr AttentionKind kKinds[] = {AttentionKind::chunked, AttentionKind::global};
}

KvPools::KvPools(int64_t page_tokens_, int64_t chunk_, const PageCounts& n_pages, int64_t block_pages)
    : page_tokens(page_tokens_), chunk(chunk_), pool(n_pages, block_pages) {
  L4_CHECK(page_tokens > 0 && chunk >= 0 && chunk % page_tokens == 0, "pages of ", page_tokens, ", chunks of ", chunk);
}

PageCounts kv_pages_needed(int64_t max_context, int64_t max_step_rows, int64_t page_tokens, int64_t chunk) {
  auto pages = [&](int64_t n_tokens) { return (n_tokens + page_tokens - 1) / page_tokens; };
  PageCounts needed;
  needed[size_t(AttentionKind::global)] = pages(max_context);
  // A whole chunk, whose pages stay until a token behind its edge is committed, and the rows of the step that does it.
  const int64_t held = chunk == 0 ? max_context : std::min(max_context, chunk + max_step_rows);
  needed[size_t(AttentionKind::chunked)] = pages(held);
  return needed;
}

std::vector<SequenceImage> locate_images(std::span<const int32_t> ids, std::span<const ImageInput> images,
                                         int32_t image_token_id, int64_t tokens_per_tile) {
  std::vector<int64_t> positions;
  if (image_token_id >= 0)
    for (size_t p = 0; p < ids.size(); ++p)
      if (ids[p] == image_token_id) positions.push_back(int64_t(p));
  int64_t wanted = 0;
  for (const ImageInput& image : images) wanted += image.n_tiles * tokens_per_tile;
  if (wanted != int64_t(positions.size()))
    fail(ErrorKind::usage, "the prompt has ", positions.size(), " image tokens (id ", image_token_id, "), its ",
         images.size(), images.size() == 1 ? " image needs " : " images need ", wanted);

  std::vector<SequenceImage> located;
  auto next = positions.begin();
  for (const ImageInput& image : images) {
    auto end = next + image.n_tiles * tokens_per_tile;
    located.push_back({image, {next, end}, std::vector<TileSlot>(size_t(image.n_tiles))});
    next = end;
  }
  return located;
}

// ---- life -----------------------------------------------------------------------------------------------------------

Sequence::Sequence(Sequence&& other) noexcept : Sequence(*other.pools_) {
  *this = std::move(other);
}

Sequence& Sequence::operator=(Sequence&& other) noexcept {
  std::swap(pools_, other.pools_);
  std::swap(ids_, other.ids_);
  std::swap(images_, other.images_);
  std::swap(n_committed_, other.n_committed_);
  std::swap(n_reserved_, other.n_reserved_);
  std::swap(tables_, other.tables_);
  std::swap(copies_, other.copies_);
  return *this;
}

Sequence::~Sequence() {
  release_pages();
}

// The last page first: of what the cache keeps, the end of a prefix goes before its beginning.
void Sequence::release_pages() {
  for (AttentionKind kind : kKinds) {
    PageTable& table = tables_[size_t(kind)];
    for (auto page = table.pages.rbegin(); page != table.pages.rend(); ++page) pools_->pool.release(kind, *page);
    table = {};
  }
  for (const PageCopy& copy : copies_) pools_->pool.release(copy.kind, copy.from);
  copies_.clear();
}

Sequence Sequence::fork() const {
  L4_CHECK(n_reserved_ == 0);
  Sequence child(*pools_, ids_, images_);
  child.n_committed_ = n_committed_;
  child.tables_ = tables_;
  for (AttentionKind kind : kKinds)
    for (int32_t page : tables_[size_t(kind)].pages) pools_->pool.share(kind, page);
  return child;
}

// ---- a step ---------------------------------------------------------------------------------------------------------

// Only the page that the first new row falls into can hold earlier tokens, so only it can be shared.
std::optional<size_t> Sequence::page_to_copy(AttentionKind kind) const {
  const PageTable& table = tables_[size_t(kind)];
  const size_t index = size_t((n_committed_ - table.begin) / pools_->page_tokens);
  if (index >= table.pages.size()) return std::nullopt;
  const int64_t slot = (n_committed_ - table.begin) % pools_->page_tokens;
  const int32_t page = table.pages[index];
  if (pools_->pool.is_shared(kind, page) || slot < pools_->pool.kept_slots(kind, page)) return index;
  return std::nullopt;
}

// Nobody but the cache needs the page as it is: where there is none for a copy, the cache forgets it.
bool Sequence::can_be_taken(AttentionKind kind) const {
  const std::optional<size_t> index = page_to_copy(kind);
  return index && !pools_->pool.is_shared(kind, tables_[size_t(kind)].pages[*index]);
}

PageCounts Sequence::pages_missing(int64_t n_rows, bool takes_kept_pages) const {
  PageCounts missing;
  for (AttentionKind kind : kKinds) {
    const PageTable& table = tables_[size_t(kind)];
    const bool copies = page_to_copy(kind) && !(takes_kept_pages && can_be_taken(kind));
    missing[size_t(kind)] =
        pools_->pages_for(n_committed_ + n_rows - table.begin) - int64_t(table.pages.size()) + copies;
  }
  return missing;
}

bool Sequence::reserve(int64_t n_rows) {
  L4_CHECK(n_reserved_ == 0 && n_rows > 0 && n_committed_ + n_rows <= length());
  BlockPool& pool = pools_->pool;
  if (!pool.has_room(pages_missing(n_rows))) {
    if (!pool.has_room(pages_missing(n_rows, true))) return false;
    for (AttentionKind kind : kKinds)
      if (can_be_taken(kind)) pool.evict(kind, tables_[size_t(kind)].pages[*page_to_copy(kind)]);
  }
  for (AttentionKind kind : kKinds) {
    PageTable& table = tables_[size_t(kind)];
    if (const std::optional<size_t> index = page_to_copy(kind)) {
      int32_t& page = table.pages[*index];
      copies_.push_back({kind, page, *pool.allocate(kind)});
      page = copies_.back().to;
    }
    const size_t n_pages = size_t(pools_->pages_for(n_committed_ + n_rows - table.begin));
    while (table.pages.size() < n_pages) table.pages.push_back(*pool.allocate(kind));
  }
  n_reserved_ = n_rows;
  return true;
}

int64_t Sequence::rows_that_fit(int64_t n_rows) const {
  auto fit = [&](int64_t n) { return pools_->pool.has_room(pages_missing(n, true)); };
  if (n_rows <= 0 || fit(n_rows)) return n_rows;
  int64_t enough = 0;
  while (n_rows - enough > 1) {
    const int64_t middle = enough + (n_rows - enough) / 2;
    (fit(middle) ? enough : n_rows) = middle;
  }
  return enough;
}

void Sequence::commit(int64_t n_rows, const std::function<void()>& before_freeing) {
  L4_CHECK(n_rows >= 0 && n_rows <= n_reserved_);
  for (const PageCopy& copy : copies_) pools_->pool.release(copy.kind, copy.from);
  copies_.clear();
  n_committed_ += n_rows;
  n_reserved_ = 0;
  free_pages_after(n_committed_);
  if (before_freeing) before_freeing();
  free_finished_chunks();
}

void Sequence::abandon() {
  for (const PageCopy& copy : copies_) {
    for (int32_t& page : tables_[size_t(copy.kind)].pages)
      if (page == copy.to) page = copy.from;
    pools_->pool.release(copy.kind, copy.to);
  }
  copies_.clear();
  n_reserved_ = 0;
  free_pages_after(n_committed_);
}

void Sequence::free_pages_after(int64_t position) {
  for (AttentionKind kind : kKinds) {
    PageTable& table = tables_[size_t(kind)];
    const size_t kept = size_t(pools_->pages_for(std::max<int64_t>(0, position - table.begin)));
    for (size_t i = kept; i < table.pages.size(); ++i) pools_->pool.release(kind, table.pages[i]);
    table.pages.resize(std::min(kept, table.pages.size()));
  }
}

void Sequence::free_finished_chunks() {
  PageTable& table = tables_[size_t(AttentionKind::chunked)];
  if (n_committed_ == 0) return;
  const int64_t begin = pools_->chunk_start(n_committed_ - 1);
  if (begin <= table.begin) return;
  const auto first_kept = table.pages.begin() + (begin - table.begin) / pools_->page_tokens;
  for (auto page = table.pages.begin(); page != first_kept; ++page) pools_->pool.release(AttentionKind::chunked, *page);
  table.pages.erase(table.pages.begin(), first_kept);
  table.begin = begin;
}

// ---- going back -----------------------------------------------------------------------------------------------------

int64_t Sequence::truncate(int64_t n) {
  L4_CHECK(n_reserved_ == 0 && n >= 0 && n <= length());
  ids_.resize(size_t(n));
  for (SequenceImage& image : images_)
    image.positions.erase(std::lower_bound(image.positions.begin(), image.positions.end(), n), image.positions.end());
  std::erase_if(images_, [](const SequenceImage& image) { return image.positions.empty(); });
  return rewind(n);
}

int64_t Sequence::rewind(int64_t n) {
  L4_CHECK(n_reserved_ == 0 && n >= 0);
  PageTable& chunked = tables_[size_t(AttentionKind::chunked)];
  n_committed_ = std::min(n_committed_, n);
  const bool chunk_is_gone = chunked.begin > pools_->chunk_start(n_committed_);
  if (chunk_is_gone) n_committed_ = pools_->chunk_start(n_committed_);
  free_pages_after(n_committed_);
  if (chunk_is_gone) chunked.begin = n_committed_;
  return n_committed_;
}

void Sequence::drop_kv() {
  release_pages();
  n_committed_ = n_reserved_ = 0;
  for (SequenceImage& image : images_)
    for (TileSlot& slot : image.slots) slot.reset();
}

void Sequence::adopt(int64_t n, std::span<const int32_t> global, std::span<const int32_t> chunked) {
  L4_CHECK(n_committed_ == 0 && n_reserved_ == 0 && n <= length());
  const std::span<const int32_t> pages[] = {chunked, global};
  for (AttentionKind kind : kKinds) {
    PageTable& table = tables_[size_t(kind)];
    table.begin = kind == AttentionKind::chunked ? pools_->chunk_start(n) : 0;
    table.pages.assign(pages[size_t(kind)].begin(), pages[size_t(kind)].end());
    L4_CHECK(int64_t(table.pages.size()) == pools_->pages_for(n - table.begin));
    for (int32_t page : table.pages) pools_->pool.share(kind, page);
  }
  n_committed_ = n;
}

}  // namespace l4
