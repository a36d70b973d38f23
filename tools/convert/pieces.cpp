#include "tools/convert/pieces.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/error.h"

namespace l4::convert {

namespace {

// Rows of the result that are turned at once: a cache line of each row of the source.
constexpr int64_t kTile = 32;

// `from` is [k, columns]; columns [begin, begin + n) of it become rows: to[n, k].
template <class Element>
void turn(const std::byte* from, int64_t k, int64_t columns, int64_t begin, int64_t n, Element* to) {
  constexpr int64_t kRows = 16;
  Element block[kTile][kRows];
  for (int64_t r = 0; r < k; r += kRows) {
    const int64_t rows = std::min(kRows, k - r);
    for (int64_t i = 0; i < rows; ++i) {
      Element line[kTile];
      std::memcpy(line, from + size_t((r + i) * columns + begin) * sizeof(Element), size_t(n) * sizeof(Element));
      for (int64_t c = 0; c < n; ++c) block[c][i] = line[c];
    }
    for (int64_t c = 0; c < n; ++c) std::memcpy(to + c * k + r, block[c], size_t(rows) * sizeof(Element));
  }
}

void turn_any(DType dtype, const std::byte* from, int64_t k, int64_t columns, int64_t begin, int64_t n, std::byte* to) {
  if (dtype_bytes(dtype) == 2)
    turn(from, k, columns, begin, n, reinterpret_cast<uint16_t*>(to));
  else
    turn(from, k, columns, begin, n, reinterpret_cast<uint32_t*>(to));
}

template <class T>
std::span<const std::byte> bytes_of(const std::vector<T>& values, int64_t n) {
  return std::as_bytes(std::span(values).first(size_t(n)));
}

}  // namespace

std::vector<Piece> cut(const Plan& plan, const OutputShard& shard, int64_t piece_bytes) {
  std::vector<Piece> pieces;
  for (const size_t index : shard.items) {
    const Item& item = plan.items[index];
    const int64_t element = int64_t(dtype_bytes(item.info->dtype));
    const bool copied = item.scheme == Scheme::keep && !item.is_transposed();
    const int64_t n = copied ? int64_t(item.info->bytes) : item.n, each = copied ? 1 : item.k * element;
    int64_t step = std::max<int64_t>(piece_bytes / std::max<int64_t>(each, 1), 1);
    if (item.is_transposed()) step = std::max(step / kTile * kTile, kTile);
    for (int64_t begin = 0; begin < n; begin += step) {
      const int64_t end = std::min(begin + step, n);
      pieces.push_back({index, begin, end, uint64_t((end - begin) * each)});
    }
  }
  return pieces;
}

SourceFiles::SourceFiles(const HfCheckpoint& source) {
  for (const std::string& name : source.names()) {
    const TensorInfo& info = *source.find(name);
    if (info.file >= files_.size()) files_.resize(info.file + 1);
    if (!files_[info.file]) files_[info.file] = std::make_unique<DirectFile>(source.shard(info).file());
  }
}

const std::byte* SourceFiles::read(const TensorInfo& info, uint64_t offset, size_t n,
                                   std::span<std::byte> buffer) const {
  return files_[info.file]->read(info.begin + offset, n, buffer);
}

void SourceFiles::read_runs(const TensorInfo& info, uint64_t offset, size_t run, uint64_t stride,
                            std::span<std::byte> out) const {
  files_[info.file]->read_runs(info.begin + offset, run, stride, out);
}

std::span<std::byte> Worker::buffer(size_t bytes) {
  const size_t room = bytes + 3 * DirectFile::kAlign;
  if (memory_.size() < room) memory_.resize(room);
  const size_t skip = (0 - reinterpret_cast<uintptr_t>(memory_.data())) % DirectFile::kAlign;
  return std::span(memory_).subspan(skip, bytes + 2 * DirectFile::kAlign);
}

const std::byte* Worker::load(const Item& item, const Piece& piece, const SourceFiles& source) {
  const uint64_t element = dtype_bytes(item.info->dtype);
  const std::span<std::byte> room = buffer(piece.source_bytes);
  if (!item.is_transposed()) {
    const uint64_t row = item.scheme == Scheme::keep ? 1 : uint64_t(item.k) * element;
    return source.read(*item.info, uint64_t(piece.begin) * row, piece.source_bytes, room);
  }
  const uint64_t width = uint64_t(item.info->shape[2]);  // [E, k, width]
  const uint64_t first = uint64_t(item.expert) * uint64_t(item.k) * width + uint64_t(item.first_column + piece.begin);
  source.read_runs(*item.info, first * element, size_t(piece.end - piece.begin) * element, width * element,
                   room.first(piece.source_bytes));
  return room.data();
}

void Worker::quantize_row(const Item& item, int64_t group, int64_t row, int64_t in_piece, const float* weights,
                          QuantError& error) {
  const size_t k = size_t(item.k);
  const std::span<const float> w(weights, k);
  if (const int64_t column = find_not_finite(w); column >= 0)
    fail_input("tensor ", shown(item.info->name), ": a weight of ", item.module, ", row ", row, ", column ", column,
               ", is ", std::isnan(w[size_t(column)]) ? "NaN" : "infinite");
  if (item.scheme == Scheme::fp8) {
    scales_[size_t(in_piece)] = quantize_fp8_row(w, std::span(codes_).subspan(size_t(in_piece) * k, k), error);
    return;
  }
  const size_t n_scales = k / size_t(group);
  quantize_int4_row(w, group, std::span(words_).subspan(size_t(in_piece) * k / 8, k / 8),
                    std::span(scales_).subspan(size_t(in_piece) * n_scales, n_scales), error);
}

QuantError Worker::run(const Plan& plan, const Piece& piece, const SourceFiles& source, SafetensorsWriter& out) {
  const Item& item = plan.items[piece.item];
  const DType dtype = item.info->dtype;
  const size_t element = dtype_bytes(dtype);
  const int64_t n = piece.end - piece.begin, k = item.k;
  const std::byte* from = load(item, piece, source);
  QuantError error;
  if (item.scheme == Scheme::keep && !item.is_transposed()) {
    out.write_at(item.tensors[0], uint64_t(piece.begin), {from, size_t(n)});
    return error;
  }

  const bool keep = item.scheme == Scheme::keep;
  const int64_t n_scales = item.scheme == Scheme::int4 ? k / plan.recipe.group : 1;
  turned_.resize(size_t(k) * element * size_t(keep ? n : kTile));
  floats_.resize(size_t(k));
  scales_.resize(size_t(n * n_scales));
  if (item.scheme == Scheme::fp8) codes_.resize(size_t(n * k));
  if (item.scheme == Scheme::int4) words_.resize(size_t(n * k / 8));
  for (int64_t tile = 0; tile < n; tile += kTile) {
    const int64_t rows = std::min(kTile, n - tile);
    const std::byte* lines = from + size_t(tile * k) * element;
    if (item.is_transposed()) {
      std::byte* to = turned_.data() + (keep ? size_t(tile * k) * element : 0);
      turn_any(dtype, from, k, n, tile, rows, to);
      lines = to;
    }
    for (int64_t r = 0; r < rows && !keep; ++r) {
      weights_to_float(lines + size_t(r * k) * element, dtype, floats_);
      quantize_row(item, plan.recipe.group, piece.begin + tile + r, tile + r, floats_.data(), error);
    }
  }

  const uint64_t begin = uint64_t(piece.begin), width = uint64_t(k);
  if (keep) {
    out.write_at(item.tensors[0], begin * width * element, turned_);
    return error;
  }
  if (item.scheme == Scheme::fp8)
    out.write_at(item.tensors[0], begin * width, bytes_of(codes_, n * k));
  else
    out.write_at(item.tensors[0], begin * width / 2, bytes_of(words_, n * k / 8));
  out.write_at(item.tensors[1], begin * uint64_t(n_scales) * sizeof(BFloat16), bytes_of(scales_, n * n_scales));
  if (item.scheme == Scheme::int4 && piece.begin == 0) {
    const int64_t shape[2] = {item.n, k};
    out.write_at(item.tensors[2], 0, std::as_bytes(std::span(shape)));
  }
  return error;
}

}  // namespace l4::convert
