// Every CUDA and cuBLASLt call is checked: L4_CUDA(cudaMalloc(&p, n)).
#pragma once

#include <cublasLt.h>
#include <cuda_runtime.h>

#include "base/error.h"

namespace l4::cuda {

// Error{memory} when the device has no memory, otherwise Error{device}; the message names the call.
inline void check(cudaError_t status, const char* call) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // said here; the next call starts clean
  fail(status == cudaErrorMemoryAllocation ? ErrorKind::memory : ErrorKind::device, "CUDA: ",
       cudaGetErrorString(status), " in ", call);
}
inline void check(cublasStatus_t status, const char* call) {
  if (status != CUBLAS_STATUS_SUCCESS) fail(ErrorKind::device, "cuBLASLt: status ", int(status), " in ", call);
}

}  // namespace l4::cuda

#define L4_CUDA(call) ::l4::cuda::check((call), #call)
