// Values of made-up weights: uniform in centre +- spread, each a hash of its tensor's key and its index in the whole
// tensor. Any device computes any part in any order and gets the same bits. Plain functions for host and device code.
#pragma once

#include "ops/sampling_random.h"

namespace l4 {

struct RandomTensor {
  uint64_t key = 0;
  float centre = 0, spread = 1;
};

// A multiple of 2^-23 in [-1, 1), times spread, plus centre. Where both matter spread is a power of two, so that a device
// that fuses the two operations gets the same bits.
L4_HOST_DEVICE inline float random_weight(const RandomTensor& tensor, int64_t index) {
  const uint32_t bits = uint32_t(sample_mix(tensor.key + (uint64_t(index) + 1) * kSampleGolden) >> 40);
  return float(int32_t(bits) - (1 << 23)) * 0x1p-23f * tensor.spread + tensor.centre;
}

}  // namespace l4
