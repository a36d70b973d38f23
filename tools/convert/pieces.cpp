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

std::vector<Piece> cut_rows(const Item& item, int n_pieces) {
  std::vector<Piece> pieces;
  const int64_t row_bytes = item.k * int64_t(dtype_bytes(item.info->dtype));
  const int64_t each = (item.n + n_pieces - 1) / n_pieces, step = (each + kTile - 1) / kTile * kTile;
  for (int64_t begin = 0; begin < item.n; begin += step) {
    const int64_t end = std::min(begin + step, item.n);
    pieces.push_back({0, begin, end, uint64_t((end - begin) * row_bytes)});
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

template <class Visit>
void Worker::for_each_tile(const Item& item, const Piece& piece, const SourceFiles& source, const Visit& visit) {
  const DType dtype = item.info->dtype;
  const size_t row_bytes = size_t(item.k) * dtype_bytes(dtype);
  const int64_t n = piece.end - piece.begin, k = item.k;
  const std::byte* from = load(item, piece, source);
  turned_.resize(row_bytes * size_t(kTile));
  floats_.resize(size_t(k * kTile));
  for (int64_t tile = 0; tile < n; tile += kTile) {
    const int64_t rows = std::min(kTile, n - tile);
    const std::byte* lines = from + size_t(tile) * row_bytes;
    if (item.is_transposed()) {
      turn_any(dtype, from, k, n, tile, rows, turned_.data());
      lines = turned_.data();
    }
    const std::span<float> weights = std::span(floats_).first(size_t(rows * k));
    weights_to_float(lines, dtype, weights);
    for (int64_t r = 0; r < rows; ++r) {
      const std::span<const float> row = weights.subspan(size_t(r * k), size_t(k));
      if (const int64_t column = find_not_finite(row); column >= 0)
        fail_input("tensor ", shown(item.info->name), ": a weight of ", item.module, ", row ", piece.begin + tile + r,
                   ", column ", column, ", is ", std::isnan(row[size_t(column)]) ? "NaN" : "infinite");
    }
    visit(tile, rows, weights);
  }
}

// Experts that stay as they are, apart.
void Worker::keep_rows(const Item& item, const Piece& piece, const SourceFiles& source, SafetensorsWriter& out) {
  const DType dtype = item.info->dtype;
  const size_t row_bytes = size_t(item.k) * dtype_bytes(dtype);
  const int64_t n = piece.end - piece.begin;
  const std::byte* from = load(item, piece, source);
  turned_.resize(row_bytes * size_t(n));
  for (int64_t tile = 0; tile < n; tile += kTile)
    turn_any(dtype, from, item.k, n, tile, std::min(kTile, n - tile), turned_.data() + size_t(tile) * row_bytes);
  out.write_at(item.tensors[0], uint64_t(piece.begin) * row_bytes, turned_);
}

void Worker::run_fp8(const Item& item, const Piece& piece, const SourceFiles& source, SafetensorsWriter& out,
                     QuantError& error) {
  const int64_t n = piece.end - piece.begin, k = item.k;
  codes_.resize(size_t(n * k));
  scales_.resize(size_t(n));
  for_each_tile(item, piece, source, [&](int64_t first, int64_t rows, std::span<const float> weights) {
    for (int64_t r = 0; r < rows; ++r)
      scales_[size_t(first + r)] =
          quantize_fp8_row(weights.subspan(size_t(r * k), size_t(k)),
                           std::span(codes_).subspan(size_t((first + r) * k), size_t(k)), error);
  });
  out.write_at(item.tensors[0], uint64_t(piece.begin * k), bytes_of(codes_, n * k));
  out.write_at(item.tensors[1], uint64_t(piece.begin) * sizeof(BFloat16), bytes_of(scales_, n));
}

double Worker::run_int4(const Item& item, int64_t group, const Piece& piece, const SourceFiles& source,
                        const GptqFactor* factor, SafetensorsWriter& out, const Int4Place& place, QuantError& error) {
  const int64_t n = piece.end - piece.begin, k = item.k, n_scales = k / group;
  double loss = 0;
  words_.resize(size_t(n * k / 8));
  scales_.resize(size_t(n * n_scales));
  for_each_tile(item, piece, source, [&](int64_t first, int64_t rows, std::span<const float> weights) {
    const auto words = [&](int64_t row, int64_t count) {
      return std::span(words_).subspan(size_t(row * k / 8), size_t(count * k / 8));
    };
    const auto scales = [&](int64_t row, int64_t count) {
      return std::span(scales_).subspan(size_t(row * n_scales), size_t(count * n_scales));
    };
    if (factor) {
      loss += factor->quantize_rows(weights, group, words(first, rows), scales(first, rows), error);
      return;
    }
    for (int64_t r = 0; r < rows; ++r)
      quantize_int4_row(weights.subspan(size_t(r * k), size_t(k)), group, words(first + r, 1), scales(first + r, 1),
                        error);
  });
  out.write_at(place.words, uint64_t(piece.begin * k / 2), bytes_of(words_, n * k / 8));
  out.write_at(place.scales, uint64_t(piece.begin * n_scales) * sizeof(BFloat16), bytes_of(scales_, n * n_scales));
  return loss;
}

void Worker::copy_int4(const Item& item, int64_t group, const Piece& piece, const CalibratedLinear& from,
                       SafetensorsWriter& out) {
  const uint64_t begin = uint64_t(piece.begin), rows = uint64_t(piece.end - piece.begin), k = uint64_t(item.k);
  const auto copy = [&](const char* tensor, size_t to, uint64_t row_bytes) {
    const TensorInfo* info = from.file->find(item.module + tensor);
    L4_CHECK(info && info->bytes == uint64_t(item.n) * row_bytes, item.module, tensor);
    const std::span<std::byte> bytes = buffer(rows * row_bytes).first(rows * row_bytes);
    from.file->read(*info, begin * row_bytes, bytes);
    out.write_at(to, begin * row_bytes, bytes);
  };
  copy(".weight_packed", item.tensors[0], k / 2);
  copy(".weight_scale", item.tensors[1], k / uint64_t(group) * sizeof(BFloat16));
}

QuantError Worker::run(const Plan& plan, const Piece& piece, const SourceFiles& source, const Calibration& calibration,
                       SafetensorsWriter& out) {
  const Item& item = plan.items[piece.item];
  QuantError error;
  switch (item.scheme) {
    case Scheme::keep:
      if (item.is_transposed()) {
        keep_rows(item, piece, source, out);
      } else {
        const std::byte* from = load(item, piece, source);
        out.write_at(item.tensors[0], uint64_t(piece.begin), {from, size_t(piece.end - piece.begin)});
      }
      break;
    case Scheme::fp8:
      run_fp8(item, piece, source, out, error);
      break;
    case Scheme::int4:
      if (const CalibratedLinear* made = calibration.find(item.module)) {
        copy_int4(item, plan.recipe.group, piece, *made, out);
        if (piece.begin == 0) error = made->error;
      } else {
        run_int4(item, plan.recipe.group, piece, source, nullptr, out, {item.tensors[0], item.tensors[1]}, error);
      }
      if (piece.begin == 0) {
        const int64_t shape[2] = {item.n, item.k};
        out.write_at(item.tensors[2], 0, std::as_bytes(std::span(shape)));
      }
      break;
  }
  return error;
}

}  // namespace l4::convert
