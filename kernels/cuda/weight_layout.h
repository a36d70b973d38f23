// How a linear's rows lie in a packed weight of the CUDA backend. Used where weights are packed and where gate and up are
// read side by side; nothing else knows.
#pragma once

#include <cstdint>

#include "ops/op_args.h"

namespace l4::cuda {

constexpr int64_t kGateBlock = 8;  // rows of gate, then as many of up: a matrix instruction's thread owns rows g, g + 8

inline bool interleaves_gate_up(const LinearSpec& spec) {
  return spec.gated && spec.n / 2 % kGateBlock == 0;
}
// Where logical row n (gate: n < F, up: F + j) lies.
inline int64_t packed_row(const LinearSpec& spec, int64_t n) {
  if (!interleaves_gate_up(spec)) return n;
  const int64_t half = spec.n / 2, j = n % half;
  return j / kGateBlock * 2 * kGateBlock + (n < half ? 0 : kGateBlock) + j % kGateBlock;
}

}  // namespace l4::cuda
