// How a warp's keys and values of a unit come to shared memory in decode.cu, and from there to a matrix instruction's
// registers: one policy for each format of the cache.
//
// A step is kTiles matrix instructions' 16 keys. Which key is row g or g + 8 of tile T, key_of(T, 0 or 1, g), and which
// elements of a head are rows g and g + 8 of the values' operand 16 i, element_of(i, 0 or 1, g), is the policy's choice.
#pragma once

#include "kernels/cuda/attention/choose.h"
#include "kernels/cuda/attention/fp8_codes.h"
#include "kernels/cuda/attention/kernels.h"
#include "kernels/cuda/ptx/cp_async.h"
#include "kernels/cuda/ptx/ldmatrix.h"

namespace l4::cuda {

// What the formats share: kTileKeys rows of kRowBytes, K's and then V's, a stage.
template <int kTileCount, int kElementBytes>
struct CacheRows {
  static constexpr int kTiles = kTileCount, kStepKeys = 16 * kTiles;
  static constexpr int kRowBytes = int(kFastHeadDim) * kElementBytes, kChunks = kRowBytes / 16;
  static constexpr int kPartBytes = kStepKeys * kRowBytes;  // the keys; the values follow
  static constexpr int kStageBytes = 2 * kPartBytes;
  static constexpr int kRowsAtOnce = 32 / kChunks;  // of a warp's copy
};

struct Bf16Cache : CacheRows<1, 2> {
  static constexpr float kFactor = 1;  // of the other operands

  // 16-byte chunk c of row r lies at chunk c ^ (r % 8): eight rows of one column are in eight different groups of
  // banks.
  __device__ static int place_of(int row, int chunk) { return row * kRowBytes + (chunk ^ (row % 8)) * 16; }
  __device__ static int key_of(int, int half, int g) { return g + 8 * half; }
  __device__ static int element_of(int i, int half, int g) { return 16 * i + g + 8 * half; }
  // A operand of tile 0 [16 keys, elements 16 i ..].
  __device__ static void keys(uint32_t (&a)[kTiles][4], const std::byte* stage, int i, int lane) {
    ldmatrix_x4(a[0], stage + place_of(lane % 16, 2 * i + lane / 16));
  }
  // A operand of tile 0 [elements 16 i .., 16 keys].
  __device__ static void values(uint32_t (&a)[kTiles][4], const std::byte* stage, int i, int lane) {
    ldmatrix_x4_trans(a[0], stage + kPartBytes + place_of(lane % 8 + lane / 16 * 8, 2 * i + lane / 8 % 2));
  }
  // B operand: elements 16 i .. of a head.
  __device__ static void query(uint32_t (&b)[2], const bf16* head, int i, int t) {
    const uint32_t* from = reinterpret_cast<const uint32_t*>(head) + 8 * i + t;
    b[0] = from[0];
    b[1] = from[4];
  }

  // Of tokens: none.
  struct Scales {
    __device__ static Scales load(const PagedKv&, const std::byte*, int64_t, int) { return {}; }
    __device__ float key(int, int) const { return 1; }
    __device__ float value(int, int, bool) const { return 1; }
  };
};

// Codes, expanded (fp8_codes.h) on the way to the registers: 7 instructions for four codes. A unit has twice as many
// keys, so as many bytes, as one of bfloat16; 32 keys a warp let instructions of one tile run under the other's waits.
//
// Key 4 r + m is row r of the m-th 8 x 8 matrix of ldmatrix, so that a thread's four keys, 4 g to 4 g + 3, are
// neighbours, and so are their scales. A word of K is four neighbouring elements of a key, the first and third of which
// make one pair and the others another: q comes in the same order. A transposed word of V is two neighbouring elements
// of two keys, the one pair of which is a row of the operand and the other another one.
struct Fp8Cache : CacheRows<2, 1> {
  static constexpr float kFactor = kCodesFactor;

