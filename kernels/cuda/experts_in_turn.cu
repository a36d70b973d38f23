// Routing of l4-bench --routing uniform: a launch of its own behind the router's, about a microsecond a layer, so that no
// kernel of a real step knows of it.
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/launch.h"

namespace l4 {

namespace {
constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) experts_in_turn_kernel(int32_t* expert, int64_t n, int64_t n_experts) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i < n) expert[i] = int32_t(i % n_experts);
}
}  // namespace

void CudaBackend::experts_in_turn(const Route& route, int64_t n_experts) {
  if (one_token_ && one_token_->takes_experts_in_turn()) return;
  make_current();
  const int64_t n = route.expert.elements();
  cuda::launch({.grid = unsigned((n + kThreads - 1) / kThreads), .block = kThreads, .stream = gpu_.stream},
               experts_in_turn_kernel, route.expert.i32(), n, n_experts);
}

}  // namespace l4
