// The layers of a kind lie one after another in a page, so a page is one piece: 18.9 MB for Scout's chunked layers, 6.3
// MB for its global ones. Limit: bytes read + written, 12.5 us a chunked page at 3.02 TB/s. The copies ride in the
// kernel's arguments, so that nothing has to be uploaded first.
#include "kernels/cuda/copy_pages.h"

#include <algorithm>

#include "kernels/cuda/launch.h"

namespace l4::cuda {

namespace {

constexpr int kCopies = 128;  // of one launch: 1 KB of arguments
constexpr int kThreads = 256;
constexpr int kVectors = 8;  // 16-byte loads in flight a thread

struct Copies {
  int32_t from[kCopies], to[kCopies];
};

// Grid [parts of a page, copies]. page_vectors and stride count 16 bytes.
__global__ void __launch_bounds__(kThreads)
    copy_pages_kernel(uint4* base, int64_t page_vectors, int64_t stride, Copies copies) {
  const uint4* from = base + copies.from[blockIdx.y] * stride;
  uint4* to = base + copies.to[blockIdx.y] * stride;
  const int64_t begin = int64_t(blockIdx.x) * (kThreads * kVectors) + threadIdx.x;
  uint4 values[kVectors];
#pragma unroll
  for (int i = 0; i < kVectors; ++i)
    if (begin + i * kThreads < page_vectors) values[i] = from[begin + i * kThreads];
#pragma unroll
  for (int i = 0; i < kVectors; ++i)
    if (begin + i * kThreads < page_vectors) to[begin + i * kThreads] = values[i];
}

}  // namespace

void copy_pages(cudaStream_t stream, const KvLayer& first_layer, int64_t n_layers, std::span<const PageCopy> copies) {
  const int64_t bytes = n_layers * first_layer.layout.layer_bytes;
  L4_CHECK(bytes % 16 == 0 && first_layer.page_stride % 16 == 0);
  const int64_t vectors = bytes / 16;
  Copies batch{};
  int n = 0;
  auto flush = [&] {
    if (n > 0)
      launch({.grid = dim3(unsigned((vectors + kThreads * kVectors - 1) / (kThreads * kVectors)), unsigned(n)),
              .block = kThreads,
              .stream = stream},
             copy_pages_kernel, static_cast<uint4*>(first_layer.base), vectors, first_layer.page_stride / 16, batch);
    n = 0;
  };
  for (const PageCopy& copy : copies) {
    if (copy.kind != first_layer.kind) continue;
    batch.from[n] = copy.from, batch.to[n] = copy.to;
    if (++n == kCopies) flush();
  }
  flush();
}

}  // namespace l4::cuda
