// Owned memory of the device and of pinned pages of the host. Error{memory} says what it was for.
#pragma once

#include <cuda_runtime.h>

#include "kernels/cuda/check.h"
#include "tensor/buffer.h"

namespace l4::cuda {

namespace detail {
template <class Allocate>
Buffer buffer(size_t bytes, const char* what, const char* where, Allocate allocate, cudaError_t (*release)(void*)) {
  void* data = nullptr;
  const cudaError_t status = allocate(&data, bytes > 0 ? bytes : 1);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    fail(ErrorKind::memory, "not enough ", where, " memory for ", what, " (", human_bytes(bytes), ")");
  }
  check(status, where);
  return Buffer(data, bytes, [release](void* p) { release(p); });
}
}  // namespace detail

// Of the current device, 256-byte aligned, not initialised. Freeing waits for the device.
inline Buffer device_buffer(size_t bytes, const char* what) {
  return detail::buffer(
      bytes, what, "device", [](void** p, size_t n) { return cudaMalloc(p, n); }, cudaFree);
}
// Every device can copy to and from it without waiting for the host.
inline Buffer pinned_buffer(size_t bytes, const char* what) {
  return detail::buffer(
      bytes, what, "pinned", [](void** p, size_t n) { return cudaHostAlloc(p, n, cudaHostAllocPortable); },
      cudaFreeHost);
}

}  // namespace l4::cuda
