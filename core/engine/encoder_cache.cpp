#include "engine/encoder_cache.h"

#include <algorithm>
#include <functional>

namespace l4 {

EncoderCache::EncoderCache(int64_t rows, int64_t tokens_per_tile, int64_t max_step_tiles)
    : n_slots_(tokens_per_tile > 0 ? rows / tokens_per_tile : 0),
      tokens_per_tile_(tokens_per_tile),
      max_step_tiles_(max_step_tiles),
      free_(std::make_shared<std::vector<int32_t>>()) {
  L4_CHECK(n_slots_ == 0 || max_step_tiles_ > 0);
  for (int64_t slot = n_slots_; slot-- > 0;) free_->push_back(int32_t(slot * tokens_per_tile));
}

bool EncoderCache::take(const ImageInput& image, int64_t first, std::span<TileSlot> slots,
                        std::vector<EncoderPass>& passes) {
  L4_CHECK(int64_t(slots.size()) == image.n_tiles && first < image.n_tiles);
  if (n_free() < image.n_tiles - first) return false;
  for (int64_t tile = first; tile < image.n_tiles; ++tile) {
    auto give_back = [free = free_](const int32_t* row) {
      free->insert(std::lower_bound(free->begin(), free->end(), *row, std::greater<>()), *row);
      delete row;
    };
    slots[size_t(tile)] = TileSlot(new int32_t(free_->back()), give_back);
    free_->pop_back();
  }
  const int64_t tile_elements = int64_t(image.pixels->size()) / image.n_tiles;
  for (int64_t tile = first; tile < image.n_tiles;) {
    const int64_t row = *slots[size_t(tile)];
    int64_t n = 1;  // tiles of this pass: neighbours in the cache
    while (n < max_step_tiles_ && tile + n < image.n_tiles && *slots[size_t(tile + n)] == row + n * tokens_per_tile_)
      ++n;
    passes.push_back(
        {std::span(*image.pixels).subspan(size_t(tile * tile_elements), size_t(n * tile_elements)), n, int32_t(row)});
    tile += n;
  }
  return true;
}

}  // namespace l4
