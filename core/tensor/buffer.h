// Memory with one owner. Who allocates (host, device, pinned) hands in how it is freed.
#pragma once

#include <cstddef>
#include <functional>
#include <utility>

#include "tensor/view.h"

namespace l4 {

class Buffer {
 public:
  Buffer() = default;
  Buffer(void* data, size_t bytes, std::function<void(void*)> release)
      : data_(data), bytes_(bytes), release_(std::move(release)) {}
  ~Buffer() {
    if (data_) release_(data_);
  }
  Buffer(Buffer&& other) noexcept { *this = std::move(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(release_, other.release_);
    return *this;
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  explicit operator bool() const { return data_ != nullptr; }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
  std::function<void(void*)> release_;
};

// A tensor that owns its memory.
struct Tensor {
  Buffer buffer;
  View view;
};

// 64-byte aligned host memory, not initialised. Error{memory} naming `what` when there is none.
Buffer host_buffer(size_t bytes, const char* what);

}  // namespace l4
