// (value, id) as one integer whose ascending order is: value descending, id ascending. No NaN.
#pragma once

#include <cstdint>
#include <cstring>

#include "ops/sampling_random.h"

namespace l4::cuda {

L4_HOST_DEVICE inline uint64_t sort_key(float value, int32_t id) {
  uint32_t bits;
  value += 0.0f;  // -0 is 0
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t ascending = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return uint64_t(~ascending) << 32 | uint32_t(id);
}
L4_HOST_DEVICE inline float key_value(uint64_t key) {
  const uint32_t ascending = ~uint32_t(key >> 32);
  const uint32_t bits = ascending & 0x80000000u ? ascending & 0x7fffffffu : ~ascending;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
L4_HOST_DEVICE inline int32_t key_id(uint64_t key) {
  return int32_t(uint32_t(key));
}

}  // namespace l4::cuda
