#include "vision/tiling.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "vision/resize.h"
#include "vision/sha256.h"

namespace l4 {

std::vector<std::array<int64_t, 2>> supported_canvases(int64_t max_tiles) {
  // Canvases are grouped by rows / cols; groups stand in the order in which n = max, max - 1, ... 1 first meets them.
  std::vector<std::pair<double, std::vector<std::array<int64_t, 2>>>> groups;
  for (int64_t n = max_tiles; n >= 1; --n) {
    for (int64_t rows = 1; rows <= n; ++rows) {
      if (n % rows != 0) continue;
      const int64_t cols = n / rows;
      const double ratio = double(rows) / double(cols);
      auto group = std::find_if(groups.begin(), groups.end(), [&](const auto& g) { return g.first == ratio; });
      if (group == groups.end()) group = groups.insert(groups.end(), {ratio, {}});
      group->second.push_back({rows, cols});
    }
  }
  std::vector<std::array<int64_t, 2>> all;
  for (const auto& group : groups) all.insert(all.end(), group.second.begin(), group.second.end());
  return all;
}

namespace {

// The smallest enlargement (or the largest, to fill the canvas) where one canvas holds the whole picture, else the least
// reduction; among canvases of that scale the one with the fewest tiles. Scales are compared as fp32, as torch has them.
std::array<int64_t, 2> choose_canvas(int64_t height, int64_t width, const TilingConfig& config) {
  const auto canvases = supported_canvases(config.max_tiles);
  std::vector<float> scales;
  float least_above = std::numeric_limits<float>::infinity(), greatest = 0;
  for (auto [rows, cols] : canvases) {
    const float scale_h = float(config.tile * rows) / float(height), scale_w = float(config.tile * cols) / float(width);
    const float scale = std::min(scale_h, scale_w);
    scales.push_back(scale);
    greatest = std::max(greatest, scale);
    if (scale >= 1) least_above = std::min(least_above, scale);
  }
  const float chosen = greatest >= 1 && !config.resize_to_max_canvas ? least_above : greatest;
  size_t best = canvases.size();
  for (size_t i = 0; i < canvases.size(); ++i) {
    if (scales[i] != chosen) continue;
    if (best == canvases.size() || canvases[i][0] * canvases[i][1] < canvases[best][0] * canvases[best][1]) best = i;
  }
  return canvases[best];
}

// A side the picture is to be fitted to. In the processor a side cut down to the canvas is an integer tensor, so what is
// computed from it is fp32; a side kept as it was is a Python int, computed with in double.
struct TargetSide {
  int64_t pixels;
  bool single;

  double ratio(int64_t from) const { return single ? double(float(pixels) / float(from)) : double(pixels) / double(from); }
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
  const double scale_h = th.ratio(height), scale_w = tw.ratio(width);
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

// Copies the part of `image` that lies under tile (row, col) of its canvas into planes [3, S, S], zero-filled before.
void cut_tile(const Image& image, int64_t row, int64_t col, int64_t tile, uint8_t* planes) {
  const int64_t y0 = row * tile, x0 = col * tile;
  const int64_t height = std::min(tile, image.height - y0), width = std::min(tile, image.width - x0);
  for (int64_t y = 0; y < height; ++y) {
    for (int64_t x = 0; x < width; ++x) {
      const uint8_t* from = &image.rgb[size_t(((y0 + y) * image.width + x0 + x) * 3)];
      for (int64_t c = 0; c < 3; ++c) planes[(c * tile + y) * tile + x] = from[c];
    }
  }
}

ImageDigest digest_of(const ImageTiles& tiles, std::span<const uint8_t> levels) {
  Sha256 hash;
  for (int64_t number : {tiles.rows, tiles.cols, tiles.tile}) {
    for (int shift = 0; shift < 64; shift += 8) {
      const uint8_t byte = uint8_t(uint64_t(number) >> shift);
      hash.update({&byte, 1});
    }
  }
  hash.update(levels);
  const auto full = hash.finish();
  ImageDigest digest;
  std::copy_n(full.begin(), digest.size(), digest.begin());
  return digest;
}

}  // namespace

ImageTiles preprocess(const Image& image, const TilingConfig& config) {
  const TilePlan plan = plan_tiles(image.height, image.width, config);
  const int64_t tile_size = 3 * config.tile * config.tile;
  std::vector<uint8_t> levels(size_t(plan.n_tiles * tile_size));  // [n_tiles, 3, S, S], 0 where padded
  const Image fitted = resize_bilinear(image, plan.resized_height, plan.resized_width);
  for (int64_t t = 0; t < plan.rows * plan.cols; ++t) {
    cut_tile(fitted, t / plan.cols, t % plan.cols, config.tile, &levels[size_t(t * tile_size)]);
  }
  if (plan.n_tiles > 1) {
    const Image global = resize_bilinear(image, config.tile, config.tile);
    cut_tile(global, 0, 0, config.tile, &levels[size_t((plan.n_tiles - 1) * tile_size)]);
  }

  ImageTiles tiles{plan.n_tiles, plan.rows, plan.cols, config.tile, {}, {}};
  tiles.digest = digest_of(tiles, levels);
  std::array<BFloat16, 256> values;
  for (int level = 0; level < 256; ++level) values[size_t(level)] = normalised_pixel(uint8_t(level));
  tiles.pixels.resize(levels.size());
  for (size_t i = 0; i < levels.size(); ++i) tiles.pixels[i] = values[levels[i]];
  return tiles;
}

}  // namespace l4
