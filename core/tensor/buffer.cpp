#include "tensor/buffer.h"

#include <cstdlib>

namespace l4 {

Buffer host_buffer(size_t bytes, const char* what) {
  constexpr size_t kAlign = 64;
  size_t rounded = (bytes + kAlign - 1) / kAlign * kAlign;
  void* data = std::aligned_alloc(kAlign, rounded ? rounded : kAlign);
  if (!data) fail(ErrorKind::memory, "not enough memory for ", what, " (", human_bytes(bytes), ")");
  return Buffer(data, bytes, [](void* p) { std::free(p); });
}

}  // namespace l4
