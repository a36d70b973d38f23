// The loops for any CPU (arm64 included), compiled with the build's ordinary flags.
#include "kernels/cpu/simd/kernels_impl.h"

const l4::cpu::SimdKernels* l4::cpu::simd_kernels_generic() {
  static constexpr SimdKernels kTable = table("plain C++");
  return &kTable;
}