  __device__ static int place_of(int row, int chunk) { return row * kRowBytes + (chunk ^ (row / 4 % 8)) * 16; }
  __device__ static int key_of(int tile, int half, int g) { return 4 * g + 2 * tile + half; }
  __device__ static int element_of(int i, int half, int g) { return 16 * i + 2 * g + half; }
  __device__ static void keys(uint32_t (&a)[kTiles][4], const std::byte* stage, int i, int lane) {
    uint32_t words[4];
    ldmatrix_x4(words, stage + place_of(lane % 8 * 4 + lane / 8, i));
#pragma unroll
    for (int m = 0; m < 4; ++m) {
      a[m / 2][m % 2] = even_codes(words[m]);
      a[m / 2][m % 2 + 2] = odd_codes(words[m]);
    }
  }
  __device__ static void values(uint32_t (&a)[kTiles][4], const std::byte* stage, int i, int lane) {
    uint32_t words[4];
    ldmatrix_x4_trans(words, stage + kPartBytes + place_of(lane % 8 * 4 + lane / 8, i));
#pragma unroll
    for (int m = 0; m < 4; ++m) {
      a[m / 2][m % 2 * 2] = even_codes(words[m]);
      a[m / 2][m % 2 * 2 + 1] = odd_codes(words[m]);
    }
  }
  __device__ static void query(uint32_t (&b)[2], const bf16* head, int i, int t) {
    const uint2 from = reinterpret_cast<const uint2*>(head)[4 * i + t];
    b[0] = times(__byte_perm(from.x, from.y, 0x5410), kCodesFactorPair);
    b[1] = times(__byte_perm(from.x, from.y, 0x7632), kCodesFactorPair);
  }

  // Of this thread's four keys and values. Straight to registers: they may be new, so never from L1.
  struct Scales {
    uint2 k = {kOnePair, kOnePair}, v = k;

    // `first`: the step's first entry among those of a page's heads.
    __device__ static Scales load(const PagedKv& kv, const std::byte* page, int64_t first, int lane) {
      Scales scales;
      if (kv.k_scale_offset < 0) return scales;
      const std::byte* at = page + first * 2;
      scales.k = __ldcg(reinterpret_cast<const uint2*>(at + kv.k_scale_offset) + lane / 4);
      scales.v = __ldcg(reinterpret_cast<const uint2*>(at + kv.v_scale_offset) + lane / 4);
      return scales;
    }
    __device__ float key(int tile, int half) const { return upper_or_lower(tile ? k.y : k.x, half); }
    // A key that is not there has any scale, NaN too.
    __device__ float value(int tile, int half, bool is_there) const {
      return is_there ? upper_or_lower(tile ? v.y : v.x, half) * kCodesFactor : 0;
    }
    __device__ static float upper_or_lower(uint32_t pair, int upper) {
      return __uint_as_float(upper ? pair & 0xffff0000u : pair << 16);
    }
  };
};

// Starts the copy of a step's rows of k and v, those from n_valid on as zeros.
template <class Cache>
__device__ inline void load_rows(std::byte* stage, const std::byte* k, const std::byte* v, int n_valid, int lane) {
#pragma unroll
  for (int i = 0; i < Cache::kStepKeys / Cache::kRowsAtOnce; ++i) {
    const int row = Cache::kRowsAtOnce * i + lane / Cache::kChunks, chunk = lane % Cache::kChunks;
    const int from = row * Cache::kRowBytes + chunk * 16, to = Cache::place_of(row, chunk);
    cp_async_or_zero<16>(stage + to, k + from, row < n_valid);
    cp_async_or_zero<16>(stage + Cache::kPartBytes + to, v + from, row < n_valid);
  }
}
// The same for rows n_old to n_valid only, over zeros that have arrived: each by who wrote the zeros.
template <class Cache>
__device__ inline void load_new_rows(std::byte* stage, const std::byte* k, const std::byte* v, int n_old, int n_valid,
                                     int lane) {
#pragma unroll 1
  for (int row = max(n_old, 0); row < min(n_valid, Cache::kStepKeys); ++row) {
    if (row % Cache::kRowsAtOnce != lane / Cache::kChunks) continue;
    const int chunk = lane % Cache::kChunks, from = row * Cache::kRowBytes + chunk * 16;
    const int to = Cache::place_of(row, chunk);
    cp_async<16>(stage + to, k + from);
    cp_async<16>(stage + Cache::kPartBytes + to, v + from);
  }
}

}  // namespace l4::cuda
