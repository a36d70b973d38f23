// Inside core/vision: what each format's own reader tells decode_image. Each checks the structure of a whole file
// before a decoder sees it; errors name `source`, the format and what is wrong.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/error.h"
#include "vision/image.h"

namespace l4 {

using Bytes = std::span<const std::byte>;

// Reads numbers at checked positions of a file's bytes.
class ByteReader {
 public:
  ByteReader(Bytes bytes, std::string what) : bytes_(bytes), what_(std::move(what)) {}  // what: "cat.png: PNG"

  size_t size() const { return bytes_.size(); }
  const std::string& what() const { return what_; }
  // Fails with "truncated" unless `n` bytes follow `at`.
  void need(uint64_t at, uint64_t n) const {
    if (at > bytes_.size() || n > bytes_.size() - at) {
      fail_input(what_, " is truncated: ", at > UINT64_MAX - n ? UINT64_MAX : at + n, " bytes needed, ", bytes_.size(),
                 " there");
    }
  }
  Bytes part(uint64_t at, uint64_t n) const {
    need(at, n);
    return bytes_.subspan(size_t(at), size_t(n));
  }
  std::string_view text(uint64_t at, uint64_t n) const {
    const Bytes bytes = part(at, n);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
  uint8_t u8(uint64_t at) const {
    need(at, 1);
    return std::to_integer<uint8_t>(bytes_[size_t(at)]);
  }
  uint16_t be16(uint64_t at) const { return uint16_t(number(at, 2, true)); }
  uint32_t be32(uint64_t at) const { return number(at, 4, true); }
  uint16_t le16(uint64_t at) const { return uint16_t(number(at, 2, false)); }
  uint32_t le32(uint64_t at) const { return number(at, 4, false); }

 private:
  uint32_t number(uint64_t at, int n, bool big_endian) const {
    need(at, uint64_t(n));
    uint32_t value = 0;
    for (int i = 0; i < n; ++i) {
      const size_t k = size_t(at) + size_t(big_endian ? i : n - 1 - i);
      value = value << 8 | std::to_integer<uint32_t>(bytes_[k]);
    }
    return value;
  }

  Bytes bytes_;
  std::string what_;
};

struct ImageFile {
  ImageFormat format = ImageFormat::png;
  int64_t height = 0, width = 0;  // as stored, not yet turned
  int orientation = 1;
  bool grey16 = false;               // PNG: 16-bit grey without alpha
  uint64_t decoded_pixel_bytes = 4;  // PNG, JPEG: the widest form a pixel takes inside the decoder
};

ImageFile inspect_png(const ByteReader& file);
ImageFile inspect_jpeg(const ByteReader& file);
ImageFile inspect_bmp(const ByteReader& file);
ImageFile inspect_webp(const ByteReader& file);

// Pixels of a file that inspect_bmp has passed.
Image decode_bmp(const ByteReader& file);

// Error unless 1 <= sides <= kMaxSide and height * width <= limits.max_pixels.
inline constexpr int64_t kMaxSide = 65535;
void check_sides(const std::string& what, int64_t height, int64_t width, const ImageLimits& limits);

// The orientation (1..8) in a TIFF structure as EXIF holds it; 1 where there is none or the data is damaged.
int exif_orientation(Bytes tiff);
// Turns and mirrors so that what was stored with this EXIF orientation stands upright.
Image apply_orientation(Image image, int orientation);

}  // namespace l4
