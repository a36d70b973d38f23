// The random number of token t at position p of a request with seed s: a hash, not a stream, so any device can compute
// any one of them in any order and gets the same bits. Header of plain functions, for host and device code.
//
//   key  = mix(mix(s) + p * golden)      one a row
//   bits = upper half of mix(key + (t + 1) * golden)
//   u    = (bits + 1/2) / 2^32, in (0, 1)
//   g    = -log(-log(1 - u)), a standard Gumbel variable
//
// mix is the output function of SplitMix64 (Steele, Lea, Flood 2014; constants of Stafford's variant 13) and golden its
// increment 2^64 / phi, so the tokens of a row see consecutive outputs of that generator started at `key`.
// The argmax over t of logit / temperature + g is distributed as softmax(logit / temperature) (Gumbel 1954).
#pragma once

#include <cmath>
#include <cstdint>

#include "base/host_device.h"

namespace l4 {

constexpr uint64_t kSampleGolden = 0x9E3779B97F4A7C15ull;

L4_HOST_DEVICE inline uint64_t sample_mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

L4_HOST_DEVICE inline uint64_t sample_key(uint64_t seed, int64_t position) {
  return sample_mix(sample_mix(seed) + uint64_t(position) * kSampleGolden);
}

L4_HOST_DEVICE inline uint32_t sample_bits(uint64_t key, int32_t token) {
  return uint32_t(sample_mix(key + (uint64_t(uint32_t(token)) + 1) * kSampleGolden) >> 32);
}

// A float in [2^-33, 1 - 2^-24]. Small values keep their full relative precision: they become the large Gumbel values,
// which decide.
L4_HOST_DEVICE inline float sample_uniform(uint32_t bits) {
  float u = float(bits) * 0x1p-32f + 0x1p-33f;
  return u < 0x1.fffffep-1f ? u : 0x1.fffffep-1f;
}

L4_HOST_DEVICE inline float sample_gumbel(uint64_t key, int32_t token) {
  return -logf(-log1pf(-sample_uniform(sample_bits(key, token))));
}

}  // namespace l4
