// Compiled with -m flags of its own (CMakeLists.txt); empty where the target is not x86-64.
#if defined(__AVX2__) && defined(__FMA__)

#include "kernels/cpu/simd/kernels_impl.h"

const l4::cpu::SimdKernels* l4::cpu::simd_kernels_avx2() {
  static constexpr SimdKernels kTable = table("AVX2");
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &kTable : nullptr;
}

#else

#include "kernels/cpu/simd/kernels.h"

const l4::cpu::SimdKernels* l4::cpu::simd_kernels_avx2() {
  return nullptr;
}

#endif
