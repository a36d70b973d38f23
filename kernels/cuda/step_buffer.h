// A StepPlan in device memory (gpu.h, DeviceStep). One asynchronous copy a step, of the bytes that the step has: each
// part lies at an offset that the numbers of rows, outputs, image rows and spans decide, the page tables last. So a
// recorded decode step, whose numbers are fixed, finds every part of its replay's plan where it was when it was
// recorded.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

#include "kernels/cuda/gpu.h"
#include "ops/backend.h"
#include "tensor/buffer.h"

namespace l4::cuda {

// The most bytes that a step within the options takes.
size_t step_bytes_limit(const CudaOptions& options);

// Writes the plan to `host` as it shall lie at `device`, and where its parts are then. Returns the bytes written.
// `slots` are computed here, and both kinds' page tables become one: spans' `table` counts from its beginning.
size_t write_step(const StepPlan& plan, int64_t page_tokens, std::byte* host, const std::byte* device,
                  DeviceStep& step);

class StepBuffer {
 public:
  explicit StepBuffer(const CudaOptions& options);
  ~StepBuffer();
  StepBuffer(const StepBuffer&) = delete;
  StepBuffer& operator=(const StepBuffer&) = delete;

  // Issues the copy; waits only for the step before the last one to have read its own.
  DeviceStep upload(const StepPlan& plan, cudaStream_t stream);

 private:
  static constexpr int kSlots = 2;  // pinned: one being copied, one being written
  const CudaOptions options_;
  const size_t limit_bytes_;
  Buffer device_;
  Buffer host_[kSlots];
  cudaEvent_t copied_[kSlots] = {};
  int next_ = 0;
};

}  // namespace l4::cuda
