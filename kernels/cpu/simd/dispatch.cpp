#include "kernels/cpu/simd/kernels.h"

namespace l4::cpu {

const SimdKernels& simd_kernels() {
  static const SimdKernels* best = [] {
    if (const SimdKernels* kernels = simd_kernels_avx512()) return kernels;
    if (const SimdKernels* kernels = simd_kernels_avx2()) return kernels;
    return simd_kernels_generic();
  }();
  return *best;
}

}  // namespace l4::cpu
