// Small kernels around single instructions of kernels/cuda/ptx, for test_ptx.cpp. Pointers are device memory.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/ptx/swizzle.h"

namespace l4::test {

// to[i] = valid[i] ? from[i] : 0, n words of kBytes (4, 8, 16), n <= 128; through shared memory.
void copy_async(cudaStream_t, int n_bytes, const void* from, const uint8_t* valid, void* to, int n);
// to[i] = 2 * from[i] for the first 512 of each of n_chunks of 1024 floats, through a ring of 3 stages, one warp
// loading, four computing, with registers moved between them; the result leaves by bulk stores.
void pipeline(cudaStream_t, const float* from, float* to, int n_chunks);
// The box of `map` at `at` (rank coordinates), row after row, to `to`; or `from` to the tensor.
struct Coordinates {
  int c[5];
};
void load_box(cudaStream_t, const CUtensorMap& map, int rank, Coordinates at, cuda::Swizzle, int n_rows, int row_bytes,
              void* to);
// to[r] = from, for each block r of clusters of two: `map` is from [16 n_tiles, 64] of 16 bits in boxes of 8 rows. Each
// block loads one half of a tile into both, through a ring of 2 stages. ranks[b]: what block b says of itself.
void share_tiles(cudaStream_t, const CUtensorMap& map, int n_tiles, int n_clusters, uint16_t* to, uint32_t* ranks);
// n_matrices (1, 2, 4) of 8x8 16-bit values: fragments[i][lane]; and back (2, 4): `matrices` from fragments.
void load_fragments(cudaStream_t, int n_matrices, bool transposed, const uint16_t* matrices, uint32_t* fragments);
void store_fragments(cudaStream_t, int n_matrices, const uint32_t* fragments, uint16_t* matrices);
// d [16, 8] f32 += a [16, 16] b [8, 16]^T, a and b bf16.
void multiply_warp(cudaStream_t, const uint16_t* a, const uint16_t* b, float* d);
// d [16, 8] += a [16, 32] b [8, 32]^T of signed bytes.
void multiply_bytes(cudaStream_t, const int8_t* a, const int8_t* b, int* d);
// Of each word of four E4M3 codes (attention/fp8_codes.h): even_codes, odd_codes, and upper_codes of itself times 2^60.
void expand_codes(cudaStream_t, const uint32_t* words, int n, uint32_t* even, uint32_t* odd, uint32_t* upper);
// d [64, n] f32 = (d +) a [64, 64] times b: [n, 64]^T, or [64, n] where it is mn-major. a, b bf16.
struct MultiplyCase {
  int n;
  cuda::Swizzle swizzle;
  bool b_mn_major, a_in_registers, accumulate;
};
void multiply_warpgroup(cudaStream_t, const MultiplyCase&, const uint16_t* a, const uint16_t* b, float* d);
// d [64, n] f32 = a [64, 128] times b [n, 128]^T, E4M3; n 8 or a multiple of 16 up to 128. And to[i], to[i + 1] = the codes
// nearest to from[i], from[i + 1]; n_codes even, at most 256.
void multiply_e4m3(cudaStream_t, int n, const uint8_t* a, const uint8_t* b, float* d);
void nearest_codes(cudaStream_t, const float* from, uint8_t* to, int n_codes);
// What each of two halves of a block said before named barrier 1 is seen after it by the other; out[128].
void exchange(cudaStream_t, int* out);
// out[b] = how many of the launch's blocks had arrived when block b did, plus 1000 for the thread that each warp
// elects.
void arrive(cudaStream_t, uint32_t* counter, uint32_t* out, int n_blocks);
// to[i] = from[i] with load_once16, load_once16_ahead, load_volatile16 in turn; n of 16 bytes. With programmatic
// launch.
void copy_16(cudaStream_t, const void* from, void* to, int n);

}  // namespace l4::test
