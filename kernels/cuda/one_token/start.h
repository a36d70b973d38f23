// The kernel's variants, a file each: attention's weights, the feed-forward block's.
#pragma once

#include "kernels/cuda/one_token/program.h"

namespace l4::cuda::one_token {

void start_fp8_fp8(const Gpu&, const Program&, bool fp8_cache);
void start_fp8_int4(const Gpu&, const Program&, bool fp8_cache);
void start_int4_int4(const Gpu&, const Program&, bool fp8_cache);

}  // namespace l4::cuda::one_token
