#include "tools/common/media/picture_cache.h"

namespace l4::tools {

PictureCache::Claim PictureCache::claim(const FileDigest& digest) {
  const std::lock_guard lock(mutex_);
  const auto [it, is_new] = entries_.try_emplace(digest);
  Entry& entry = it->second;
  if (is_new)
    entry.picture = entry.promise.get_future().share();
  else if (entry.n_bytes > 0)
    order_.splice(order_.begin(), order_, entry.order);
  return {entry.picture, is_new};
}

void PictureCache::finish(const FileDigest& digest, PreparedImage picture) {
  const std::lock_guard lock(mutex_);
  Entry& entry = entries_.at(digest);
  const uint64_t n_bytes = sizeof(ImageTiles) + picture->pixels.size() * sizeof(picture->pixels[0]);
  entry.promise.set_value(std::move(picture));
  if (n_bytes > capacity_bytes_) {
    entries_.erase(digest);
    return;
  }
  entry.n_bytes = n_bytes;
  order_.push_front(digest);
  entry.order = order_.begin();
  bytes_ += n_bytes;
  while (bytes_ > capacity_bytes_) {
    const auto oldest = entries_.find(order_.back());
    bytes_ -= oldest->second.n_bytes;
    entries_.erase(oldest);
    order_.pop_back();
  }
}

void PictureCache::finish_with_error(const FileDigest& digest, std::exception_ptr error) {
  const std::lock_guard lock(mutex_);
  entries_.at(digest).promise.set_exception(std::move(error));
  entries_.erase(digest);
}

uint64_t PictureCache::bytes() const {
  const std::lock_guard lock(mutex_);
  return bytes_;
}

}  // namespace l4::tools
