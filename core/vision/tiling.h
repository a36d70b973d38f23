// From a picture to what the vision tower and the prompt take: tiles of normalised pixels, and the token sequence that
// stands for them. Follows transformers 5.17's Llama4ImageProcessor and Llama4Processor; formulas: the comments beside
// the functions. No neural network, no files but preprocessor_config.json.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "formats/json.h"
#include "tensor/dtype.h"
#include "vision/image.h"

namespace l4 {

// preprocessor_config.json, as far as it may differ between checkpoints.
struct TilingConfig {
  int64_t tile = 336;                 // S, pixels a side; the vision tower's image_size
  int64_t max_tiles = 16;             // max_patches: rows * cols of a canvas, without the global tile
  bool resize_to_max_canvas = false;  // true: enlarge to fill the largest canvas
};

// Reads `dir`/processor_config.json's "image_processor" (as transformers 5 writes it) or else `dir`/
// preprocessor_config.json; without either, the defaults with tile = image_size (VisionConfig::image_size).
// Error naming file and field where the checkpoint asks for anything but bilinear, 1/255, mean = std = 0.5, RGB, or a
// tile size other than image_size.
TilingConfig load_tiling_config(const std::filesystem::path& dir, int64_t image_size);
TilingConfig parse_tiling_config(const Json& config, const std::string& source, int64_t image_size);

// How one picture is laid out.
struct TilePlan {
  int64_t rows = 0, cols = 0;                     // of the canvas, in tiles
  int64_t resized_height = 0, resized_width = 0;  // of the picture inside the canvas, top left; the rest is padding
  int64_t n_tiles = 0;                            // rows * cols, and one global tile more where that is not 1
};

// For a picture of height x width >= 1 pixels.
TilePlan plan_tiles(int64_t height, int64_t width, const TilingConfig& config);

// 128 bits of SHA-256 over the canvas and the fitted 8-bit pixels (and the global tile's where it does not follow from
// those): equal digests mean equal tiles. Key of the prefix and encoder caches, where a collision that somebody can
// make would show one user another's answer.
using ImageDigest = std::array<uint8_t, 16>;

struct ImageTiles {
  int64_t n_tiles = 0, rows = 0, cols = 0, tile = 0;
  std::vector<BFloat16> pixels;  // [n_tiles, 3, tile, tile], -1 .. 1; canvas tiles row by row, then the global tile
  ImageDigest digest{};
};

ImageTiles preprocess(const Image& image, const TilingConfig& config);

// The value of an 8-bit grey level in ImageTiles::pixels:
// v1 = bf16(bf16(level) * fp32(1 / 255)); v = bf16(bf16(v1 - 0.5) / 0.5), as the processor computes it in bf16.
BFloat16 normalised_pixel(uint8_t level);

// ---- The tokens of a picture

enum class ImageToken : uint8_t { image_start, image_end, image, patch, tile_x_separator, tile_y_separator };

// Ids of these tokens in the checkpoint's vocabulary, looked up by name by the caller ("<|image_start|>", ...).
struct ImageTokenIds {
  int32_t image_start = -1, image_end = -1;
  int32_t image = -1;  // also the placeholder that a chat template writes for a picture
  int32_t patch = -1;  // one for each feature row of the vision tower
  int32_t tile_x_separator = -1, tile_y_separator = -1;

  int32_t of(ImageToken token) const;
};

struct ImageLayout {
  int64_t rows = 1, cols = 1;
  int64_t tokens_per_tile = 0;  // VisionConfig::tokens_per_tile(), 144 for released models

  int64_t n_tiles() const { return rows * cols + (rows * cols > 1 ? 1 : 0); }
  int64_t n_patch_tokens() const { return n_tiles() * tokens_per_tile; }
};

// P = tokens_per_tile patches. 1x1: start image P end. Else: start, for each row P (x P)* y, then image P end.
std::vector<ImageToken> image_tokens(const ImageLayout& layout);
// Their number: tokens_per_tile * n_tiles + 3, and rows * cols separators where there is more than one tile.
int64_t count_image_tokens(const ImageLayout& layout);

// Where an expanded prompt holds a picture.
struct ImageSpan {
  int64_t begin = 0, n_tokens = 0;  // image_start .. image_end
};
struct ExpandedPrompt {
  std::vector<int32_t> ids;
  std::vector<ImageSpan> images;  // in order, one for each layout
};

// Replaces the i-th placeholder by the tokens of layouts[i]. Error{usage} "SOURCE: ..." when placeholders and pictures
// differ in number, or when the ids hold a patch token already (only a picture may bring those).
ExpandedPrompt expand_placeholders(std::span<const int32_t> ids, int32_t placeholder_id,
                                   std::span<const ImageLayout> layouts, const ImageTokenIds& token_ids,
                                   const std::string& source = "prompt");

}  // namespace l4
