// Matrix instructions of one warp. With g = lane / 4 and t = lane % 4:
//   d [16, 8] f32:   d[0], d[1] = (g, 2t), (g, 2t + 1); d[2], d[3] the same of row g + 8
//   a [16, 16] bf16: a[0] = (g, 2t..2t+1), a[1] = (g + 8, 2t..), a[2] = (g, 2t + 8..), a[3] = (g + 8, 2t + 8..)
//   b [16, 8] bf16:  b[0] = (2t..2t+1, g), b[1] = (2t + 8.., g): of a weight [n, k] row n = g, columns k = 2t.. and 2t
//   + 8..
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace l4::cuda {

// d += a b
__device__ inline void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// d [16, 8] int32 += a [16, 32] b [32, 8] of signed bytes: a[0] = (g, 4t..4t+3), a[1] = (g + 8, 4t..), a[2] = (g, 4t +
// 16..), a[3] = (g + 8, 4t + 16..); b[0] = (4t..4t+3, g), b[1] = (4t + 16.., g).
__device__ inline void mma_m16n8k32_s8(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// As mma_m16n8k16, of f16.
__device__ inline void mma_m16n8k16_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

}  // namespace l4::cuda
