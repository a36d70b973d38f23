#include "vision/tiling.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "vision/resize.h"
#include "vision/sha256.h"

namespace l4 {

namespace {

// Canvases are all rows x cols with at most max_tiles tiles. Wanted is the smallest enlargement (or the largest, to
// fill the canvas) where one canvas holds the whole picture, else the least reduction; among canvases of that scale the
// one with the fewest tiles. There is no tie left: of two such canvases of one size, one is lower and the other
// narrower, and the canvas as low as the one and as narrow as the other has the same scale and fewer tiles. Scales are
// fp32, as torch has them.
std::array<int64_t, 2> choose_canvas(int64_t height, int64_t width, const TilingConfig& config) {
  const auto scale_of = [&](int64_t rows, int64_t cols) {
    return std::min(float(config.tile * rows) / float(height), float(config.tile * cols) / float(width));
  };
  const auto each_canvas = [&](const auto& visit) {
    for (int64_t rows = 1; rows <= config.max_tiles; ++rows)
      for (int64_t cols = 1; rows * cols <= config.max_tiles; ++cols) visit(rows, cols);
  };
  float least_above = std::numeric_limits<float>::infinity(), greatest = 0;
  each_canvas([&](int64_t rows, int64_t cols) {
    const float scale = scale_of(rows, cols);
    greatest = std::max(greatest, scale);
    if (scale >= 1) least_above = std::min(least_above, scale);
  });
  const float chosen = greatest >= 1 && !config.resize_to_max_canvas ? least_above : greatest;
  std::array<int64_t, 2> best{};
  each_canvas([&](int64_t rows, int64_t cols) {
    const bool smaller = best[0] == 0 || rows * cols < best[0] * best[1];
    if (scale_of(rows, cols) == chosen && smaller) best = {rows, cols};
  });
  return best;
}

// A side the picture is to be fitted to. In the processor a side cut down to the canvas is an integer tensor, so what
// is computed from it is fp32; a side kept as it was is a Python int, computed with in double. (A quotient of integers
// below 2^24 taken in double and then rounded to fp32 is the fp32 quotient.)
struct TargetSide {
  int64_t pixels;
  bool single;

  int64_t scaled(int64_t other, double ratio) const {
    return int64_t(std::floor(single ? double(float(other) * float(ratio)) : double(other) * ratio));
  }
};

TargetSide target_side(int64_t side, int64_t canvas, const TilingConfig& config) {
  if (config.resize_to_max_canvas) return {canvas, true};
  const int64_t wanted = std::max(side, config.tile);  // never enlarged beyond one tile
  return canvas < wanted ? TargetSide{canvas, true} : TargetSide{wanted, false};
}

}  // namespace

TilePlan plan_tiles(int64_t height, int64_t width, const TilingConfig& config) {
  L4_CHECK(height >= 1 && width >= 1 && config.tile >= 1 && config.max_tiles >= 1);
  const auto [rows, cols] = choose_canvas(height, width, config);
  const TargetSide th = target_side(height, rows * config.tile, config);
  const TargetSide tw = target_side(width, cols * config.tile, config);
  const double scale_h = double(th.pixels) / double(height), scale_w = double(tw.pixels) / double(width);
  // A tensor compared with a Python float is compared in fp32.
  const bool fit_width = th.single || tw.single ? float(scale_w) < float(scale_h) : scale_w < scale_h;
  TilePlan plan{rows, cols, th.pixels, tw.pixels, rows * cols + (rows * cols > 1 ? 1 : 0)};
  if (fit_width) {
    plan.resized_height = std::min(tw.scaled(height, scale_w), th.pixels);
  } else {
    plan.resized_width = std::min(th.scaled(width, scale_h), tw.pixels);
  }
  plan.resized_height = std::max<int64_t>(plan.resized_height, 1);
  plan.resized_width = std::max<int64_t>(plan.resized_width, 1);
  return plan;
}

BFloat16 normalised_pixel(uint8_t level) {
  const float v1 = round_bf16(float(level) * float(1.0 / 255));
  return to_bf16(round_bf16(v1 - 0.5f) / 0.5f);
}

namespace {

// Writes the part of `image` under tile (row, col) of its canvas into planes [3, S, S]; outside it they stay as they
// are.
void cut_tile(const Image& image, int64_t row, int64_t col, int64_t tile, std::span<const BFloat16, 256> values,
              BFloat16* planes) {
  const int64_t y0 = row * tile, x0 = col * tile;
  const int64_t height = std::min(tile, image.height - y0), width = std::min(tile, image.width - x0);
  if (width <= 0) return;
  for (int64_t y = 0; y < height; ++y) {
    const uint8_t* from = image.rgb.data() + ((y0 + y) * image.width + x0) * 3;
    BFloat16* red = planes + y * tile;
    BFloat16* green = red + tile * tile;
    BFloat16* blue = green + tile * tile;
    for (int64_t x = 0; x < width; ++x, from += 3) {
      red[x] = values[from[0]];
      green[x] = values[from[1]];
      blue[x] = values[from[2]];
    }
  }
}

void hash_image(Sha256& hash, const Image& image) {
  for (int64_t number : {image.height, image.width}) {
    std::array<uint8_t, 8> bytes;
    for (size_t i = 0; i < 8; ++i) bytes[i] = uint8_t(uint64_t(number) >> (8 * i));
    hash.update(bytes);
  }
  hash.update(image.rgb);
}

}  // namespace

ImageTiles preprocess(const Image& image, const TilingConfig& config) {
  const TilePlan plan = plan_tiles(image.height, image.width, config);
  std::array<BFloat16, 256> values;
  for (int level = 0; level < 256; ++level) values[size_t(level)] = normalised_pixel(uint8_t(level));

  ImageTiles tiles{plan.n_tiles, plan.rows, plan.cols, config.tile, {}, {}};
  const int64_t tile_values = 3 * config.tile * config.tile;
  tiles.pixels.resize(size_t(plan.n_tiles * tile_values), values[0]);  // padding is black
  const auto tile_at = [&](int64_t t) { return tiles.pixels.data() + t * tile_values; };
  // The digest covers the pixels that all tiles are made of, and what decides the layout.
  Sha256 hash;
  hash_image(hash, {plan.rows * config.tile, plan.cols * config.tile, {}});

  const bool resized = plan.resized_height != image.height || plan.resized_width != image.width;
  const Image smaller = resized ? resize_bilinear(image, plan.resized_height, plan.resized_width) : Image{};
  const Image& fitted = resized ? smaller : image;
  for (int64_t t = 0; t < plan.rows * plan.cols; ++t) {
    const int64_t row = t / plan.cols, col = t % plan.cols;
    cut_tile(fitted, row, col, config.tile, values, tile_at(t));
  }
  hash_image(hash, fitted);
  if (plan.n_tiles > 1) {
    const Image global = resize_bilinear(image, config.tile, config.tile);
    cut_tile(global, 0, 0, config.tile, values, tile_at(plan.n_tiles - 1));
    if (resized) hash_image(hash, global);  // else it follows from `fitted`
  }
  const auto digest = hash.finish();
  std::copy_n(digest.begin(), tiles.digest.size(), tiles.digest.begin());
  return tiles;
}

}  // namespace l4
