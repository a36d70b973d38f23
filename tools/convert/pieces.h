// The work itself, in pieces of a few megabytes: read, quantise, write to their place. Any number of threads at once,
// and the same bytes whatever their number.
#pragma once

#include <memory>
#include <vector>

#include "base/direct_file.h"
#include "quant/gptq.h"
#include "quant/quantize.h"
#include "tools/common/conversion_plan.h"
#include "tools/convert/calibration.h"

namespace l4::convert {

// Rows [begin, end) of a linear of the result; bytes of a tensor that is copied.
struct Piece {
  size_t item = 0;
  int64_t begin = 0, end = 0;
  uint64_t source_bytes = 0;
};

// All of a file's work, in the order of the source, in pieces that take about so many bytes of it.
std::vector<Piece> cut(const Plan& plan, const OutputShard& shard, int64_t piece_bytes);

// Rows of a linear, in about so many pieces.
std::vector<Piece> cut_rows(const Item& item, int n_pieces);

// The source's files, to be read by any thread.
class SourceFiles {
 public:
  explicit SourceFiles(const HfCheckpoint& source);
  // Bytes [offset, offset + n) of a tensor; the pointer is into `buffer`, with no particular alignment.
  const std::byte* read(const TensorInfo& info, uint64_t offset, size_t n, std::span<std::byte> buffer) const;
  void read_runs(const TensorInfo& info, uint64_t offset, size_t run, uint64_t stride, std::span<std::byte> out) const;

 private:
  std::vector<std::unique_ptr<DirectFile>> files_;
};

// Where a linear's words and scales go: tensors of a file.
struct Int4Place {
  size_t words, scales;
};

// One thread's buffers.
class Worker {
 public:
  // Converts a piece into the file that the plan has for it, from the source or, where text decided it, from what
  // calibration made. Error{input} naming tensor, row and column of a weight that is not finite.
  QuantError run(const Plan& plan, const Piece& piece, const SourceFiles& source, const Calibration& calibration,
                 SafetensorsWriter& out);
  // A piece of a linear to INT4: by `factor`, or rounded where there is none. Returns what quantize_rows() does.
  double run_int4(const Item& item, int64_t group, const Piece& piece, const SourceFiles& source,
                  const GptqFactor* factor, SafetensorsWriter& out, const Int4Place& place, QuantError& error);

 private:
  std::span<std::byte> buffer(size_t bytes);
  const std::byte* load(const Item& item, const Piece& piece, const SourceFiles& source);
  // Calls visit(first, rows, weights [rows, k]) for one tile of the piece's rows after the other.
  template <class Visit>
  void for_each_tile(const Item& item, const Piece& piece, const SourceFiles& source, const Visit& visit);
  void keep_rows(const Item& item, const Piece& piece, const SourceFiles& source, SafetensorsWriter& out);
  void run_fp8(const Item& item, const Piece& piece, const SourceFiles& source, SafetensorsWriter& out,
               QuantError& error);
  void copy_int4(const Item& item, int64_t group, const Piece& piece, const CalibratedLinear& from,
                 SafetensorsWriter& out);

  std::vector<std::byte> memory_, turned_;
  std::vector<float> floats_;
  std::vector<uint8_t> codes_;
  std::vector<uint32_t> words_;
  std::vector<BFloat16> scales_;
};

}  // namespace l4::convert
