#include "vision/image.h"

#include <webp/decode.h>

#include <algorithm>
#include <array>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "vision/image_file.h"

// ---- stb_image: PNG and JPEG only, memory bounded

namespace {

// What stb_image may allocate while one file is decoded: no single piece beyond `largest`, which follows from the
// file's header, so that data which unpacks to more than the header says ends there. All memory is zeroed: some damaged
// files would show what lay in it before.
struct DecoderHeap {
  size_t largest;
  bool exceeded = false;
};
thread_local DecoderHeap* t_heap = nullptr;

bool heap_allows(size_t n_bytes) {
  if (!t_heap || n_bytes <= t_heap->largest) return true;
  t_heap->exceeded = true;
  return false;
}
void* heap_alloc(size_t n_bytes) {
  return heap_allows(n_bytes) ? std::calloc(1, n_bytes) : nullptr;
}
void* heap_realloc(void* old, size_t old_bytes, size_t n_bytes) {
  if (!heap_allows(n_bytes)) return nullptr;
  void* grown = std::realloc(old, n_bytes);
  if (grown && n_bytes > old_bytes) std::memset(static_cast<char*>(grown) + old_bytes, 0, n_bytes - old_bytes);
  return grown;
}

}  // namespace

#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#define STBI_ONLY_PNG
#define STBI_ONLY_JPEG
#define STBI_NO_STDIO
#define STBI_NO_LINEAR
#define STBI_NO_HDR
#define STBI_MAX_DIMENSIONS 65535
#define STBI_MALLOC(n_bytes) heap_alloc(n_bytes)
#define STBI_REALLOC_SIZED(old, old_bytes, n_bytes) heap_realloc(old, old_bytes, n_bytes)
#define STBI_FREE(block) std::free(block)
#define STBI_ASSERT(condition) static_cast<void>(0)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wall"
#pragma GCC diagnostic ignored "-Wextra"
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wunused-but-set-variable"
#include <stb/stb_image.h>
#pragma GCC diagnostic pop

