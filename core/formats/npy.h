// NumPy's .npy, version 1.0, little-endian float32 matrices: how logits leave the suite.
// Format: numpy.org/neps/nep-0001-npy-format.html
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/file.h"

namespace l4 {

// Rows are appended as they are computed; the count goes into the header at finish(). Until then the file has a
// temporary name, which is removed when the writer goes away unfinished.
class NpyWriter {
 public:
  NpyWriter(const fs::path& path, int64_t cols);
  void append(std::span<const float> rows);  // whole rows
  void finish();
  int64_t rows() const { return rows_; }

 private:
  AtomicFile file_;
  int64_t rows_ = 0, cols_ = 0;
};

void write_npy(const fs::path& path, std::span<const float> values, int64_t rows, int64_t cols);

// Rows of such a file, or of one that numpy.save wrote of a C-ordered float32 matrix, without the others in memory.
class NpyReader {
 public:
  explicit NpyReader(const fs::path& path);  // Error{io | input} naming the file
  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  // Whole rows, from `first` on. Error{input} where the file has lost them since.
  void read(int64_t first, std::span<float> rows) const;
  const fs::path& path() const { return file_.path(); }

 private:
  MappedFile file_;
  int64_t rows_ = 0, cols_ = 0;
  uint64_t data_offset_ = 0;
};

struct NpyMatrix {
  int64_t rows = 0, cols = 0;
  std::vector<float> values;  // [rows, cols]
};
NpyMatrix read_npy(const fs::path& path);

}  // namespace l4
