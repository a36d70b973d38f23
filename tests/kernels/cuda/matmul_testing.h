// What the tests of packing and products share beside gpu_testing.h.
#pragma once

#include "kernels/cuda/gpu_testing.h"

namespace l4::test {

// A linear layer with its logical values, on the device too.
struct GpuWeights : Weights {
  PackedWeight device;

  GpuWeights(GpuMachine& gpu, ThreadPool& pool, Numbers& numbers, const LinearSpec& spec, double size = 1)
      : Weights(pool, numbers, spec, size), device(gpu.pack(*this)) {}
};

// How far `got` is from `want`: root mean square and largest error, over the root mean square of `want`. NaN is
// infinite.
struct Errors {
  double rms = 0, largest = 0;
};
inline Errors errors(const View& got, const Doubles& want) {
  double sum = 0, size = 0, largest = 0;
  REQUIRE(got.elements() == int64_t(want.size()));
  for (size_t i = 0; i < want.size(); ++i) {
    const double e = std::abs(Values::value(got, int64_t(i)) - want[i]);
    if (!(e < INFINITY)) return {INFINITY, INFINITY};
    sum += e * e;
    size += want[i] * want[i];
    largest = std::max(largest, e);
  }
  if (want.empty() || size == 0) return {};
  return {std::sqrt(sum / size), largest / std::sqrt(size / double(want.size()))};
}

}  // namespace l4::test
