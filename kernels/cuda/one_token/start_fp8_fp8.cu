#include "kernels/cuda/one_token/kernel.h"
#include "kernels/cuda/one_token/start.h"

namespace l4::cuda::one_token {

void start_fp8_fp8(const Gpu& gpu, const Program& a, bool fp8_cache) {
  start<small_m::Fp8One, small_m::Fp8One>(gpu, a, fp8_cache);
}

}  // namespace l4::cuda::one_token