namespace l4 {

static_assert(STBI_MAX_DIMENSIONS == kMaxSide);

const char* image_format_name(ImageFormat format) {
  switch (format) {
    case ImageFormat::png:
      return "PNG";
    case ImageFormat::jpeg:
      return "JPEG";
    case ImageFormat::bmp:
      return "BMP";
    case ImageFormat::webp:
      return "WebP";
  }
  return "?";
}

namespace {

struct Magic {
  size_t at;
  std::string_view bytes;
  const char* name;
};

using namespace std::string_view_literals;

constexpr Magic kRefused[] = {
    {0, "GIF87a"sv, "GIF"},
    {0, "GIF89a"sv, "GIF"},
    {0, "II*\0"sv, "TIFF"},
    {0, "MM\0*"sv, "TIFF"},
    {0, "II+\0"sv, "BigTIFF"},
    {0, "MM\0+"sv, "BigTIFF"},
    {4, "ftypavif"sv, "AVIF"},
    {4, "ftypavis"sv, "AVIF"},
    {4, "ftyphei"sv, "HEIC"},
    {4, "ftyphev"sv, "HEIC"},
    {4, "ftypmif1"sv, "HEIF"},
    {4, "ftypmsf1"sv, "HEIF"},
    {4, "ftyp"sv, "MP4"},
    {0, "%PDF"sv, "PDF"},
    {0, "%!PS"sv, "PostScript"},
    {0, "\xFF\x0A"sv, "JPEG XL"},
    {0, "\0\0\0\x0CJXL "sv, "JPEG XL"},
    {0, "\0\0\0\x0CjP  "sv, "JPEG 2000"},
    {0, "\xFF\x4F\xFF\x51"sv, "JPEG 2000"},
    {0, "\0\0\1\0"sv, "ICO"},
    {0, "\0\0\2\0"sv, "CUR"},
    {0, "8BPS"sv, "PSD"},
    {0, "qoif"sv, "QOI"},
    {0, "DDS "sv, "DDS"},
    {0, "#?RADIANCE"sv, "Radiance HDR"},
    {0, "\x76\x2F\x31\x01"sv, "OpenEXR"},
    {0, "\x1A\x45\xDF\xA3"sv, "Matroska or WebM"},
    {8, "AVI "sv, "AVI"},
    {0, "\x8AMNG"sv, "MNG"},
    {0, "PK\3\4"sv, "ZIP"},
    {0, "\x1F\x8B"sv, "gzip"},
    {0, "P1\n"sv, "PBM"},
    {0, "P2\n"sv, "PGM"},
    {0, "P3\n"sv, "PPM"},
    {0, "P4\n"sv, "PBM"},
    {0, "P5\n"sv, "PGM"},
    {0, "P6\n"sv, "PPM"},
};

// Text formats have no magic bytes; the first tag within the first kilobyte tells.
const char* text_format(std::string_view head) {
  const std::string text = to_lower(trim(head.substr(0, 1024)));
  if (text.rfind("data:", 0) == 0) return "a data: URL, not its decoded bytes";
  if (text.empty() || text[0] != '<') return nullptr;
  if (text.find("<svg") != std::string::npos) return "SVG";
  return text.rfind("<?xml", 0) == 0 ? "XML" : "HTML";
}

ImageFile inspect(Bytes bytes, std::string_view source, const ImageLimits& limits) {
  const std::string name(source);
  if (bytes.empty()) fail_input(name, ": the image is empty (0 bytes)");
  if (bytes.size() > limits.max_bytes) {
    fail_input(name, ": ", human_bytes(bytes.size()), " is over the limit of ", human_bytes(limits.max_bytes),
               " for an image");
  }
  const std::string_view head(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  const auto begins = [&](size_t at, std::string_view magic) {
    return head.size() >= at && head.substr(at, magic.size()) == magic;
  };
  const auto reader = [&](const char* format) { return ByteReader(bytes, cat(name, ": ", format)); };

  ImageFile file;
  if (begins(0, "\x89PNG\r\n\x1A\n")) {
    file = inspect_png(reader("PNG"));
  } else if (begins(0, "\xFF\xD8\xFF")) {
    file = inspect_jpeg(reader("JPEG"));
  } else if (begins(0, "RIFF") && begins(8, "WEBP")) {
    file = inspect_webp(reader("WebP"));
  } else if (begins(0, "BM")) {
    file = inspect_bmp(reader("BMP"));
  } else {
    const char* other = text_format(head);
    for (const Magic& magic : kRefused) {
      if (!other && begins(magic.at, magic.bytes)) other = magic.name;
    }
    const char* readable = "only PNG, JPEG, WebP and BMP are read";
    if (other) fail(ErrorKind::unsupported, name, ": this is ", other, "; ", readable);
    // Without its bytes: a server's client may not know what lies in the file that it named.
    fail(ErrorKind::unsupported, name, ": unknown image format; ", readable);
  }
  check_sides(cat(name, ": ", image_format_name(file.format)), file.height, file.width, limits);
  return file;
}

struct StbFree {
  void operator()(void* block) const { stbi_image_free(block); }
};

Image decode_stb(Bytes bytes, const std::string& what, const ImageFile& file) {
  if (bytes.size() > size_t(INT_MAX)) fail_input(what, " of ", human_bytes(bytes.size()), " is too large");
  // Twice, as buffers grow by doubling; 32 for JPEG's blocks and the filter bytes of PNG's rows.
  const uint64_t pixels = uint64_t(file.height + 32) * uint64_t(file.width + 32);
  DecoderHeap heap{size_t(2 * (pixels * file.decoded_pixel_bytes + bytes.size()) + 65536)};
  t_heap = &heap;
  const auto* data = reinterpret_cast<const stbi_uc*>(bytes.data());
  const int n_bytes = int(bytes.size());
  int width = 0, height = 0, channels = 0;
  std::unique_ptr<stbi_us, StbFree> grey;
  std::unique_ptr<stbi_uc, StbFree> rgb;
  if (file.grey16) {
    grey.reset(stbi_load_16_from_memory(data, n_bytes, &width, &height, &channels, 1));
  } else {
    rgb.reset(stbi_load_from_memory(data, n_bytes, &width, &height, &channels, 3));
  }
  t_heap = nullptr;
  if (heap.exceeded) fail_input(what, " is damaged: it unpacks to more than its header says");
  if (!grey && !rgb) fail_input(what, " is damaged: it cannot be decoded");
  if (height != file.height || width != file.width) fail_input(what, " is damaged: two sizes");

  const size_t n_pixels = size_t(file.height) * size_t(file.width);
  Image image{file.height, file.width, std::vector<uint8_t>(n_pixels * 3)};
  if (rgb) std::memcpy(image.rgb.data(), rgb.get(), image.rgb.size());
  for (size_t i = 0; grey && i < n_pixels; ++i) {
    std::memset(&image.rgb[3 * i], std::min<int>(grey.get()[i], 255), 3);
  }
  return image;
}

Image decode_webp(Bytes bytes, const std::string& what, const ImageFile& file) {
  Image image{file.height, file.width, std::vector<uint8_t>(size_t(file.height * file.width * 3))};
  const auto* data = reinterpret_cast<const uint8_t*>(bytes.data());
  if (!WebPDecodeRGBInto(data, bytes.size(), image.rgb.data(), image.rgb.size(), int(file.width * 3))) {
    fail_input(what, " is damaged or truncated");
  }
  return image;
}

}  // namespace

ImageInfo read_image_info(Bytes bytes, std::string_view source, const ImageLimits& limits) {
  const ImageFile file = inspect(bytes, source, limits);
  ImageInfo info{file.format, file.height, file.width, file.orientation};
  if (file.orientation >= 5) std::swap(info.height, info.width);
  return info;
}

Image decode_image(Bytes bytes, std::string_view source, const ImageLimits& limits) {
  const ImageFile file = inspect(bytes, source, limits);
  const std::string what = cat(source, ": ", image_format_name(file.format));
  Image image;
  switch (file.format) {
    case ImageFormat::png:
    case ImageFormat::jpeg:
      image = decode_stb(bytes, what, file);
      break;
    case ImageFormat::bmp:
      image = decode_bmp(ByteReader(bytes, what));
      break;
    case ImageFormat::webp:
      image = decode_webp(bytes, what, file);
      break;
  }
  return apply_orientation(std::move(image), file.orientation);
}

}  // namespace l4
