// Full attention within image tiles on warp-wide matrix instructions: bfloat16, head_dim 88 (the vision tower: 577
// tokens, 16 heads).
//
// Contract: tile_attention. Flops: 4 * 88 * 577^2 a (tile, head), 1.9 GFLOP a tile; bytes are nothing beside them.
//
// After FlashAttention-2: a block takes 128 query rows of a (tile, head), a warp 16 of them; keys and values come 32 at
// a time, the next 32 while these are computed. A row of 88 elements is 11 chunks of 16 bytes: an odd number, so that
// eight rows below each other are in eight different groups of banks as they lie, without padding or swizzle. 88 is
// five and a half steps of 16: the second half of the sixth step's operands is zero in registers, nothing is read for
// it.
//
// 577 = 18 * 32 + 1: of the last 32 keys only the 16 with the last one are computed, and warps whose rows are past the
// end only help to load (592 of 640 rows are computed). Keys past the end are loaded as zeros and masked.
#include "kernels/cuda/attention/fragments.h"
#include "kernels/cuda/attention/kernels.h"
#include "kernels/cuda/device/shared.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx/cp_async.h"
#include "kernels/cuda/ptx/exp2.h"
#include "kernels/cuda/ptx/ldmatrix.h"
#include "kernels/cuda/ptx/mma.h"

