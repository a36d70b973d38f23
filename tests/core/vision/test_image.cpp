#include "vision/image.h"

#include <algorithm>

#include "vision_golden.h"

using namespace l4;
using namespace l4::test;

namespace {

using FileBytes = std::vector<std::byte>;

FileBytes bytes_of(std::string_view text) {
  FileBytes bytes(text.size());
  std::transform(text.begin(), text.end(), bytes.begin(), [](char c) { return std::byte(c); });
  return bytes;
}
FileBytes golden_file(const std::string& name) {
  return bytes_of(read_file(golden("vision/files/" + name), 1 << 20));
}
std::string refusal(const FileBytes& bytes, const ImageLimits& limits = {}) {
  return error_of([&] { decode_image(bytes, "x", limits); });
}
bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// Either an l4::Error or a picture of the promised size; anything else (a crash, another exception) fails the test.
bool decodes(const FileBytes& bytes, const ImageLimits& limits = {}) {
  try {
    const Image image = decode_image(bytes, "x", limits);
    REQUIRE(image.height >= 1);
    REQUIRE(image.width >= 1);
    REQUIRE(int64_t(image.rgb.size()) == image.height * image.width * 3);
    return true;
  } catch (const Error& e) {
    REQUIRE(e.kind() != ErrorKind::internal);
    REQUIRE(!contains(e.message(), "\n"));
    return false;
  }
}

void put(FileBytes& bytes, size_t at, std::initializer_list<int> values) {
  for (int value : values) bytes.at(at++) = std::byte(value);
}
uint32_t crc_of(std::span<const std::byte> bytes) {
  uint32_t crc = ~0u;
  for (std::byte b : bytes) {
    crc ^= std::to_integer<uint32_t>(b);
    for (int k = 0; k < 8; ++k) crc = crc & 1 ? 0xEDB88320u ^ (crc >> 1) : crc >> 1;
  }
  return ~crc;
}
// Sets width and height in a PNG and mends the checksum of its header.
FileBytes png_of_size(FileBytes png, uint32_t width, uint32_t height) {
  const auto put32 = [&](size_t at, uint32_t n) {
    put(png, at, {int(n >> 24), int(n >> 16 & 255), int(n >> 8 & 255), int(n & 255)});
  };
  put32(16, width);
  put32(20, height);
  put32(29, crc_of(std::span(png).subspan(12, 17)));
  return png;
}

}  // namespace

// PNG, BMP and WebP as Pillow, to the bit. JPEG: by as much as stb_image and libjpeg-turbo differ on these files: 2
// levels, and 6 beside the right edge of the 4:2:2 one.
TEST_CASE("image: every kind of file decodes as Pillow's") {
  size_t n_files = 0;
  for (const Json& one : golden_cases("decoded.json")) {
    const std::string name = one.find("file")->as_string();
    CAPTURE(name);
    const FileBytes bytes = golden_file(name);
    const ImageInfo info = read_image_info(bytes, name);
    const Image image = decode_image(bytes, name);
    REQUIRE(image.height == integer(one, "height"));
    REQUIRE(image.width == integer(one, "width"));
    CHECK(info.height == image.height);
    CHECK(info.width == image.width);
    const std::string& wanted = one.find("rgb")->as_string();
    const std::string found = to_hex(image.rgb);
    REQUIRE(found.size() == wanted.size());
    if (info.format != ImageFormat::jpeg) {
      CHECK(found == wanted);
    } else {
      int most = 0;
      for (size_t i = 0; i < image.rgb.size(); ++i) {
        most = std::max(most, std::abs(int(image.rgb[i]) - std::stoi(wanted.substr(2 * i, 2), nullptr, 16)));
      }
      CHECK(most <= (name == "plain_422.jpg" ? 6 : 2));
    }
    ++n_files;
  }
  CHECK(n_files >= 80);
}

TEST_CASE("image: the orientation is read where it stands") {
  for (const char* kind : {"jpg", "png", "webp"}) {
    for (int turn = 1; turn <= 8; ++turn) {
      const std::string name = cat("turn", turn, ".", kind);
      CAPTURE(name);
      CHECK(read_image_info(golden_file(name), name).orientation == turn);
    }
  }
}

