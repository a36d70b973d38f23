// The products of int4.cu. A lane (g = lane / 4, t = lane % 4) of the warp with rows 16 w .. + 15 of its warpgroup's 64 gives
// the columns 16 i + 2 t, + 1 and 8 further on of rows g and g + 8: a pair of each of four words. The four lanes of a row read
// the same words and take a pair each: word >> 4 t has it (weight_layout.h), so nothing is moved between lanes, and tokens
// lie as they are.
#pragma once

#include "kernels/cuda/matmul/int4_codes.h"
#include "kernels/cuda/matmul/int4_ring.h"
#include "kernels/cuda/ptx/wgmma.h"

namespace l4::cuda::grouped {

constexpr int kInt4Block = 32, kInt4Blocks = int(kInt4Columns) / kInt4Block;  // columns of two instructions; of a stage

// The words of rows g and g + 8 for four blocks, those of columns 8 j .. + 7 of the i-th at [row][j][i].
using Int4Words = uint32_t[2][4][4];
// row_g: of a stage's codes; of blocks b, a multiple of 4, and those after it.
__device__ inline void load_words(const unsigned char* row_g, int g, int b, Int4Words& words) {
#pragma unroll
  for (int r = 0; r < 2; ++r)
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int chunk = (2 * j + b / 4) ^ g;  // Swizzle::bytes128
      const uint4 v = *reinterpret_cast<const uint4*>(row_g + 8 * r * kRowBytes + 16 * chunk);
      words[r][j][0] = v.x, words[r][j][1] = v.y, words[r][j][2] = v.z, words[r][j][3] = v.w;
    }
}
// Operands of the i-th block's two instructions. each(pair, r): what becomes of two codes of row g + 8 r.
template <class Each>
__device__ inline void expand(const Int4Words& words, int i, int t, uint32_t (&a)[2][4], const Each& each) {
#pragma unroll
  for (int j = 0; j < 4; ++j)
#pragma unroll
    for (int r = 0; r < 2; ++r) a[j / 2][j % 2 * 2 + r] = each(int4_codes(words[r][j][i], t), r);
}

// Through a shuffle, so that the compiler knows it to be the same in all lanes.
__device__ inline uint64_t uniform_descriptor(const void* tokens) {
  return __shfl_sync(kAllLanes, matrix_descriptor(tokens, Swizzle::bytes128, 0, 8 * kRowBytes), 0);
}

// Where a lane finds its rows: row of the tile, that of its warp's first.
template <class S>
struct Int4Lane {
  int warp_rows, g, t;
  __device__ const unsigned char* codes(const Int4Rings<S>& rings) const {
    return rings.code_stage() + (warp_rows + g) * kRowBytes;
  }
  // [groups][16], of row g.
  __device__ const bf16* scales(const Int4Rings<S>& rings, int groups) const {
    return reinterpret_cast<const bf16*>(rings.scale_stage()) + warp_rows * groups + g;
  }
};

