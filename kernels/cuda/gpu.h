// What the operations of kernels/cuda run on: one device, its stream, and the step's plan in its memory.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime.h>

#include "ops/step_plan.h"
#include "tensor/arena.h"

namespace l4::cuda {

// One kind's part of a StepPlan. All pointers are device memory.
struct DeviceKvPlan {
  const KvSpan* spans = nullptr;    // [n_spans]
  const int32_t* pages = nullptr;   // page tables of all spans
  const int32_t* slots =
      nullptr;  // [T] where row t's key and value go: page * page_tokens + index in the page; -1: nowhere
  int32_t n_spans = 0;              // host values, the same for every replay of a graph
  int32_t max_rows = 0;             // rows of the longest span; 1: a pure decode step
};

// A StepPlan on the device, at addresses that never change, so that a recorded graph reads the step of its replay.
// In a graph's steps every span has one row, so that spans[i] is row i's; their `past` changes from replay to replay,
// and no kernel's grid may depend on it.
struct DeviceStep {
  int32_t n_rows = 0, n_out = 0, n_image_rows = 0;
  const int32_t* ids = nullptr;        // [T]
  const int32_t* positions = nullptr;  // [T]
  const int32_t* out_rows = nullptr;   // [n_out]
  const ImageRow* image_rows = nullptr;
  DeviceKvPlan kv[kNumAttentionKinds];
  const DeviceKvPlan& of(AttentionKind kind) const { return kv[int(kind)]; }
};

struct Gpu {
  int index = 0;   // CUDA device number
  int n_sms = 0;   // 132
  size_t max_shared_bytes = 0;  // a block may have (opt-in): 232,448
  cudaStream_t stream = nullptr;
  cublasLtHandle_t cublas_lt = nullptr;
  // Arrival counters of kernels whose last block does the rest. Zero between kernels: who counts resets what it used.
  static constexpr int kCounters = 32768;
  uint32_t* counters = nullptr;  // [kCounters] device memory
  static constexpr int kTickets = 4;
  uint32_t* tickets = nullptr;     // [kTickets] matmul/small_m.cu's, likewise zero between those that draw from the same
  static constexpr int64_t kPublishedRows = 16;
  uint32_t* rows_ready = nullptr;  // [kPublishedRows] of OpContext::published: 1 when the row is complete
  static constexpr int64_t kAllCounters = kCounters + kTickets + kPublishedRows;
  void set_counters(uint32_t* zeros) {  // [kAllCounters]
    counters = zeros, tickets = counters + kCounters, rows_ready = tickets + kTickets;
  }
  void* one_token = nullptr;  // one_token/program.h, Memory: other ranks write it too
  DeviceStep step;  // of the step being issued
};

// What an operation gets: the device, and scratch. When it measures, an operation takes its scratch and does no more.
struct OpContext {
  Gpu& gpu;
  Arena& work;
  // The rows that the kernel issued last before this stage writes, if it says in gpu.rows_ready which are there (norm.cu):
  // the first kernel of a stage may read them without waiting for that one's end.
  const void* published = nullptr;
  // A row's bits must not depend on how many rows there are, nor on theirs (matmul/dispatch.h, attention/choose.h).
  bool invariant = false;
  bool measuring() const { return work.measuring(); }
};

}  // namespace l4::cuda
