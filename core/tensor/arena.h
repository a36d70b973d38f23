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

// Scratch of an operation, forgotten at the end of its scope.
class Scratch {
 public:
  explicit Scratch(Arena& work) : work_(work), mark_(work.mark()) {}
  ~Scratch() { work_.release_to(mark_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  View take(DType dtype, Shape shape) { return work_.take(dtype, shape); }
  template <class T>
  T* take_array(int64_t n) {  // null when measuring
    return static_cast<T*>(work_.take(DType::u8, {n * int64_t(sizeof(T))}).data);
  }

 private:
  Arena& work_;
  size_t mark_;
};

}  // namespace l4
