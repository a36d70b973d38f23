// PNG and JPEG files walked from end to end before stb_image decodes them: sizes, checksums, orientation, completeness,
// and the few things stb_image trusts and should not.
#include <array>

#include "vision/image_file.h"

namespace l4 {

namespace {

// CRC-32 of PNG (ISO 3309), by bytes.
uint32_t crc32(Bytes bytes) {
  static const auto table = [] {
    std::array<uint32_t, 256> t;
    for (uint32_t n = 0; n < 256; ++n) {
      uint32_t c = n;
      for (int k = 0; k < 8; ++k) c = c & 1 ? 0xEDB88320u ^ (c >> 1) : c >> 1;
      t[n] = c;
    }
    return t;
  }();
  uint32_t crc = 0xFFFFFFFFu;
  for (std::byte b : bytes) crc = table[(crc ^ std::to_integer<uint32_t>(b)) & 0xFF] ^ (crc >> 8);
  return ~crc;
}

}  // namespace

// PNG specification (third edition) 5.3: length u32, type, data, CRC over type and data.
ImageFile inspect_png(const ByteReader& file) {
  const std::string& what = file.what();
  ImageFile info;
  info.format = ImageFormat::png;
  bool has_header = false, has_data = false;
  for (uint64_t at = 8;;) {
    const uint32_t length = file.be32(at);
    const std::string type(file.text(at + 4, 4));
    const Bytes data = file.part(at + 8, length);
    const uint32_t checksum = file.be32(at + 8 + length);
    const bool critical = (type[0] & 0x20) == 0;
    if (critical && checksum != crc32(file.part(at + 4, uint64_t(length) + 4))) {
      fail_input(what, " is damaged: wrong checksum in chunk ", shown(type));
    }
    if (type == "CgBI") fail(ErrorKind::unsupported, what, ": Apple's CgBI variant of PNG is not read");
    if (has_header == (type == "IHDR")) fail_input(what, " is damaged: chunk ", shown(type), " out of place");
    if (type == "IHDR") {
      if (length != 13) fail_input(what, " is damaged: header of ", length, " bytes, expected 13");
      has_header = true;
      info.width = file.be32(at + 8);
      info.height = file.be32(at + 12);
      const int depth = file.u8(at + 16), color = file.u8(at + 17);
      info.grey16 = depth == 16 && color == 0;
      info.decoded_pixel_bytes = depth == 16 ? 8 : 4;
    } else if (type == "IDAT") {
      has_data = true;
    } else if (type == "eXIf") {
      info.orientation = exif_orientation(data);
    } else if (type == "IEND") {
      break;
    }
    at += 12 + uint64_t(length);
  }
  if (!has_data) fail_input(what, " is damaged: no image data");
  return info;
}

namespace {

// More scans than any encoder writes; each costs a pass over all pixels, however short it is.
constexpr int kMaxScansBaseline = 4, kMaxScansProgressive = 200;

// Start of frame (ITU T.81 B.2.2): precision u8, height u16, width u16, components u8.
void read_frame(const ByteReader& file, uint8_t marker, uint64_t at, ImageFile& info, int& n_components) {
  const std::string& what = file.what();
  if (marker != 0xC0 && marker != 0xC1 && marker != 0xC2) {
    const char* kind = marker >= 0xC9 ? "arithmetic coded" : marker == 0xC3 ? "lossless" : "hierarchical";
    fail(ErrorKind::unsupported, what, ": ", kind, " JPEG is not read");
  }
  if (n_components != 0) fail_input(what, " is damaged: two frames");
  const int precision = file.u8(at);
  if (precision != 8) fail(ErrorKind::unsupported, what, ": JPEG of ", precision, " bits is not read, only of 8");
  info.height = file.be16(at + 1);
  info.width = file.be16(at + 3);
  n_components = file.u8(at + 5);
  if (n_components != 1 && n_components != 3 && n_components != 4) {
    fail_input(what, ": ", n_components, " colour components, expected 1, 3 or 4");
  }
}

// Huffman tables (B.2.4.2): stb_image writes beyond its table where the 16 counts add up to more than 256.
void check_huffman(const ByteReader& file, uint64_t at, uint64_t end) {
  while (at < end) {
    int n_codes = 0;
    for (uint64_t i = 1; i <= 16; ++i) n_codes += file.u8(at + i);
    if (n_codes > 256) fail_input(file.what(), " is damaged: Huffman table of ", n_codes, " codes");
    at += 17 + uint64_t(n_codes);
  }
}

}  // namespace

// ITU T.81 B.1.1: FF and a marker, most followed by a length u16 that counts itself; coded data after SOS (DA) ends at
// the first FF that is not followed by 00 or a restart marker. Ends at EOI (D9): what follows is not looked at.
ImageFile inspect_jpeg(const ByteReader& file) {
  const std::string& what = file.what();
  ImageFile info;
  info.format = ImageFormat::jpeg;
  info.decoded_pixel_bytes = 4;
  int n_components = 0, n_scans = 0;
  bool has_exif = false, adobe = false, progressive = false;
  for (uint64_t at = 2;;) {
    if (file.u8(at) != 0xFF) fail_input(what, " is damaged: no marker at byte ", at);
    while (file.u8(at) == 0xFF) ++at;
    const uint8_t marker = file.u8(at++);
    if (marker == 0xD9) break;
    if (marker == 0x01 || (marker >= 0xD0 && marker <= 0xD7)) continue;
    const uint16_t length = file.be16(at);
    if (marker < 0xC0 || marker == 0xD8 || length < 2) fail_input(what, " is damaged: bad marker at byte ", at - 2);
    file.need(at, length);
    const uint64_t data = at + 2, end = at + length;
    at = end;
    if (marker == 0xC4) {
      check_huffman(file, data, end);
    } else if (marker >= 0xC0 && marker <= 0xCF && marker != 0xC8 && marker != 0xCC) {
      read_frame(file, marker, data, info, n_components);
      progressive = marker == 0xC2;
    } else if (marker == 0xE1 && !has_exif && length >= 8 && file.text(data, 6) == std::string_view("Exif\0\0", 6)) {
      has_exif = true;
      info.orientation = exif_orientation(file.part(data + 6, end - data - 6));
    } else if (marker == 0xEE && length >= 14 && file.text(data, 5) == "Adobe") {
      adobe = true;
    } else if (marker == 0xDA) {
      if (n_components == 0) fail_input(what, " is damaged: image data before the frame header");
      const int most = progressive ? kMaxScansProgressive : kMaxScansBaseline;
      if (++n_scans > most) fail_input(what, ": more than ", most, " scans");
      while (file.u8(at) != 0xFF || file.u8(at + 1) == 0 || (file.u8(at + 1) >= 0xD0 && file.u8(at + 1) <= 0xD7)) ++at;
    }
  }
  if (n_scans == 0) fail_input(what, " is damaged: no image data");
  if (n_components == 4 && !adobe)
    fail(ErrorKind::unsupported, what, ": JPEG of four colours without Adobe's marker is not read");
  return info;
}

}  // namespace l4
