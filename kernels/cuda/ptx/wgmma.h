// Matrix instructions of a warpgroup (4 warps, the first a multiple of 4), asynchronous: d [64, kN] f32 += a [64, 16] b
// [16, kN], a and b bfloat16, from shared memory through descriptors; a also from registers. Or a [64, 32] b [32, kN] in E4M3.
//
//   wgmma_fence();                                   // before the first, and after registers of d or a were written
//   for (k...) wgmma<128>(d, a_descriptor, b_descriptor, k > 0);
//   wgmma_commit();                                  // they are a group
//   wgmma_wait<0>();                                 // d can be read, the tiles can be written again
//
// Warp w, lane l, g = l / 4, t = l % 4 (all within the warpgroup) hold of d, for each j < kN / 8:
//   d[4 j], d[4 j + 1] = (16 w + g, 8 j + 2 t), (.., + 1); d[4 j + 2], d[4 j + 3] the same of row 16 w + g + 8
// and of an a from registers what mma.h says of a, with rows counted from 16 w.
//
// Sources: PTX ISA 9.0, "Asynchronous warpgroup level matrix instructions" and its matrix-descriptor format.
#pragma once

#include "kernels/cuda/ptx/address.h"
#include "kernels/cuda/ptx/swizzle.h"

namespace l4::cuda {

// Which index of a tile is contiguous in memory: k (rows of a weight [n, k], of q and k), or m/n (v [token, hd] as b).
enum class Major : int { k = 0, mn = 1 };

// The descriptor of a tile at `tile` in shared memory, whose rows are S bytes wide: the swizzle's 128, 64 or 32, or 16.
//   k-major: the rows run along k and lie one after another, 8 of them are an atom. `stride_bytes`: from one 8 rows of
//     m/n to the next (8 S where the tile is one row wide). `leading_bytes`: from one 16-byte column of k to the next,
//     used without a swizzle only. The next 16 of k: advance_descriptor(d, 32).
//   mn-major: the rows run along m/n, one k after another. `stride_bytes`: from one 8 of k to the next.
//     `leading_bytes`: from one row's S bytes of m/n to the next (used where 2 kN > S). Without a swizzle the two
//     change places. The next 16 of k: a tile two times the step of 8 of k further on.
__device__ inline uint64_t matrix_descriptor(const void* tile, Swizzle swizzle, uint32_t leading_bytes,
                                             uint32_t stride_bytes) {
  return uint64_t((shared_address(tile) & 0x3FFFF) >> 4) | uint64_t((leading_bytes & 0x3FFFF) >> 4) << 16 |
         uint64_t((stride_bytes & 0x3FFFF) >> 4) << 32 | uint64_t(swizzle) << 62;
}
// `bytes` further on, a multiple of 16: within the rows of a k-major tile, or by whole atoms.
__device__ inline uint64_t advance_descriptor(uint64_t descriptor, uint32_t bytes) {
  return descriptor + (bytes >> 4);
}

__device__ inline void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ inline void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Until at most kPending of the newest groups are not done.
template <int kPending>
__device__ inline void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
// Keeps the compiler from moving uses of d across this point: beside wgmma_fence() and after wgmma_wait() where other
// code touches d between two groups.
template <int kCount>
__device__ inline void wgmma_hold(float (&d)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// clang-format off
#define L4_PLACES_4 "%0, %1, %2, %3"
#define L4_PLACES_8 L4_PLACES_4 ", %4, %5, %6, %7"
#define L4_PLACES_16 L4_PLACES_8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define L4_PLACES_24 L4_PLACES_16 ", %16, %17, %18, %19, %20, %21, %22, %23"
#define L4_PLACES_32 L4_PLACES_24 ", %24, %25, %26, %27, %28, %29, %30, %31"
#define L4_PLACES_40 L4_PLACES_32 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define L4_PLACES_48 L4_PLACES_40 ", %40, %41, %42, %43, %44, %45, %46, %47"
#define L4_PLACES_56 L4_PLACES_48 ", %48, %49, %50, %51, %52, %53, %54, %55"
#define L4_PLACES_64 L4_PLACES_56 ", %56, %57, %58, %59, %60, %61, %62, %63"
#define L4_PLACES_72 L4_PLACES_64 ", %64, %65, %66, %67, %68, %69, %70, %71"
#define L4_PLACES_80 L4_PLACES_72 ", %72, %73, %74, %75, %76, %77, %78, %79"
#define L4_PLACES_88 L4_PLACES_80 ", %80, %81, %82, %83, %84, %85, %86, %87"
#define L4_PLACES_96 L4_PLACES_88 ", %88, %89, %90, %91, %92, %93, %94, %95"
#define L4_PLACES_104 L4_PLACES_96 ", %96, %97, %98, %99, %100, %101, %102, %103"
#define L4_PLACES_112 L4_PLACES_104 ", %104, %105, %106, %107, %108, %109, %110, %111"
#define L4_PLACES_120 L4_PLACES_112 ", %112, %113, %114, %115, %116, %117, %118, %119"
#define L4_PLACES_128 L4_PLACES_120 ", %120, %121, %122, %123, %124, %125, %126, %127"
#define L4_OUT_4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define L4_OUT_8(i) L4_OUT_4(i), L4_OUT_4(i + 4)
#define L4_OUT_16(i) L4_OUT_8(i), L4_OUT_8(i + 8)
#define L4_OUT_24(i) L4_OUT_16(i), L4_OUT_8(i + 16)
#define L4_OUT_32(i) L4_OUT_24(i), L4_OUT_8(i + 24)
#define L4_OUT_40(i) L4_OUT_32(i), L4_OUT_8(i + 32)
#define L4_OUT_48(i) L4_OUT_40(i), L4_OUT_8(i + 40)
#define L4_OUT_56(i) L4_OUT_48(i), L4_OUT_8(i + 48)
#define L4_OUT_64(i) L4_OUT_56(i), L4_OUT_8(i + 56)
#define L4_OUT_72(i) L4_OUT_64(i), L4_OUT_8(i + 64)
#define L4_OUT_80(i) L4_OUT_72(i), L4_OUT_8(i + 72)
#define L4_OUT_88(i) L4_OUT_80(i), L4_OUT_8(i + 80)
#define L4_OUT_96(i) L4_OUT_88(i), L4_OUT_8(i + 88)
#define L4_OUT_104(i) L4_OUT_96(i), L4_OUT_8(i + 96)
#define L4_OUT_112(i) L4_OUT_104(i), L4_OUT_8(i + 104)
#define L4_OUT_120(i) L4_OUT_112(i), L4_OUT_8(i + 112)
#define L4_OUT_128(i) L4_OUT_120(i), L4_OUT_8(i + 120)

// n, its registers, then the numbers of the operands after them.
#define L4_WGMMA_SHARED(n, r, p0, p1, p2, p3)                                                             \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #p2 ", 0;\n"                                          \
               "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.bf16.bf16 {" L4_PLACES_##r "}, "           \
               "%" #p0 ", %" #p1 ", p, 1, 1, 0, %" #p3 ";\n}"                                             \
               : L4_OUT_##r(0)                                                                            \
               : "l"(a), "l"(b), "r"(int(accumulate)), "n"(int(kMajorOfB)))
#define L4_WGMMA_REGISTERS(n, r, p0, p1, p2, p3, p4, p5, p6)                                              \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #p5 ", 0;\n"                                          \
               "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.bf16.bf16 {" L4_PLACES_##r "}, "           \
               "{%" #p0 ", %" #p1 ", %" #p2 ", %" #p3 "}, %" #p4 ", p, 1, 1, %" #p6 ";\n}"                \
               : L4_OUT_##r(0)                                                                            \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(accumulate)), "n"(int(kMajorOfB)))

// d = a b (+ d where accumulate); a k-major, both in shared memory.
template <int kN, Major kMajorOfB = Major::k>
__device__ inline void wgmma(float (&d)[kN / 2], uint64_t a, uint64_t b, bool accumulate) {
  if constexpr (kN == 8) L4_WGMMA_SHARED(8, 4, 4, 5, 6, 7);
  else if constexpr (kN == 16) L4_WGMMA_SHARED(16, 8, 8, 9, 10, 11);
  else if constexpr (kN == 32) L4_WGMMA_SHARED(32, 16, 16, 17, 18, 19);
  else if constexpr (kN == 48) L4_WGMMA_SHARED(48, 24, 24, 25, 26, 27);
  else if constexpr (kN == 64) L4_WGMMA_SHARED(64, 32, 32, 33, 34, 35);
  else if constexpr (kN == 80) L4_WGMMA_SHARED(80, 40, 40, 41, 42, 43);
  else if constexpr (kN == 96) L4_WGMMA_SHARED(96, 48, 48, 49, 50, 51);
  else if constexpr (kN == 112) L4_WGMMA_SHARED(112, 56, 56, 57, 58, 59);
  else if constexpr (kN == 128) L4_WGMMA_SHARED(128, 64, 64, 65, 66, 67);
  else if constexpr (kN == 144) L4_WGMMA_SHARED(144, 72, 72, 73, 74, 75);
  else if constexpr (kN == 160) L4_WGMMA_SHARED(160, 80, 80, 81, 82, 83);
  else if constexpr (kN == 176) L4_WGMMA_SHARED(176, 88, 88, 89, 90, 91);
  else if constexpr (kN == 192) L4_WGMMA_SHARED(192, 96, 96, 97, 98, 99);
  else if constexpr (kN == 208) L4_WGMMA_SHARED(208, 104, 104, 105, 106, 107);
  else if constexpr (kN == 224) L4_WGMMA_SHARED(224, 112, 112, 113, 114, 115);
  else if constexpr (kN == 240) L4_WGMMA_SHARED(240, 120, 120, 121, 122, 123);
  else if constexpr (kN == 256) L4_WGMMA_SHARED(256, 128, 128, 129, 130, 131);
  else static_assert(kN < 0, "8, or a multiple of 16 up to 256");
}
// The same with a from registers.
template <int kN, Major kMajorOfB = Major::k>
__device__ inline void wgmma(float (&d)[kN / 2], const uint32_t (&a)[4], uint64_t b, bool accumulate) {
  if constexpr (kN == 8) L4_WGMMA_REGISTERS(8, 4, 4, 5, 6, 7, 8, 9, 10);
  else if constexpr (kN == 16) L4_WGMMA_REGISTERS(16, 8, 8, 9, 10, 11, 12, 13, 14);
  else if constexpr (kN == 32) L4_WGMMA_REGISTERS(32, 16, 16, 17, 18, 19, 20, 21, 22);
  else if constexpr (kN == 48) L4_WGMMA_REGISTERS(48, 24, 24, 25, 26, 27, 28, 29, 30);
  else if constexpr (kN == 64) L4_WGMMA_REGISTERS(64, 32, 32, 33, 34, 35, 36, 37, 38);
  else if constexpr (kN == 80) L4_WGMMA_REGISTERS(80, 40, 40, 41, 42, 43, 44, 45, 46);
  else if constexpr (kN == 96) L4_WGMMA_REGISTERS(96, 48, 48, 49, 50, 51, 52, 53, 54);
  else if constexpr (kN == 112) L4_WGMMA_REGISTERS(112, 56, 56, 57, 58, 59, 60, 61, 62);
  else if constexpr (kN == 128) L4_WGMMA_REGISTERS(128, 64, 64, 65, 66, 67, 68, 69, 70);
  else if constexpr (kN == 144) L4_WGMMA_REGISTERS(144, 72, 72, 73, 74, 75, 76, 77, 78);
  else if constexpr (kN == 160) L4_WGMMA_REGISTERS(160, 80, 80, 81, 82, 83, 84, 85, 86);
  else if constexpr (kN == 176) L4_WGMMA_REGISTERS(176, 88, 88, 89, 90, 91, 92, 93, 94);
  else if constexpr (kN == 192) L4_WGMMA_REGISTERS(192, 96, 96, 97, 98, 99, 100, 101, 102);
  else if constexpr (kN == 208) L4_WGMMA_REGISTERS(208, 104, 104, 105, 106, 107, 108, 109, 110);
  else if constexpr (kN == 224) L4_WGMMA_REGISTERS(224, 112, 112, 113, 114, 115, 116, 117, 118);
  else if constexpr (kN == 240) L4_WGMMA_REGISTERS(240, 120, 120, 121, 122, 123, 124, 125, 126);
  else if constexpr (kN == 256) L4_WGMMA_REGISTERS(256, 128, 128, 129, 130, 131, 132, 133, 134);
  else static_assert(kN < 0, "8, or a multiple of 16 up to 256");
}

// d = a b (+ d where accumulate) of E4M3, both k-major in shared memory; 32 columns of k, as many bytes as 16 of bfloat16.
// Within an instruction and from one to the next the sums keep about 14 bits (DeepSeek-V3's report, 3.3.2): who adds up
// many begins anew every 128 columns and adds what came out in float32.
#define L4_WGMMA_E4M3(n, r, p0, p1, p2)                                                                   \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #p2 ", 0;\n"                                          \
               "wgmma.mma_async.sync.aligned.m64n" #n "k32.f32.e4m3.e4m3 {" L4_PLACES_##r "}, "           \
               "%" #p0 ", %" #p1 ", p, 1, 1;\n}"                                                          \
               : L4_OUT_##r(0)                                                                            \
               : "l"(a), "l"(b), "r"(int(accumulate)))
