// Who does what of a product: the stages of its tiles (32 rows by a stage's columns), dealt out to blocks once for all.
// The same for who fetches, for who multiplies, and for the host, which counts.
#pragma once

#include <cstdint>

#include "base/host_device.h"

namespace l4::cuda::one_token {

// whole: tile i is block (i mod blocks)'s. Otherwise tiles lie in a row, and each block has an equal run of their
// stages; of a tile that two or more blocks share each makes a part of the sum.
struct Deal {                     // tiles * stages * blocks < 2^31
  int32_t tiles = 0, stages = 0;  // of a tile
  int32_t parts = 1;              // the most that a tile is cut into
  bool whole = false;
};

struct Item {
  int tile, begin, end;  // stages of the tile
  int part;
};

class Items {
 public:
  L4_HOST_DEVICE Items(const Deal& deal, int block, int n_blocks)
      : stages_(deal.stages), step_(deal.whole ? n_blocks : 1), tile_(block), left_(INT32_MAX), end_(deal.tiles) {
    if (deal.whole) return;
    const int all = deal.tiles * deal.stages, at = all * block / n_blocks;
    left_ = all * (block + 1) / n_blocks - at;
    tile_ = at / deal.stages;
    begin_ = at - tile_ * deal.stages;
    // The number of this block among those that share its first tile, one of which has its first stage.
    if (begin_ > 0) part_ = block - ((at - begin_ + 1) * n_blocks - 1) / all;
  }
  L4_HOST_DEVICE bool next(Item& i) {
    if (left_ <= 0 || tile_ >= end_) return false;
    const int n = stages_ - begin_ < left_ ? stages_ - begin_ : left_;
    i = {tile_, begin_, begin_ + n, part_};
    left_ -= n;
    tile_ += step_;
    begin_ = part_ = 0;
    return true;
  }

  L4_HOST_DEVICE int tile() const { return tile_; }    // of the next item,
  L4_HOST_DEVICE int begin() const { return begin_; }  // and its first stage

 private:
  int stages_, step_, tile_, left_, end_, begin_ = 0, part_ = 0;
};

}  // namespace l4::cuda::one_token
