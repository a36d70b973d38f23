// Values of made-up weights: uniform in centre +- spread, each a hash of its tensor's key and its index in the whole
// tensor. Any device computes any part in any order and gets the same bits. Plain functions for host and device code.
#pragma once

#include <cmath>

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

// INT4 of these values: of each the code nearest to value / scale, of -7..7 alone, so that products have no drift.
// Scales are a 15th of the values' range, give or take an eighth so that groups differ; this one is that of the group
// whose first element is element `first`, not rounded to BF16 yet.
L4_HOST_DEVICE inline float random_int4_scale(const RandomTensor& tensor, int64_t first) {
  return tensor.spread * (2 / 15.0f) * random_weight({~tensor.key, 1, 0.125f}, first);
}
// `inverse`: 1 / scale, of the scale as it is kept.
L4_HOST_DEVICE inline int random_int4_code(const RandomTensor& tensor, int64_t index, float inverse) {
  const float code = rintf(random_weight(tensor, index) * inverse);
  return int(code > 7 ? 7.0f : code < -7 ? -7.0f : code);
}

}  // namespace l4
