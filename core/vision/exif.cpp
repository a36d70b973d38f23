// The EXIF orientation: found (tag 0x0112 of the first image directory, EXIF 2.32 section 4.6.4) and applied.
#include "vision/image_file.h"

namespace l4 {

int exif_orientation(Bytes tiff) {
  const auto byte = [&](size_t at) { return std::to_integer<uint32_t>(tiff[at]); };
  if (tiff.size() < 8) return 1;
  const bool little = byte(0) == 'I' && byte(1) == 'I', big = byte(0) == 'M' && byte(1) == 'M';
  if (!little && !big) return 1;
  const auto u16 = [&](size_t at) { return little ? byte(at) | byte(at + 1) << 8 : byte(at) << 8 | byte(at + 1); };
  const auto u32 = [&](size_t at) { return little ? u16(at) | u16(at + 2) << 16 : u16(at) << 16 | u16(at + 2); };
  if (u16(2) != 42) return 1;
  const size_t directory = u32(4);
  if (directory > tiff.size() - 2) return 1;
  const size_t n_entries = u16(directory);
  int orientation = 1;
  for (size_t i = 0; i < n_entries; ++i) {
    const size_t entry = directory + 2 + 12 * i;  // tag u16, type u16, count u32, value
    if (entry + 12 > tiff.size()) break;
    if (u16(entry) != 0x0112 || u32(entry + 4) != 1) continue;
    const uint32_t type = u16(entry + 2);
    const uint32_t value = type == 1 ? byte(entry + 8) : type == 3 ? u16(entry + 8) : type == 4 ? u32(entry + 8) : 0;
    orientation = value >= 1 && value <= 8 ? int(value) : 1;
  }
  return orientation;
}

Image apply_orientation(Image image, int orientation) {
  if (orientation <= 1 || orientation > 8) return image;
  const int64_t h = image.height, w = image.width;
  const bool transposed = orientation >= 5;
  Image out{transposed ? w : h, transposed ? h : w, std::vector<uint8_t>(image.rgb.size())};
  // Stored rows run from the top (1, 2, 5, 6) and stored columns from the left (1, 4, 5, 8), or the other way round;
  // from 5 on, stored rows are columns of the upright picture.
  const bool flip_rows = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
  const bool flip_cols = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
  uint8_t* to = out.rgb.data();
  for (int64_t y = 0; y < out.height; ++y) {
    for (int64_t x = 0; x < out.width; ++x, to += 3) {
      int64_t row = transposed ? x : y, col = transposed ? y : x;
      if (flip_rows) row = h - 1 - row;
      if (flip_cols) col = w - 1 - col;
      const uint8_t* from = &image.rgb[size_t((row * w + col) * 3)];
      to[0] = from[0], to[1] = from[1], to[2] = from[2];
    }
  }
  return out;
}

}  // namespace l4
