// Stands in for kernels/cuda in builds without CUDA.
#include "base/error.h"
#include "dist/comm.h"
#include "ops/backend.h"
#include "ops/ceilings.h"
#include "ops/cuda_devices.h"

namespace l4 {

std::unique_ptr<Backend> make_cuda_backend(int, const CudaOptions&) {
  fail(ErrorKind::device, "this build has no CUDA backend");
}
std::vector<std::unique_ptr<Comm>> make_cuda_comms(std::span<Backend* const>) {
  fail(ErrorKind::device, "this build has no CUDA backend");
}

Ceilings measure_cuda_ceilings(int, const CeilingSizes&) {
  fail(ErrorKind::device, "this build has no CUDA backend");
}
ProductRate measure_cuda_product(int, const ProductShape&, const CeilingSizes&) {
  fail(ErrorKind::device, "this build has no CUDA backend");
}
CudaReport measure_cuda_report(int, std::span<const ProductShape>, const CeilingSizes&) {
  fail(ErrorKind::device, "this build has no CUDA backend");
}
PairReport measure_cuda_pair(int, int, std::span<const uint64_t>, const CeilingSizes&) {
  fail(ErrorKind::device, "this build has no CUDA backend");
}
CudaClocks read_cuda_clocks(int) {
  return {};
}

CudaDevices list_cuda_devices() {
  CudaDevices found;
  found.problem = "this build has no CUDA backend";
  return found;
}

}  // namespace l4
