// One token's attention, a warp at a time: its keys' scores, weights and values, and the sum over warps. What decode.cu
// and one_token/attend.h share; how keys and values lie in shared memory is the Cache's business (decode_cache.h).
#pragma once

#include "kernels/cuda/attention/choose.h"
#include "kernels/cuda/device/math.h"
#include "kernels/cuda/device/piece.h"
#include "kernels/cuda/ptx/exp2.h"
#include "kernels/cuda/ptx/mma.h"
#include "kernels/cuda/ptx/movmatrix.h"

namespace l4::cuda {

constexpr int kHd = int(kFastHeadDim);
constexpr int kHeads = int(kMaxGroup);
constexpr uint32_t kWholeWarp = 0xffffffffu;

// A warp's running softmax over its keys. As of mma.h: this thread has the columns (heads) 2 t and 2 t + 1.
struct State {
  float top[2], sum[2];       // sum: of this thread's keys only
  float values[kHd / 16][4];  // [elements, heads]

  __device__ void clear() {
    top[0] = top[1] = -INFINITY;
    sum[0] = sum[1] = 0;
#pragma unroll
    for (int i = 0; i < kHd / 16; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) values[i][j] = 0;
  }
};

// B operands: element 16 i + .. of head g. Columns past the last head repeat it; nobody reads their sums.
template <class Cache>
struct Query {
  uint32_t b[kHd / 16][2];
  __device__ void load(const bf16* heads, int32_t group, int lane) {
    const bf16* head = heads + min(lane / 4, group - 1) * kHd;
#pragma unroll
    for (int i = 0; i < kHd / 16; ++i) Cache::query(b[i], head, i, lane % 4);
  }
};

// A step's keys, of which the first n_valid >= 1 count; is_first: the state is clear.
template <class Cache>
__device__ inline void attend(State& state, const Query<Cache>& query, const std::byte* stage,
                              const typename Cache::Scales& scales, int n_valid, float scale, bool is_first, int lane) {
  constexpr int kTiles = Cache::kTiles;
  float even[kTiles][4] = {}, odd[kTiles][4] = {};
#pragma unroll
  for (int i = 0; i < kHd / 16; ++i) {
    uint32_t a[kTiles][4];
    Cache::keys(a, stage, i, lane);
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) mma_m16n8k16(i % 2 ? odd[tile] : even[tile], a[tile], query.b[i]);
  }
  // Keys of the tile's rows g (0, 1) and g + 8 (2, 3), heads 2 t (0, 2) and 2 t + 1 (1, 3).
  float s[kTiles][4], next[2] = {-INFINITY, -INFINITY};
  auto is_there = [&](int tile, int half) { return Cache::key_of(tile, half, lane / 4) < n_valid; };
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float factor = scale * scales.key(tile, i / 2);
      s[tile][i] = is_there(tile, i / 2) ? (even[tile][i] + odd[tile][i]) * factor : -INFINITY;
      next[i % 2] = fmaxf(next[i % 2], s[tile][i]);
    }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int offset = 4; offset < 32; offset *= 2)
      next[i] = fmaxf(next[i], __shfl_xor_sync(kWholeWarp, next[i], offset));
    next[i] = fmaxf(next[i], state.top[i]);
  }
  if (is_first) {
    state.top[0] = next[0];
    state.top[1] = next[1];
  } else if (__any_sync(kWholeWarp, next[0] != state.top[0] || next[1] != state.top[1])) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float shrink = exp2_approx(state.top[i] - next[i]);
      state.top[i] = next[i];
      state.sum[i] *= shrink;
#pragma unroll
      for (int j = 0; j < kHd / 16; ++j) {
        state.values[j][i] *= shrink;
        state.values[j][i + 2] *= shrink;
      }
    }
  }
  uint32_t weights[kTiles][2];
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      s[tile][i] = exp2_approx(s[tile][i] - state.top[i % 2]);
      state.sum[i % 2] += s[tile][i];
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float by = scales.value(tile, half, is_there(tile, half));
      weights[tile][half] = transpose_8x8(narrow(s[tile][2 * half] * by, s[tile][2 * half + 1] * by));
    }
  }
#pragma unroll
  for (int i = 0; i < kHd / 16; ++i) {
    uint32_t a[kTiles][4];
    Cache::values(a, stage, i, lane);
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) mma_m16n8k16(state.values[i], a[tile], weights[tile]);
  }
}

// Where the warps of a block add up their states.
template <int kWarps>
struct Meeting {
  static constexpr int kStride = kHd + 4;  // four heads beside each other in different banks
  alignas(16) float values[kWarps][kHeads][kStride];
  alignas(16) float top[kHeads][kWarps], sum[kHeads][kWarps];
};
// 2^(x - top), where both may be -infinity: no key was seen.
__device__ inline float weight_of(float x, float top) {
  return exp2_approx(x - (top == -INFINITY ? 0.0f : top));
}

template <class Cache, int kWarps>
__device__ inline void put(Meeting<kWarps>& meeting, const State& state, float value_scale, int warp, int lane) {
  const int g = lane / 4, t = lane % 4;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float sum = state.sum[i];
#pragma unroll
    for (int offset = 4; offset < 32; offset *= 2) sum += __shfl_xor_sync(kWholeWarp, sum, offset);
    if (g == 0) {
      meeting.top[2 * t + i][warp] = state.top[i];
      meeting.sum[2 * t + i][warp] = sum;
    }
#pragma unroll
    for (int j = 0; j < kHd / 16; ++j) {
      meeting.values[warp][2 * t + i][Cache::element_of(j, 0, g)] = state.values[j][i] * value_scale;
      meeting.values[warp][2 * t + i][Cache::element_of(j, 1, g)] = state.values[j][i + 2] * value_scale;
    }
  }
}

// Four elements of a head over a block's keys.
struct Sum {
  float top = -INFINITY, sum = 0, values[4] = {};

  __device__ void add(float weight, float sum_of, float4 v) {
    sum += weight * sum_of;
    values[0] += weight * v.x;
    values[1] += weight * v.y;
    values[2] += weight * v.z;
    values[3] += weight * v.w;
  }
  // As bfloat16.
  __device__ uint2 result() const {
    const float factor = __fdividef(1, sum);
    return make_uint2(narrow(values[0] * factor, values[1] * factor), narrow(values[2] * factor, values[3] * factor));
  }
  __device__ void put(bf16* out) const { *reinterpret_cast<uint2*>(out) = result(); }
};

// Four elements over the warps.
template <int kWarps>
__device__ inline Sum add_warps(const Meeting<kWarps>& meeting, int head, int element) {
  static_assert(kWarps % 4 == 0);
  float4 tops[kWarps / 4], sums[kWarps / 4];
  Sum all;
#pragma unroll
  for (int i = 0; i < kWarps / 4; ++i) {
    tops[i] = *reinterpret_cast<const float4*>(meeting.top[head] + 4 * i);
    sums[i] = *reinterpret_cast<const float4*>(meeting.sum[head] + 4 * i);
    all.top = fmaxf(all.top, fmaxf(fmaxf(tops[i].x, tops[i].y), fmaxf(tops[i].z, tops[i].w)));
  }
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    const float top = (&tops[w / 4].x)[w % 4], sum = (&sums[w / 4].x)[w % 4];
    all.add(weight_of(top, all.top), sum, *reinterpret_cast<const float4*>(meeting.values[w][head] + element));
  }
  return all;
}

}  // namespace l4::cuda
