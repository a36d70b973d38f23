// Picture files to RGB: PNG and JPEG through stb_image, WebP through libwebp, BMP by bmp.cpp. Everything else is
// refused by name.
//
// The result follows what transformers' loader makes of the same file (Pillow: exif_transpose, then convert("RGB")):
//  * alpha is dropped, not blended; palettes and grey become RGB; 16-bit RGB keeps the upper byte; 16-bit grey without
//    alpha is clipped at 255 (Pillow's "I;16"), odd as that looks;
//  * the EXIF orientation (1..8) of JPEG (APP1), PNG (eXIf) and WebP (EXIF) is applied. Damaged EXIF data counts as
//    none. XMP's orientation, which Pillow falls back to, is not read;
//  * an animated PNG gives its default image, as in Pillow. An animated WebP and every GIF is refused.
//
// Measured against Pillow 13 (libjpeg-turbo 3.2, libwebp 1.6) by scripts/golden/vision_golden.py compare: 398 PNG, 24
// WebP and 22 BMP files equal to the bit; 254 JPEG files (photographs, charts at quality 75 and 95, progressive, grey,
// CMYK, all orientations) within 3 grey levels, 0.2 on a file's average at most. In 4:2:2 JPEGs alone stb_image weighs
// the chroma of one pixel column beside the right edge the wrong way round: up to 121 levels there, on a made-up edge.
//
// Files are not trusted. Dimensions are read from the header and held against the limits before anything is decoded,
// PNG checksums and the structure of JPEG, BMP and WebP files are checked here first, and the decoders' memory is
// bounded by what the header promises. A file that ends early is an error even where a decoder would fill in grey.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace l4 {

struct Image {
  int64_t height = 0, width = 0;
  std::vector<uint8_t> rgb;  // [height, width, 3]
};

struct ImageLimits {
  uint64_t max_bytes = 20u << 20;    // of the file
  uint64_t max_pixels = 50'000'000;  // height x width
};

enum class ImageFormat : uint8_t { png, jpeg, bmp, webp };
const char* image_format_name(ImageFormat format);  // "PNG"

// What the header says, without decoding.
struct ImageInfo {
  ImageFormat format = ImageFormat::png;
  int64_t height = 0, width = 0;  // after the orientation has been applied, as decode_image's result
  int orientation = 1;            // EXIF, 1..8
};

// `source` names the picture in errors as it stands ("cat.png", "messages[0].content[1].image_url"): printable text.
// Error{unsupported}: another format (named), or a variant that is not read (animated WebP, arithmetic JPEG, RLE BMP).
// Error{input}: empty, over a limit, zero-sized, truncated, damaged.
ImageInfo read_image_info(std::span<const std::byte> bytes, std::string_view source, const ImageLimits& limits = {});
Image decode_image(std::span<const std::byte> bytes, std::string_view source, const ImageLimits& limits = {});

}  // namespace l4