namespace l4::cuda {

namespace {

constexpr int kHd = 88, kChunks = kHd / 8, kSteps = (kHd + 15) / 16;
constexpr int kWarps = 8, kThreads = 32 * kWarps, kRows = 16 * kWarps;
constexpr int kKeys = 32;
static_assert(kChunks % 2 == 1);

struct TileArgs {
  const bf16 *q, *k, *v;  // [N, S, H, 88]
  bf16* out;
  int32_t n_tokens, n_heads;
  float scale;  // times log2(e)
};

struct Stage {
  bf16 k[kKeys][kHd], v[kKeys][kHd];
};

// A warp's 16 rows; this thread has rows g and g + 8.
struct Rows {
  float top[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
  float out[kChunks][4] = {};  // 8 elements a chunk

  // The first n >= 1 keys of a stage.
  __device__ void attend(const uint32_t (&q)[kSteps][4], const Stage& stage, int n, float scale, int lane) {
    float s[kKeys / 8][4] = {};
#pragma unroll
    for (int j = 0; j < kKeys / 16; ++j) {
      if (16 * j >= n) continue;
#pragma unroll
      for (int i = 0; i < kSteps; ++i) {
        uint32_t b[2][2] = {};
        if (2 * i + 1 < kChunks) {
          uint32_t r[4];
          ldmatrix_x4(r, &stage.k[16 * j + lane % 8 + lane / 16 * 8][(2 * i + lane / 8 % 2) * 8]);
          b[0][0] = r[0], b[0][1] = r[1], b[1][0] = r[2], b[1][1] = r[3];
        } else {
          uint32_t r[2];
          ldmatrix_x2(r, &stage.k[16 * j + lane % 16][2 * i * 8]);
          b[0][0] = r[0], b[1][0] = r[1];
        }
        mma_m16n8k16(s[2 * j], q[i], b[0]);
        mma_m16n8k16(s[2 * j + 1], q[i], b[1]);
      }
    }
    if (n < kKeys) {
#pragma unroll
      for (int j = 0; j < kKeys / 8; ++j)
#pragma unroll
        for (int c = 0; c < 4; ++c)
          if (8 * j + lane % 4 * 2 + c % 2 >= n) s[j][c] = -INFINITY;
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float next = top[r];
#pragma unroll
      for (int j = 0; j < kKeys / 8; ++j) next = fmaxf(next, fmaxf(s[j][2 * r], s[j][2 * r + 1]));
      next = fmaxf(next, __shfl_xor_sync(0xffffffffu, next, 1));
      next = fmaxf(next, __shfl_xor_sync(0xffffffffu, next, 2));
      const float shift = next * scale, shrink = exp2_approx(top[r] * scale - shift);
      top[r] = next;
      sum[r] *= shrink;
#pragma unroll
      for (int i = 0; i < kChunks; ++i) {
        out[i][2 * r] *= shrink;
        out[i][2 * r + 1] *= shrink;
      }
#pragma unroll
      for (int j = 0; j < kKeys / 8; ++j)
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          s[j][2 * r + c] = exp2_approx(s[j][2 * r + c] * scale - shift);
          sum[r] += s[j][2 * r + c];
        }
    }
#pragma unroll
    for (int j = 0; j < kKeys / 16; ++j) {
      if (16 * j >= n) continue;
      const uint32_t p[4] = {narrow(s[2 * j][0], s[2 * j][1]), narrow(s[2 * j][2], s[2 * j][3]),
                             narrow(s[2 * j + 1][0], s[2 * j + 1][1]), narrow(s[2 * j + 1][2], s[2 * j + 1][3])};
#pragma unroll
      for (int i = 0; i + 1 < kChunks; i += 2) {
        uint32_t r[4];
        ldmatrix_x4_trans(r, &stage.v[16 * j + lane % 16][(i + lane / 16) * 8]);
        const uint32_t low[2] = {r[0], r[1]}, high[2] = {r[2], r[3]};
        mma_m16n8k16(out[i], p, low);
        mma_m16n8k16(out[i + 1], p, high);
      }
      uint32_t r[2];
      ldmatrix_x2_trans(r, &stage.v[16 * j + lane % 16][(kChunks - 1) * 8]);
      mma_m16n8k16(out[kChunks - 1], p, r);
    }
  }
};

// Block: 128 rows of a head of a tile.
__global__ void __launch_bounds__(kThreads, 2) attend_tile(const __grid_constant__ TileArgs args) {
  Stage* stages = dynamic_shared<Stage>();
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  const int64_t row_stride = int64_t(args.n_heads) * kHd;
  const int64_t base = (int64_t(blockIdx.z) * args.n_tokens * args.n_heads + blockIdx.y) * kHd;
  const int32_t first_row = int32_t(blockIdx.x) * kRows + warp * 16;
  const int32_t rows[2] = {first_row + lane / 4, first_row + lane / 4 + 8};

  auto load = [&](int32_t tile) {
    Stage& stage = stages[tile % 2];
#pragma unroll 1
    for (int i = int(threadIdx.x); i < kKeys * kChunks; i += kThreads) {
      const int32_t key = tile * kKeys + i / kChunks;
      const bool valid = key < args.n_tokens;
      const int64_t from = base + (valid ? key : 0) * row_stride + i % kChunks * 8;
      cp_async_or_zero<16>(&stage.k[0][0] + i * 8, args.k + from, valid);
      cp_async_or_zero<16>(&stage.v[0][0] + i * 8, args.v + from, valid);
    }
    cp_async_commit();
  };
  load(0);

  uint32_t q[kSteps][4];
#pragma unroll
  for (int i = 0; i < kSteps; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int32_t row = rows[j % 2], element = 16 * i + j / 2 * 8 + lane % 4 * 2;
      q[i][j] = row < args.n_tokens && element < kHd
                    ? *reinterpret_cast<const uint32_t*>(args.q + base + row * row_stride + element)
                    : 0;
    }
  Rows state;
  const int32_t n_tiles = (args.n_tokens + kKeys - 1) / kKeys;
  for (int32_t tile = 0; tile < n_tiles; ++tile) {
    if (tile + 1 < n_tiles) {
      load(tile + 1);
      cp_async_wait<1>();
    } else {
      cp_async_wait<0>();
    }
    __syncthreads();
    if (first_row < args.n_tokens)
      state.attend(q, stages[tile % 2], min(kKeys, args.n_tokens - tile * kKeys), args.scale, lane);
    __syncthreads();  // before the stage is loaded again
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float sum = state.sum[r];
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    if (rows[r] >= args.n_tokens) continue;
    const float factor = 1 / sum;
    bf16* to = args.out + base + rows[r] * row_stride + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < kChunks; ++i)
      *reinterpret_cast<uint32_t*>(to + 8 * i) =
          narrow(state.out[i][2 * r] * factor, state.out[i][2 * r + 1] * factor);
  }
}

}  // namespace

void flash_tile_attention(const OpContext& ctx, const VisionAttentionArgs& args) {
  if (ctx.measuring()) return;
  const Shape& s = args.q.shape;  // [N, S, H, 88]
  launch({.grid = dim3(unsigned((s[1] + kRows - 1) / kRows), unsigned(s[2]), unsigned(s[0])),
          .block = kThreads,
          .shared_bytes = 2 * sizeof(Stage),
          .stream = ctx.gpu.stream},
         attend_tile,
         TileArgs{data<bf16>(args.q), data<bf16>(args.k), data<bf16>(args.v), data<bf16>(args.out), int32_t(s[1]),
                  int32_t(s[2]), args.scale * kLog2e});
}

}  // namespace l4::cuda
