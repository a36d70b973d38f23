// Tensor maps: what the bulk copy engine (ptx/tma.h) must know of a tensor in device memory. Made on the host, passed
// to a kernel by value as `const __grid_constant__ CUtensorMap map`.
#pragma once

#include <cuda.h>

#include <span>

#include "kernels/cuda/ptx/swizzle.h"
#include "tensor/view.h"

namespace l4::cuda {

// A tensor of `sizes` (innermost first, 2 to 5 axes) at `data` (a multiple of 16); axis i + 1 has a stride of
// stride_bytes[i] (multiples of 16). One load fetches a box of `box` elements, of at most 256 along each axis, its
// innermost row a multiple of 16 bytes and not wider than the swizzle. What lies outside of `sizes` reads as zero.
// dtype: f32, bf16 or u8 (bytes of any kind: int4, fp8).
//
//   // W [n, k] bf16 in tiles of 128 rows and 64 columns:
//   tensor_map(w, DType::bf16, {{k, n}}, {{k * 2}}, {{64, 128}}, Swizzle::bytes128)
CUtensorMap tensor_map(const void* data, DType dtype, std::span<const int64_t> sizes,
                       std::span<const int64_t> stride_bytes, std::span<const int64_t> box, Swizzle swizzle);

}  // namespace l4::cuda