// sums += weights tokens of `n_steps` stages, kN tokens wide, kGroups groups a stage. Codes are multiplied exactly; a group's
// sums are multiplied by its scale and added in float32. There are two sets of sums of groups: while one is added, and the
// next block's codes are expanded, instructions fill the other.
template <int kN, int kGroups, class S>
__device__ void multiply_groups(int n_steps, const Int4Lane<S>& lane, Int4Rings<S>& rings, float (&sums)[kN / 2]) {
  constexpr int kBlocks = kInt4Blocks, kBlocksEach = kBlocks / kGroups;
  for (int step = 0; step < n_steps; ++step) {
    mbarrier_wait(&rings.codes.full[rings.codes.stage], rings.codes.parity);
    mbarrier_wait(&rings.tokens.full[rings.tokens.stage], rings.tokens.parity);
    const bf16* scales = lane.scales(rings, kGroups);
    const uint64_t tokens = uniform_descriptor(rings.token_stage());
    float part[2][kN / 2];  // of the group that is being multiplied and of the one before
    Int4Words words;
    uint32_t a[2][2][4];  // of a block and the one before it
#pragma unroll
    for (int b = 0; b <= kBlocks; ++b) {
      const int group = b / kBlocksEach;
      if (b < kBlocks) {
        if (b % 4 == 0) load_words(lane.codes(rings), lane.g, b, words);
        expand(words, b % 4, lane.t, a[b % 2], [](uint32_t pair, int) { return pair; });
        wgmma_hold(part[group % 2]);
        wgmma_fence();
#pragma unroll
        for (int i = 0; i < 2; ++i)
          wgmma<kN>(part[group % 2], a[b % 2][i],
                    advance_descriptor(tokens, uint32_t(b / 2 * kN * kRowBytes + (2 * (b % 2) + i) * 32)),
                    b % kBlocksEach != 0 || i != 0);
        wgmma_commit();
        wgmma_wait<1>();  // the block before is done
      } else {
        wgmma_wait<0>();
      }
      if (b > 0 && b % kBlocksEach == 0) {
        auto& before = part[(group - 1) % 2];
        wgmma_hold(before);
        float scale[2];
#pragma unroll
        for (int r = 0; r < 2; ++r) scale[r] = get(scales[(group - 1) * int(kScaleRows) + 8 * r]);
#pragma unroll
        for (int i = 0; i < kN / 2; ++i) sums[i] = fmaf(before[i], scale[i / 2 % 2], sums[i]);
      }
    }
    const int warp_lane = 4 * lane.g + lane.t;
    if (warp_lane == 0) mbarrier_arrive(&rings.codes.empty[rings.codes.stage]);
    leave_stage<S>(&rings.tokens.empty[rings.tokens.stage], warp_lane);
    rings.codes.next(), rings.tokens.next();
  }
}

// The same with code times scale rounded to bfloat16 first, as dequantize.cu has it: there are no registers for two sets of
// sums beside those of 256 tokens. Instructions of a stage end with it: otherwise ptxas serialises all of them (C7512).
template <int kN, class S>
__device__ void multiply_scaled(int n_steps, int groups, const Int4Lane<S>& lane, Int4Rings<S>& rings,
                                float (&sums)[kN / 2]) {
  const int warp_lane = 4 * lane.g + lane.t;
  for (int step = 0; step < n_steps; ++step) {
    mbarrier_wait(&rings.codes.full[rings.codes.stage], rings.codes.parity);
    const bf16* scales = lane.scales(rings, groups);
    uint64_t tokens = 0;
    Mbarrier* done = nullptr;  // of the stage of tokens before this one
    Int4Words words;
    uint32_t a[2][2][4];
#pragma unroll
    for (int b = 0; b < kInt4Blocks; ++b) {
      if (b % 4 == 0) load_words(lane.codes(rings), lane.g, b, words);
      const bf16* of_group = scales + (b * groups / kInt4Blocks) * int(kScaleRows);
      const __nv_bfloat162 scale[2] = {__bfloat162bfloat162(of_group[0]), __bfloat162bfloat162(of_group[8])};
      expand(words, b % 4, lane.t, a[b % 2], [&](uint32_t pair, int r) { return times(pair, scale[r]); });
      if (b % 2 == 0) {
        mbarrier_wait(&rings.tokens.full[rings.tokens.stage], rings.tokens.parity);
        tokens = uniform_descriptor(rings.token_stage());
      }
      wgmma_hold(sums);
      wgmma_fence();
#pragma unroll
      for (int i = 0; i < 2; ++i)
        wgmma<kN>(sums, a[b % 2][i], advance_descriptor(tokens, uint32_t((2 * (b % 2) + i) * 32)), true);
      wgmma_commit();
      if (b + 1 < kInt4Blocks)
        wgmma_wait<1>();  // the block before is done
      else
        wgmma_wait<0>();
      if (b % 2 == 0) {
        if (b > 0) leave_stage<S>(done, warp_lane);
        done = &rings.tokens.empty[rings.tokens.stage];
        rings.tokens.next();
      }
    }
    leave_stage<S>(done, warp_lane);
    if (warp_lane == 0) mbarrier_arrive(&rings.codes.empty[rings.codes.stage]);
    rings.codes.next();
  }
  wgmma_hold(sums);
}

}  // namespace l4::cuda::grouped
