// What the attention kernels share around matrix instructions.
#pragma once

#include "kernels/cuda/device/piece.h"

namespace l4::cuda {

constexpr float kLog2e = 1.44269504088896341f;  // scales of scores are given times this: exp(x) = 2^(x log2(e))

}  // namespace l4::cuda
