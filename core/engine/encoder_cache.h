// Which rows of the executor's encoder cache hold the features of which tile. The cache is cut into slots of one tile;
// a slot is free again when the last sequence that holds it lets go (its last row was used, or the sequence ended).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "engine/request.h"

namespace l4 {

// The first feature row of a tile; empty: not in the cache.
using TileSlot = std::shared_ptr<const int32_t>;

// Tiles that are encoded together, into feature rows [row, ...).
struct EncoderPass {
  std::span<const BFloat16> pixels;  // of the image
  int64_t n_tiles = 0;
  int32_t row = 0;
};

class EncoderCache {
 public:
  // `rows` feature rows of the executor, max_step_tiles tiles encoded in one pass.
  EncoderCache(int64_t rows, int64_t tokens_per_tile, int64_t max_step_tiles);

  int64_t n_slots() const { return n_slots_; }
  int64_t n_free() const { return int64_t(free_->size()); }

  // Slots for tiles [first, image.n_tiles) of the image; those before stay as they are. `passes` are added to: they must
  // run before a step uses the slots. False, and nothing done, while too few slots are free.
  bool take(const ImageInput& image, int64_t first, std::span<TileSlot> slots, std::vector<EncoderPass>& passes);

 private:
  int64_t n_slots_, tokens_per_tile_, max_step_tiles_;
  std::shared_ptr<std::vector<int32_t>>
      free_;  // rows, descending, so that neighbours are taken together; slots share it
};

}  // namespace l4
