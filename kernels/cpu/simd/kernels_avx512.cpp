// Compiled with -m flags of its own (CMakeLists.txt); empty where the target is not x86-64.
#if defined(__AVX512F__) && defined(__AVX512BW__)

#include "kernels/cpu/simd/kernels_impl.h"

const l4::cpu::SimdKernels* l4::cpu::simd_kernels_avx512() {
  static constexpr SimdKernels kTable = table("AVX-512");
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") ? &kTable : nullptr;
}

#else

#include "kernels/cpu/simd/kernels.h"

const l4::cpu::SimdKernels* l4::cpu::simd_kernels_avx512() {
  return nullptr;
}

#endif
