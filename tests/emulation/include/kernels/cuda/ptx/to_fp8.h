#pragma once

#include <cstdint>

#include "quant/fp8.h"

namespace l4::cuda {

inline uint16_t fp8_pair(float v0, float v1) {
  return uint16_t(fp8_from_float(v0) | fp8_from_float(v1) << 8);
}

}  // namespace l4::cuda
