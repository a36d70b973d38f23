// BMP, read whole: headers of 40 bytes and more and OS/2's 12, uncompressed or bit fields, 1, 4, 8, 16, 24 or 32 bits,
// bottom-up or top-down. stb_image reads BMP too, but leaves palette entries that a file does not hold uninitialised
// and takes missing rows for black.
#include <array>
#include <bit>
#include <cstdlib>

#include "vision/image_file.h"

namespace l4 {

namespace {

struct BmpHeader {
  int64_t height = 0, width = 0;
  bool top_down = false;
  int bits = 0;
  uint64_t palette_at = 0, palette_entries = 0, palette_entry_bytes = 4;
  uint64_t pixels_at = 0;
  std::array<uint32_t, 3> masks{};  // red, green, blue of 16 and 32 bits
};

BmpHeader read_header(const ByteReader& file) {
  const std::string& what = file.what();
  const uint32_t header_bytes = file.le32(14);
  BmpHeader bmp;
  uint32_t compression = 0, n_colors = 0;
  uint16_t planes = 0;
  if (header_bytes == 12) {
    bmp.width = file.le16(18);
    bmp.height = file.le16(20);
    planes = file.le16(22);
    bmp.bits = file.le16(24);
    bmp.palette_entry_bytes = 3;
  } else if (header_bytes == 40 || header_bytes == 52 || header_bytes == 56 || header_bytes == 64 ||
             header_bytes == 108 || header_bytes == 124) {
    file.need(14, header_bytes);
    bmp.width = int32_t(file.le32(18));
    const int64_t height = int32_t(file.le32(22));
    bmp.top_down = height < 0;
    bmp.height = std::abs(height);
    planes = file.le16(26);
    bmp.bits = file.le16(28);
    compression = file.le32(30);
    n_colors = file.le32(46);
  } else {
    fail_input(what, ": unknown header of ", header_bytes, " bytes");
  }
  if (planes != 1) fail_input(what, ": ", planes, " planes, expected 1");
  if (bmp.bits != 1 && bmp.bits != 4 && bmp.bits != 8 && bmp.bits != 16 && bmp.bits != 24 && bmp.bits != 32) {
    fail_input(what, ": ", bmp.bits, " bits a pixel, expected 1, 4, 8, 16, 24 or 32");
  }
  if (compression == 1 || compression == 2) fail(ErrorKind::unsupported, what, ": run-length encoded BMP is not read");
  if (compression != 0 && compression != 3)
    fail(ErrorKind::unsupported, what, ": BMP compression ", compression, " is not read");
  if (compression == 3 && bmp.bits < 16) fail_input(what, ": bit fields with ", bmp.bits, " bits a pixel");

  uint64_t end_of_header = 14 + uint64_t(header_bytes);
  if (bmp.bits == 16) bmp.masks = {0x7C00, 0x3E0, 0x1F};
  if (bmp.bits == 32) bmp.masks = {0xFF0000, 0xFF00, 0xFF};
  if (compression == 3 && bmp.bits != 24) {
    const std::array<uint32_t, 3> given = {file.le32(54), file.le32(58), file.le32(62)};
    if (header_bytes == 40) end_of_header += 12;
    if (given != std::array<uint32_t, 3>{}) bmp.masks = given;
    for (uint32_t mask : bmp.masks) {
      const uint32_t run = mask == 0 ? 0 : mask >> std::countr_zero(mask);
      if (run == 0 || (run & (run + 1)) != 0) fail_input(what, ": bit fields are not runs of bits");
    }
  }
  bmp.palette_at = end_of_header;
  if (bmp.bits <= 8) {
    const uint64_t most = uint64_t(1) << bmp.bits;
    if (n_colors > most) fail_input(what, ": ", n_colors, " palette entries for ", bmp.bits, " bits a pixel");
    bmp.palette_entries = n_colors == 0 ? most : n_colors;
    end_of_header += bmp.palette_entries * bmp.palette_entry_bytes;
    file.need(bmp.palette_at, bmp.palette_entries * bmp.palette_entry_bytes);
  }
  bmp.pixels_at = file.le32(10);
  // Files that leave the palette out of the offset, or the offset out: read as Pillow reads them.
  if (bmp.pixels_at == 0 || (bmp.bits <= 8 && bmp.pixels_at == 14 + uint64_t(header_bytes)))
    bmp.pixels_at = end_of_header;
  if (bmp.pixels_at < 14 + uint64_t(header_bytes)) fail_input(what, ": pixels begin inside the header");
  return bmp;
}

}  // namespace

ImageFile inspect_bmp(const ByteReader& file) {
  const BmpHeader bmp = read_header(file);
  ImageFile info;
  info.format = ImageFormat::bmp;
  info.height = bmp.height;
  info.width = bmp.width;
  return info;
}

Image decode_bmp(const ByteReader& file) {
  const BmpHeader bmp = read_header(file);
  const uint64_t row_bytes = (uint64_t(bmp.width) * uint64_t(bmp.bits) + 31) / 32 * 4;
  const Bytes pixels = file.part(bmp.pixels_at, row_bytes * uint64_t(bmp.height));
  const Bytes palette = file.part(bmp.palette_at, bmp.palette_entries * bmp.palette_entry_bytes);
  Image image{bmp.height, bmp.width, std::vector<uint8_t>(size_t(bmp.height * bmp.width * 3))};
  uint8_t* to = image.rgb.data();
  for (int64_t y = 0; y < bmp.height; ++y) {
    const Bytes row =
        pixels.subspan(size_t(row_bytes) * size_t(bmp.top_down ? y : bmp.height - 1 - y), size_t(row_bytes));
    for (size_t x = 0; x < size_t(bmp.width); ++x, to += 3) {
      const std::byte* blue_first = nullptr;
      if (bmp.bits <= 8) {
        const size_t bit = x * size_t(bmp.bits);
        const uint32_t byte = std::to_integer<uint32_t>(row[bit / 8]);
        const uint32_t index = byte >> (8 - size_t(bmp.bits) - bit % 8) & ((1u << bmp.bits) - 1);
        if (index >= bmp.palette_entries) {
          fail_input(file.what(), ": pixel of colour ", index, " in a palette of ", bmp.palette_entries);
        }
        blue_first = &palette[size_t(index * bmp.palette_entry_bytes)];
      } else if (bmp.bits == 24) {
        blue_first = &row[3 * x];
      } else {
        uint32_t value = 0;
        for (size_t i = 0; i < size_t(bmp.bits / 8); ++i) {
          value |= std::to_integer<uint32_t>(row[size_t(bmp.bits / 8) * x + i]) << (8 * i);
        }
        for (size_t c = 0; c < 3; ++c) {
          const int shift = std::countr_zero(bmp.masks[c]);
          to[c] = uint8_t(uint64_t((value & bmp.masks[c]) >> shift) * 255 / (bmp.masks[c] >> shift));
        }
        continue;
      }
      for (size_t c = 0; c < 3; ++c) to[c] = std::to_integer<uint8_t>(blue_first[2 - c]);
    }
  }
  return image;
}

}  // namespace l4
