// What every backend's pack() asks of the slices it is given.
#pragma once

#include <span>

#include "ops/op_args.h"

namespace l4 {

// Every element of [E, n, k] must come from exactly one slice: all inside, no two overlapping, areas adding up; the types
// F32, F16 or BF16, or where codes are wanted, that of the format's codes: F8_E4M3, I32. k: spec.k, of scales the groups of a
// row, or 1 for bias slices. Error naming spec.name and `what` ("weight", "bias", "scale").
void check_slices(const LinearSpec& spec, std::span<const WeightSlice> slices, int64_t k, const char* what,
                  bool codes = false);

}  // namespace l4