TEST_CASE("image: other formats are refused by name") {
  const auto refused = [](std::string_view bytes) { return refusal(bytes_of(bytes)); };
  using namespace std::string_view_literals;
  CHECK(refused("GIF89a\x01\0\x01\0"sv) == "x: this is GIF; only PNG, JPEG, WebP and BMP are read");
  CHECK(contains(refused("II*\0\x08\0\0\0"sv), "this is TIFF;"));
  CHECK(contains(refused("MM\0*\0\0\0\x08"sv), "this is TIFF;"));
  CHECK(contains(refused("\0\0\0\x20"
                         "ftypavif\0\0\0\0"sv),
                 "this is AVIF;"));
  CHECK(contains(refused("\0\0\0\x20"
                         "ftypheic\0\0\0\0"sv),
                 "this is HEIC;"));
  CHECK(contains(refused("\0\0\0\x20"
                         "ftypisom\0\0\0\0"sv),
                 "this is MP4;"));
  CHECK(contains(refused("%PDF-1.7"), "this is PDF;"));
  CHECK(contains(refused("  <svg xmlns='http://www.w3.org/2000/svg'>"), "this is SVG;"));
  CHECK(contains(refused("<?xml version='1.0'?><!-- x --><SVG>"), "this is SVG;"));
  CHECK(contains(refused("<!DOCTYPE html><html>"), "this is HTML;"));
  CHECK(contains(refused("\0\0\0\x0CJXL \r\n\x87\n"sv), "this is JPEG XL;"));
  CHECK(contains(refused("data:image/png;base64,iVBORw0"), "this is a data: URL"));
  CHECK(refused("hello") == "x: unknown image format; only PNG, JPEG, WebP and BMP are read");
  CHECK(refused("") == "x: the image is empty (0 bytes)");
}

TEST_CASE("image: limits hold before anything is decoded") {
  const FileBytes png = golden_file("rgb8.png");
  CHECK(contains(refusal(png, {100, 1000}), "is over the limit of 100 B"));
  CHECK(refusal(png, {1 << 20, 272}) == "x: PNG of 21x13 pixels is over the limit of 272");
  CHECK(decodes(png, {1 << 20, 273}));
  for (const char* name : {"plain_420.jpg", "rgb24.bmp", "lossy.webp"}) {
    CHECK(contains(refusal(golden_file(name), {1 << 20, 272}), "is over the limit of 272"));
  }
  CHECK(contains(refusal(png_of_size(png, 65535, 65535)), "over the limit of 50,000,000"));
  CHECK(contains(refusal(png_of_size(png, 0x7FFFFFFF, 1)), "sides may have 65535 at most"));
  CHECK(contains(refusal(png_of_size(png, 0xFFFFFFFF, 0xFFFFFFFF)), "sides may have 65535 at most"));
  CHECK(contains(refusal(png_of_size(png, 0, 13)), "is empty"));
  CHECK(contains(refusal(png_of_size(png, 21, 0)), "is empty"));
}

TEST_CASE("image: a file cut short is an error at every length") {
  for (const Json& one : golden_cases("decoded.json")) {
    const std::string name = one.find("file")->as_string();
    const FileBytes whole = golden_file(name);
    for (size_t sixteenth = 0; sixteenth < 16; ++sixteenth) {
      CAPTURE(name);
      CAPTURE(sixteenth);
      CHECK(!decodes(FileBytes(whole.begin(), whole.begin() + ptrdiff_t(whole.size() * sixteenth / 16))));
    }
  }
  for (const char* name : {"rgb8.png", "plain_420.jpg", "palette8.bmp", "lossy.webp", "lossless_alpha.webp"}) {
    const FileBytes whole = golden_file(name);
    for (size_t n = 0; n < whole.size(); ++n) {
      CAPTURE(name);
      CAPTURE(n);
      CHECK(!decodes(FileBytes(whole.begin(), whole.begin() + ptrdiff_t(n))));
    }
  }
}

TEST_CASE("image: damaged bytes give an error or a picture, never a crash") {
  uint64_t state = 1;
  const auto next = [&] { return (state = state * 6364136223846793005u + 1442695040888963407u) >> 33; };
  const ImageLimits limits{1 << 20, 100000};
  for (const Json& one : golden_cases("decoded.json")) {
    const FileBytes whole = golden_file(one.find("file")->as_string());
    for (int round = 0; round < 60; ++round) {
      FileBytes bytes = whole;
      for (uint64_t n = 1 + next() % 4; n > 0; --n) bytes[next() % bytes.size()] = std::byte(next());
      decodes(bytes, limits);
    }
  }
}

