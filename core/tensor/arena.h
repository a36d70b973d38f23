// Bump allocation of one step's activations from one buffer: nothing is allocated inside a step, everything is
// forgotten at once at its end. A model's peak is found by running its plan on a measuring arena (no buffer).
#pragma once

#include <algorithm>

#include "tensor/buffer.h"

namespace l4 {

class Arena {
 public:
  static constexpr size_t kAlign = 256;

  Arena() = default;  // measuring: views have no data, peak() counts
  explicit Arena(Buffer buffer) : buffer_(std::move(buffer)), measuring_(false) {}

  View take(DType dtype, Shape shape) {
    View v{nullptr, dtype, shape};
    size_t begin = used_;
    used_ = (used_ + v.bytes() + kAlign - 1) / kAlign * kAlign;
    peak_ = std::max(peak_, used_);
    if (!measuring_) {
      L4_CHECK(used_ <= buffer_.bytes(), "activation arena of ", buffer_.bytes(), " bytes is too small for ", used_);
      v.data = static_cast<std::byte*>(buffer_.data()) + begin;
    }
    return v;
  }

  size_t mark() const { return used_; }
  void release_to(size_t mark) { used_ = mark; }
  void reset() { used_ = 0; }
  size_t peak() const { return peak_; }
  bool measuring() const { return measuring_; }

 private:
  Buffer buffer_;
  size_t used_ = 0, peak_ = 0;
  bool measuring_ = true;
};

}  // namespace l4
