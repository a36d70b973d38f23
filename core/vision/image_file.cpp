// What a file is, by its first bytes, and whether it is within the limits; WebP's structure.
#include <webp/decode.h>

#include <algorithm>

#include "vision/image_file.h"

namespace l4 {

void check_sides(const std::string& what, int64_t height, int64_t width, const ImageLimits& limits) {
  if (height < 1 || width < 1) fail_input(what, " of ", width, "x", height, " pixels is empty");
  if (height > kMaxSide || width > kMaxSide) {
    fail_input(what, " of ", width, "x", height, " pixels: sides may have ", kMaxSide, " at most");
  }
  if (uint64_t(height) * uint64_t(width) > limits.max_pixels) {
    fail_input(what, " of ", width, "x", height, " pixels is over the limit of ", human_count(limits.max_pixels));
  }
}

// WebP container (RFC 9649 2.3): "RIFF", size u32, "WEBP", then chunks: name, size u32, data padded to an even length.
ImageFile inspect_webp(const ByteReader& file) {
  const std::string& what = file.what();
  const uint64_t end = 8 + uint64_t(file.le32(4));
  file.need(0, end);
  WebPBitstreamFeatures features;
  const Bytes all = file.part(0, file.size());
  if (WebPGetFeatures(reinterpret_cast<const uint8_t*>(all.data()), all.size(), &features) != VP8_STATUS_OK) {
    fail_input(what, " is damaged: bad header");
  }
  if (features.has_animation) fail(ErrorKind::unsupported, what, ": animated WebP is not read, send one frame");
  ImageFile info;
  info.format = ImageFormat::webp;
  info.height = features.height;
  info.width = features.width;
  for (uint64_t at = 12; at + 8 <= end;) {
    const uint64_t size = file.le32(at + 4);
    if (file.text(at, 4) == "EXIF") {
      Bytes exif = file.part(at + 8, size);
      // Some writers keep JPEG's prefix.
      if (size >= 6 && file.text(at + 8, 6) == std::string_view("Exif\0\0", 6)) exif = exif.subspan(6);
      info.orientation = exif_orientation(exif);
    }
    at += 8 + size + size % 2;
  }
  return info;
}

}  // namespace l4
