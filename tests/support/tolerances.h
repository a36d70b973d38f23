// How far an operation may be from its reference, in one table.
//
// References are naive loops in double that round to the activation type exactly where the operation is documented to
// round. `magnitude` is the size of the terms a value is made of (given by each test).
//   f32:          |got - want| <= f32 * magnitude
//   bf16:         |got - want| <= bf16 * magnitude, where 2^-7 is one step of bfloat16, and at most the share
//                 bf16_differ of the values differs at all: a value only moves when float32 and double sums fall on
//                 different sides of a rounding edge. A rounding too many or too few moves a fifth of all values.
#pragma once

#include "tensor/dtype.h"

namespace l4::test {

struct Tolerance {
  double f32 = 0, bf16 = 0, bf16_differ = 0;
};

namespace tolerance {
constexpr Tolerance kExact{0, 0, 0};
constexpr Tolerance kLinear{3e-7, 0x1p-7, 0.01};  // magnitude: sum of |x w|
constexpr Tolerance kNorm{1e-6, 0x1p-6, 0.01};    // magnitude: |y|, plus |bias| in layer norm
constexpr Tolerance kRope{2e-7, 0x1p-7, 0.01};    // magnitude: length of the pair
constexpr Tolerance kQkNorm{1e-6, 0x1p-6, 0.02};  // magnitude: |y|
constexpr Tolerance kAttention{2e-6, 0x1p-6,
                               0.4};  // magnitude: sum of p |v|; P is rounded relative to a running maximum
constexpr Tolerance kActivation{5e-7, 0x1p-6, 0.01};  // magnitude: |y|
constexpr Tolerance kScore{2e-7, 0x1p-7, 0.01};       // sigmoid
constexpr Tolerance kResidual{2e-7, 0x1p-7, 0.01};    // magnitude: sum of the terms' sizes
constexpr Tolerance kStage{3e-6, 0x1p-5, 0.10};  // several operations: norm, linear, rotation; magnitude of the sums
constexpr Tolerance kLogprob{2e-5, 2e-5, 1};     // absolute
}  // namespace tolerance

}  // namespace l4::test
