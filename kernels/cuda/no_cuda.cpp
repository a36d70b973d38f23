// Stands in for kernels/cuda in builds without CUDA.
#include "kernels/cuda/devices.h"

namespace l4 {

CudaDevices list_cuda_devices() {
  CudaDevices found;
  found.problem = "this build has no CUDA backend";
  return found;
}

}  // namespace l4