template <int kN>
__device__ inline void wgmma_e4m3(float (&d)[kN / 2], uint64_t a, uint64_t b, bool accumulate) {
  if constexpr (kN == 8) L4_WGMMA_E4M3(8, 4, 4, 5, 6);
  else if constexpr (kN == 16) L4_WGMMA_E4M3(16, 8, 8, 9, 10);
  else if constexpr (kN == 32) L4_WGMMA_E4M3(32, 16, 16, 17, 18);
  else if constexpr (kN == 48) L4_WGMMA_E4M3(48, 24, 24, 25, 26);
  else if constexpr (kN == 64) L4_WGMMA_E4M3(64, 32, 32, 33, 34);
  else if constexpr (kN == 80) L4_WGMMA_E4M3(80, 40, 40, 41, 42);
  else if constexpr (kN == 96) L4_WGMMA_E4M3(96, 48, 48, 49, 50);
  else if constexpr (kN == 112) L4_WGMMA_E4M3(112, 56, 56, 57, 58);
  else if constexpr (kN == 128) L4_WGMMA_E4M3(128, 64, 64, 65, 66);
  else static_assert(kN < 0, "8, or a multiple of 16 up to 128");
}
#undef L4_WGMMA_E4M3
#undef L4_PLACES_4
#undef L4_OUT_4
#undef L4_PLACES_8
#undef L4_OUT_8
#undef L4_PLACES_16
#undef L4_OUT_16
#undef L4_PLACES_24
#undef L4_OUT_24
#undef L4_PLACES_32
#undef L4_OUT_32
#undef L4_PLACES_40
#undef L4_OUT_40
#undef L4_PLACES_48
#undef L4_OUT_48
#undef L4_PLACES_56
#undef L4_OUT_56
#undef L4_PLACES_64
#undef L4_OUT_64
#undef L4_PLACES_72
#undef L4_OUT_72
#undef L4_PLACES_80
#undef L4_OUT_80
#undef L4_PLACES_88
#undef L4_OUT_88
#undef L4_PLACES_96
#undef L4_OUT_96
#undef L4_PLACES_104
#undef L4_OUT_104
#undef L4_PLACES_112
#undef L4_OUT_112
#undef L4_PLACES_120
#undef L4_OUT_120
#undef L4_PLACES_128
#undef L4_OUT_128
#undef L4_WGMMA_SHARED
#undef L4_WGMMA_REGISTERS
// clang-format on

}  // namespace l4::cuda
