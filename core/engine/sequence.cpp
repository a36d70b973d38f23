#include "engine/sequence.h"

#include <algorithm>

namespace l4 {

namespace {
constexpr AttentionKind kKinds[] = {AttentionKind::chunked, AttentionKind::global};
}

KvPools::KvPools(int64_t page_tokens_, int64_t chunk_, std::array<int64_t, kNumAttentionKinds> n_pages)
    : page_tokens(page_tokens_), chunk(chunk_), pool{BlockPool(n_pages[0]), BlockPool(n_pages[1])} {
  L4_CHECK(page_tokens > 0 && chunk >= 0 && chunk % page_tokens == 0, "pages of ", page_tokens, ", chunks of ", chunk);
}

std::array<int64_t, kNumAttentionKinds> kv_pages_needed(int64_t max_context, int64_t max_step_rows, int64_t page_tokens,
                                                        int64_t chunk) {
  auto pages = [&](int64_t n_tokens) { return (n_tokens + page_tokens - 1) / page_tokens; };
  std::array<int64_t, kNumAttentionKinds> needed;
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
  for (AttentionKind kind : kKinds)
    for (int32_t page : tables_[size_t(kind)].pages) pools_->of(kind).release(page);
  for (const PageCopy& copy : copies_) pools_->of(copy.kind).release(copy.from);
}

Sequence Sequence::fork() const {
  L4_CHECK(n_reserved_ == 0);
  Sequence child(*pools_, ids_, images_);
  child.n_committed_ = n_committed_;
  child.tables_ = tables_;
  for (AttentionKind kind : kKinds)
    for (int32_t page : tables_[size_t(kind)].pages) pools_->of(kind).share(page);
  return child;
}

// ---- a step ---------------------------------------------------------------------------------------------------------

// Only the page that the first new row falls into can hold earlier tokens, so only it can be shared.
bool Sequence::writes_shared_page(AttentionKind kind) const {
  const PageTable& table = tables_[size_t(kind)];
  const size_t page = size_t((n_committed_ - table.begin) / pools_->page_tokens);
  return page < table.pages.size() && pools_->of(kind).is_shared(table.pages[page]);
}

int64_t Sequence::pages_missing(AttentionKind kind, int64_t n_rows) const {
  const PageTable& table = tables_[size_t(kind)];
  return pools_->pages_for(n_committed_ + n_rows - table.begin) - int64_t(table.pages.size()) +
         writes_shared_page(kind);
}

bool Sequence::reserve(int64_t n_rows) {
  L4_CHECK(n_reserved_ == 0 && n_rows > 0 && n_committed_ + n_rows <= length());
  for (AttentionKind kind : kKinds)
    if (pages_missing(kind, n_rows) > pools_->of(kind).n_free()) return false;
  for (AttentionKind kind : kKinds) {
    PageTable& table = tables_[size_t(kind)];
    if (writes_shared_page(kind)) {
      int32_t& page = table.pages[size_t((n_committed_ - table.begin) / pools_->page_tokens)];
      copies_.push_back({kind, page, *pools_->of(kind).allocate()});
      page = copies_.back().to;
    }
    for (int64_t n = pages_missing(kind, n_rows); n > 0; --n) table.pages.push_back(*pools_->of(kind).allocate());
  }
  n_reserved_ = n_rows;
  return true;
}

void Sequence::commit(int64_t n_rows) {
  L4_CHECK(n_rows >= 0 && n_rows <= n_reserved_);
  for (const PageCopy& copy : copies_) pools_->of(copy.kind).release(copy.from);
  copies_.clear();
  n_committed_ += n_rows;
  n_reserved_ = 0;
  free_pages_after(n_committed_);
  free_finished_chunks();
}

void Sequence::abandon() {
  for (const PageCopy& copy : copies_) {
    for (int32_t& page : tables_[size_t(copy.kind)].pages)
      if (page == copy.to) page = copy.from;
    pools_->of(copy.kind).release(copy.to);
  }
  copies_.clear();
  n_reserved_ = 0;
  free_pages_after(n_committed_);
}

void Sequence::free_pages_after(int64_t position) {
  for (AttentionKind kind : kKinds) {
    PageTable& table = tables_[size_t(kind)];
    const size_t kept = size_t(pools_->pages_for(std::max<int64_t>(0, position - table.begin)));
    for (size_t i = kept; i < table.pages.size(); ++i) pools_->of(kind).release(table.pages[i]);
    table.pages.resize(std::min(kept, table.pages.size()));
  }
}

void Sequence::free_finished_chunks() {
  PageTable& table = tables_[size_t(AttentionKind::chunked)];
  if (n_committed_ == 0) return;
  const int64_t begin = pools_->chunk_start(n_committed_ - 1);
  if (begin <= table.begin) return;
  const auto first_kept = table.pages.begin() + (begin - table.begin) / pools_->page_tokens;
  for (auto page = table.pages.begin(); page != first_kept; ++page) pools_->of(AttentionKind::chunked).release(*page);
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

  PageTable& chunked = tables_[size_t(AttentionKind::chunked)];
  n_committed_ = std::min(n_committed_, n);
  const bool chunk_is_gone = chunked.begin > pools_->chunk_start(n_committed_);
  if (chunk_is_gone) n_committed_ = pools_->chunk_start(n_committed_);
  free_pages_after(n_committed_);
  if (chunk_is_gone) chunked.begin = n_committed_;
  return n_committed_;
}

int64_t Sequence::restart(std::vector<int32_t> ids, std::vector<SequenceImage> images, int64_t max_keep) {
  int64_t keep = std::min({n_committed_, max_keep, int64_t(ids.size())});
  keep = std::mismatch(ids.begin(), ids.begin() + keep, ids_.begin()).first - ids.begin();
  // Equal ids so far: the pictures up to here begin at the same positions in both.
  for (size_t i = 0; i < images.size() && i < images_.size(); ++i) {
    const SequenceImage &now = images[i], &before = images_[i];
    if (now.positions.front() >= keep) break;
    if (now.input.digest != before.input.digest || now.input.n_tiles != before.input.n_tiles) {
      keep = now.positions.front();
      break;
    }
  }
  keep = truncate(keep);
  ids_ = std::move(ids);
  images_ = std::move(images);
  return keep;
}

}  // namespace l4