TEST_CASE("image: PNG that lies") {
  const FileBytes png = golden_file("rgb8.png");
  CHECK(contains(refusal(png_of_size(png, 21, 200)), "damaged"));  // more rows than there is data for
  CHECK(contains(refusal(png_of_size(png, 200, 13)), "damaged"));
  FileBytes bad_checksum = png;
  put(bad_checksum, 45, {0x55});
  CHECK(contains(refusal(bad_checksum), "wrong checksum in chunk \"IDAT\""));
  FileBytes two_headers = png;
  two_headers.insert(two_headers.begin() + 33, png.begin() + 8, png.begin() + 33);
  CHECK(contains(refusal(two_headers), "\"IHDR\" out of place"));
  FileBytes long_chunk = png;
  put(long_chunk, 33, {0xFF, 0xFF, 0xFF, 0xFF});
  CHECK(contains(refusal(long_chunk), "truncated"));
}

// 64 MB of zeros in some 60 kB, under a header of 1x1: stored as stb_image's own deflate would unpack it.
TEST_CASE("image: PNG that unpacks to more than its header says") {
  // One deflate block with fixed codes (RFC 1951 3.2.6): a zero, then runs of 258 zeros (length code 285: 11000101,
  // distance 1: 00000), then the end.
  std::vector<uint8_t> zlib = {0x78, 0x01};
  uint32_t held = 0;
  int n_held = 0;
  const auto bits_msb_first = [&](uint32_t code, int n) {
    for (int i = n - 1; i >= 0; --i) {
      held |= (code >> i & 1) << n_held;
      if (++n_held == 8) zlib.push_back(uint8_t(held)), held = 0, n_held = 0;
    }
  };
  bits_msb_first(0b1, 1);   // last block
  bits_msb_first(0b10, 2);  // fixed codes (01, least bit first)
  bits_msb_first(0b00110000, 8);
  for (int i = 0; i < 250000; ++i) {
    bits_msb_first(0b11000101, 8);
    bits_msb_first(0, 5);
  }
  bits_msb_first(0, 7);
  bits_msb_first(0, 7);
  zlib.insert(zlib.end(), 4, 0);

  FileBytes png = png_of_size(golden_file("rgb8.png"), 1, 1);
  png.resize(33);
  const auto add32 = [&](size_t n) {
    for (int s = 24; s >= 0; s -= 8) png.push_back(std::byte(n >> s & 255));
  };
  add32(zlib.size());
  const size_t begin = png.size();
  for (char c : std::string("IDAT")) png.push_back(std::byte(c));
  for (uint8_t b : zlib) png.push_back(std::byte(b));
  add32(crc_of(std::span(png).subspan(begin)));
  const FileBytes end = golden_file("rgb8.png");
  png.insert(png.end(), end.end() - 12, end.end());
  CHECK(contains(refusal(png), "unpacks to more than its header says"));
}

TEST_CASE("image: JPEG that lies") {
  const FileBytes jpeg = golden_file("plain_420.jpg");
  const auto find_marker = [&](int marker) {
    for (size_t at = 2; at + 1 < jpeg.size(); ++at) {
      if (jpeg[at] == std::byte(0xFF) && jpeg[at + 1] == std::byte(marker)) return at;
    }
    FAIL("no such marker");
    return size_t(0);
  };
  const size_t frame = find_marker(0xC0), huffman = find_marker(0xC4), scan = find_marker(0xDA);
  const auto with = [&](size_t at, std::initializer_list<int> values) {
    FileBytes changed = jpeg;
    put(changed, at, values);
    return changed;
  };
  CHECK(contains(refusal(with(frame + 5, {0xFF, 0xFF, 0xFF, 0xFF})), "over the limit"));
  CHECK(contains(refusal(with(frame + 5, {0, 0})), "is empty"));
  CHECK(contains(refusal(with(frame + 1, {0xC9})), "arithmetic coded JPEG is not read"));
  CHECK(contains(refusal(with(frame + 1, {0xC3})), "lossless JPEG is not read"));
  CHECK(contains(refusal(with(frame + 4, {12})), "JPEG of 12 bits is not read"));
  CHECK(contains(refusal(with(frame + 9, {2})), "2 colour components"));
  CHECK(contains(refusal(with(huffman + 5, {200, 200})), "Huffman table of"));
  FileBytes scans(jpeg.begin(), jpeg.end() - 2);
  for (int i = 0; i < 5; ++i) scans.insert(scans.end(), jpeg.begin() + ptrdiff_t(scan), jpeg.end() - 2);
  scans.insert(scans.end(), jpeg.end() - 2, jpeg.end());
  CHECK(contains(refusal(scans), "more than 4 scans"));
  CHECK(refusal(bytes_of("\xFF\xD8\xFF\xD9")) == "x: JPEG is damaged: no image data");
}

