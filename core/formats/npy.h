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

struct NpyMatrix {
  int64_t rows = 0, cols = 0;
  std::vector<float> values;  // [rows, cols]
};
// Reads what NpyWriter or numpy.save of a C-ordered float32 matrix wrote. Error{input} naming the file.
NpyMatrix read_npy(const fs::path& path);

}  // namespace l4
