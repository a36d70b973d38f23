// How long what a stream does takes, by the device's clock.
#pragma once

#include <cuda_runtime.h>

#include <functional>
#include <vector>

#include "kernels/cuda/check.h"

namespace l4::cuda {

struct Event {
  cudaEvent_t handle = nullptr;
  Event() { L4_CUDA(cudaEventCreate(&handle)); }
  ~Event() { cudaEventDestroy(handle); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
};

// Seconds of n runs, after one that does not count. Waits for each.
inline std::vector<double> time_runs(cudaStream_t stream, int n_runs, const std::function<void()>& issue) {
  const Event begin, end;
  std::vector<double> seconds;
  for (int run = 0; run <= n_runs; ++run) {
    L4_CUDA(cudaEventRecord(begin.handle, stream));
    issue();
    L4_CUDA(cudaEventRecord(end.handle, stream));
    L4_CUDA(cudaEventSynchronize(end.handle));
    float ms = 0;
    L4_CUDA(cudaEventElapsedTime(&ms, begin.handle, end.handle));
    if (run > 0) seconds.push_back(double(ms) / 1e3);
  }
  return seconds;
}

}  // namespace l4::cuda