TEST_CASE("image: BMP that lies") {
  const FileBytes bmp = golden_file("palette8_of_20.bmp");
  const auto with = [&](size_t at, std::initializer_list<int> values) {
    FileBytes changed = bmp;
    put(changed, at, values);
    return refusal(changed);
  };
  CHECK(contains(with(10, {0xF0, 0xFF, 0xFF, 0xFF}), "truncated"));  // pixels beyond the end
  CHECK(contains(with(10, {20, 0, 0, 0}), "pixels begin inside the header"));
  CHECK(contains(with(14, {77}), "unknown header of 77 bytes"));
  CHECK(contains(with(18, {0, 0, 0, 0}), "is empty"));
  CHECK(contains(with(18, {0xFF, 0xFF, 0xFF, 0xFF}), "is empty"));  // negative width
  CHECK(contains(with(22, {0, 0, 0, 0x80}), "sides may have"));     // height -2^31
  CHECK(contains(with(22, {14, 0, 0, 0}), "truncated"));            // a row more than there is
  CHECK(contains(with(28, {7}), "7 bits a pixel"));
  CHECK(contains(with(30, {1}), "run-length encoded BMP is not read"));
  CHECK(contains(with(46, {0, 0, 0, 1}), "palette entries for 8 bits"));
  CHECK(contains(with(46, {10}), "in a palette of 10"));
}

TEST_CASE("image: WebP that lies") {
  const FileBytes webp = golden_file("turn1.webp");  // VP8X, VP8L, EXIF
  const auto with = [&](size_t at, std::initializer_list<int> values) {
    FileBytes changed = webp;
    put(changed, at, values);
    return refusal(changed);
  };
  CHECK(contains(with(4, {0xFF, 0xFF, 0xFF, 0x7F}), "truncated"));
  CHECK(contains(with(20, {0x02}), "animated WebP is not read"));
  CHECK(contains(with(24, {0xFF, 0xFF, 0xFF}), "damaged"));  // canvas of 2^24 pixels over a picture of 21
}

TEST_CASE("image: broken EXIF data counts as none") {
  const FileBytes jpeg = golden_file("turn6.jpg");
  const std::string_view text(reinterpret_cast<const char*>(jpeg.data()), jpeg.size());
  const size_t tiff = text.find(std::string_view("Exif\0\0", 6)) + 6;
  REQUIRE(read_image_info(jpeg, "x").orientation == 6);
  const auto orientation = [&](size_t at, std::initializer_list<int> values) {
    FileBytes changed = jpeg;
    put(changed, tiff + at, values);
    CHECK(decodes(changed));
    return read_image_info(changed, "x").orientation;
  };
  const auto number_at = [&](size_t at) { return std::to_integer<int>(jpeg[tiff + at]); };
  REQUIRE(number_at(0) == 'I');  // little-endian; the directory at 8 has one entry, at 10
  CHECK(orientation(0, {'X'}) == 1);
  CHECK(orientation(4, {0xFF, 0xFF, 0xFF, 0xFF}) == 1);  // directory far outside
  CHECK(orientation(4, {25, 0, 0, 0}) == 1);             // directory at the very end
  CHECK(orientation(4, {0, 0, 0, 0}) == 1);              // directory over the header itself
  CHECK(orientation(8, {0xFF, 0xFF}) == 6);              // more entries than there are: those that are there count
  CHECK(orientation(18, {9, 0}) == 1);
  CHECK(orientation(18, {0, 0}) == 1);
  CHECK(orientation(12, {2, 0}) == 1);        // of another type
  CHECK(orientation(22, {8, 0, 0, 0}) == 6);  // the next directory is this one
}

TEST_CASE("image: ChartQA's charts") {
  const auto folder = shared_data("chartqa/png");
  size_t n_files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const MappedFile file(entry.path());
    const ImageInfo info = read_image_info(file.bytes(), entry.path().string());
    CHECK(info.format == ImageFormat::png);
    if (n_files++ % 20 == 0) {
      const Image image = decode_image(file.bytes(), entry.path().string());
      CHECK(image.height == info.height);
      CHECK(image.width == info.width);
    }
  }
  CHECK(n_files == 314);
}
