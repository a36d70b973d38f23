#include "formats/npy.h"

#include <cstring>

#include "base/error.h"
#include "base/strings.h"

namespace l4 {

namespace {

constexpr size_t kHeaderBytes = 128;  // magic 6, version 2, length 2, text padded to a multiple of 64 in all
constexpr char kMagic[] = "\x93NUMPY\x01\x00";
constexpr size_t kMagicBytes = 8;

std::string header_text(int64_t rows, int64_t cols) {
  std::string text = cat("{'descr': '<f4', 'fortran_order': False, 'shape': (", rows, ", ", cols, "), }");
  text.resize(kHeaderBytes - kMagicBytes - 2 - 1, ' ');
  return text + "\n";
}

std::string header(int64_t rows, int64_t cols) {
  std::string text = header_text(rows, cols);
  std::string out(kMagic, kMagicBytes);
  out.push_back(char(text.size() & 0xFF));
  out.push_back(char(text.size() >> 8));
  return out + text;
}

// "(ROWS, COLS)" out of the header's text.
void read_shape(std::string_view text, const std::string& source, int64_t& rows, int64_t& cols) {
  size_t key = text.find("'shape': ("), begin = key + std::string_view("'shape': (").size();
  size_t end = key == std::string_view::npos ? key : text.find(')', begin);
  std::vector<std::string> parts;
  if (end != std::string_view::npos) parts = split(text.substr(begin, end - begin), ',');
  std::optional<int64_t> first, second;
  if (parts.size() == 2) first = parse_int(trim(parts[0])), second = parse_int(trim(parts[1]));
  if (!first || !second || *first < 0 || *second < 0)
    fail_input(source, ": .npy header: expected a shape of two numbers, found ", shown(text));
  rows = *first;
  cols = *second;
}

}  // namespace

NpyWriter::NpyWriter(const fs::path& path, int64_t cols) : file_(path), cols_(cols) {
  L4_CHECK(cols > 0);
  file_.write(header(0, cols));
}

void NpyWriter::append(std::span<const float> rows) {
  L4_CHECK(rows.size() % size_t(cols_) == 0, rows.size(), " values in rows of ", cols_);
  file_.write(std::as_bytes(rows));
  rows_ += int64_t(rows.size()) / cols_;
}

void NpyWriter::finish() {
  const std::string final_header = header(rows_, cols_);
  file_.write_at(0, std::as_bytes(std::span(final_header)));
  file_.commit();
}

void write_npy(const fs::path& path, std::span<const float> values, int64_t rows, int64_t cols) {
  L4_CHECK(int64_t(values.size()) == rows * cols);
  NpyWriter out(path, cols);
  out.append(values);
  out.finish();
}

NpyReader::NpyReader(const fs::path& path) : file_(path) {
  const std::string source = path.string();
  std::span<const std::byte> bytes = file_.bytes();
  if (bytes.size() < kMagicBytes + 2 || std::memcmp(bytes.data(), kMagic, kMagicBytes) != 0)
    fail_input(source, ": not a .npy file of version 1.0");
  size_t text_bytes = size_t(bytes[kMagicBytes]) | size_t(bytes[kMagicBytes + 1]) << 8;
  if (bytes.size() - kMagicBytes - 2 < text_bytes) fail_input(source, ": .npy header is cut off");
  std::string_view text(reinterpret_cast<const char*>(bytes.data()) + kMagicBytes + 2, text_bytes);
  if (text.find("'<f4'") == std::string_view::npos || text.find("'fortran_order': False") == std::string_view::npos)
    fail_input(source, ": .npy header: expected '<f4' in C order, found ", shown(text));
  read_shape(text, source, rows_, cols_);
  data_offset_ = kMagicBytes + 2 + text_bytes;
  const uint64_t data_bytes = bytes.size() - data_offset_;
  int64_t n = 0;
  if (__builtin_mul_overflow(rows_, cols_, &n) || data_bytes % sizeof(float) != 0 ||
      data_bytes / sizeof(float) != uint64_t(n))
    fail_input(source, ": ", rows_, " x ", cols_, " floats announced, ", data_bytes, " bytes found");
}

void NpyReader::read(int64_t first, std::span<float> rows) const {
  L4_CHECK(first >= 0 && uint64_t(first) * uint64_t(cols_) + rows.size() <= uint64_t(rows_) * uint64_t(cols_));
  file_.read_at(data_offset_ + uint64_t(first) * uint64_t(cols_) * sizeof(float), std::as_writable_bytes(rows));
}

NpyMatrix read_npy(const fs::path& path) {
  const NpyReader reader(path);
  NpyMatrix out{reader.rows(), reader.cols(), {}};
  out.values.resize(size_t(out.rows * out.cols));
  reader.read(0, out.values);
  return out;
}

}  // namespace l4
