#include "kernels/cuda/one_token/kernel.h"
#include "kernels/cuda/one_token/start.h"

namespace l4::cuda::one_token {

void start_int4_int4(const Gpu& gpu, const Program& a, bool fp8_cache) {
  start<small_m::Int4One, small_m::Int4One>(gpu, a, fp8_cache);
}

}  // namespace l4::cuda::one_token
