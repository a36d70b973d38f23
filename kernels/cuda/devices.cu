#include "ops/cuda_devices.h"

#include <cuda_runtime.h>

#include <cstdlib>

namespace l4 {

CudaDevices list_cuda_devices() {
  // Our kernels are loaded when a device is first used, not each at its first launch: in the middle of a recording, or
  // while one GPU waits for another's part of a sum, loading could wait for ever.
  ::setenv("CUDA_MODULE_LOADING", "EAGER", /*overwrite=*/0);
  CudaDevices found;
  found.built = true;
  cudaRuntimeGetVersion(&found.runtime_version);
  cudaDriverGetVersion(&found.driver_version);  // 0 where there is none
  int n = 0;
  cudaError_t status = cudaGetDeviceCount(&n);
  for (int i = 0; status == cudaSuccess && i < n; ++i) {
    cudaDeviceProp p;
    status = cudaGetDeviceProperties(&p, i);
    if (status == cudaSuccess)
      found.devices.push_back({i, p.name, uint64_t(p.totalGlobalMem), p.major, p.minor, p.multiProcessorCount});
  }
  if (status != cudaSuccess)
    found.problem = found.driver_version == 0 ? "no NVIDIA driver" : cudaGetErrorString(status);
  else if (n == 0)
    found.problem = "no CUDA device";
  cudaGetLastError();  // what was found is said; later calls start clean
  return found;
}

}  // namespace l4
