// A tensor somebody else owns: pointer, element type, shape. Dense and row-major; slices along axis 0 stay views.
//
// Letters used in shapes everywhere: T tokens (rows of a step), D hidden, H query heads, K kv heads, E experts, F ffn,
// V vocab, P pages. K is also a linear's input width where N is its output width.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "base/error.h"
#include "tensor/dtype.h"

namespace l4 {

class Shape {
 public:
  static constexpr int kMaxRank = 5;
  Shape() = default;
  Shape(std::initializer_list<int64_t> dims) {
    L4_CHECK(dims.size() <= kMaxRank);
    for (int64_t d : dims) dims_[size_t(rank_++)] = d;
  }
  void append(int64_t dim) {
    L4_CHECK(rank_ < kMaxRank);
    dims_[size_t(rank_++)] = dim;
  }
  int rank() const { return rank_; }
  int64_t operator[](int axis) const {
    L4_CHECK(axis >= 0 && axis < rank_);
    return dims_[size_t(axis)];
  }
  int64_t& operator[](int axis) {
    L4_CHECK(axis >= 0 && axis < rank_);
    return dims_[size_t(axis)];
  }
  int64_t elements() const {
    int64_t n = 1;
    for (int i = 0; i < rank_; ++i) n *= dims_[size_t(i)];
    return n;
  }
  bool operator==(const Shape& other) const {
    if (rank_ != other.rank_) return false;
    for (int i = 0; i < rank_; ++i)
      if (dims_[size_t(i)] != other.dims_[size_t(i)]) return false;
    return true;
  }
  std::string str() const {  // "[16, 5120, 16384]"
    std::string out = "[";
    for (int i = 0; i < rank_; ++i) out += cat(i ? ", " : "", dims_[size_t(i)]);
    return out + "]";
  }

 private:
  std::array<int64_t, kMaxRank> dims_{};
  int rank_ = 0;
};

struct View {
  void* data = nullptr;
  DType dtype = DType::f32;
  Shape shape;

  // Whether there is a tensor at all; its data may be missing still, in a measuring run (tensor/arena.h).
  explicit operator bool() const { return shape.rank() > 0; }
  int64_t elements() const { return shape.elements(); }
  size_t bytes() const { return size_t(elements()) * dtype_bytes(dtype); }
  int64_t rows() const { return shape[0]; }
  int64_t cols() const { return rows() == 0 ? 0 : elements() / rows(); }  // elements of one row (all axes but the first)

  // Rows [begin, begin + n).
  View slice(int64_t begin, int64_t n) const {
    L4_CHECK(begin >= 0 && n >= 0 && begin + n <= rows());
    View v = *this;
    if (data) v.data = static_cast<std::byte*>(data) + size_t(begin * cols()) * dtype_bytes(dtype);
    v.shape[0] = n;
    return v;
  }
  View reshape(Shape to) const {
    L4_CHECK(to.elements() == elements(), shape.str(), " to ", to.str());
    View v = *this;
    v.shape = to;
    return v;
  }
  // The elements as T; the caller states the dtype it expects.
  template <class T>
  T* as(DType expected) const {
    L4_CHECK(dtype == expected, "tensor is ", dtype_name(dtype), ", wanted ", dtype_name(expected));
    return static_cast<T*>(data);
  }
  float* f32() const { return as<float>(DType::f32); }
  BFloat16* bf16() const { return as<BFloat16>(DType::bf16); }
  int32_t* i32() const { return as<int32_t>(DType::i32); }
};

}  // namespace l4
