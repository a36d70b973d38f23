// Tiled products on the ordinary cores: a block of 256 threads makes 64 x 64 outputs, 4 x 4 a thread, from tiles of 16
// columns of k in shared memory. Sums are float32 in order of k, whatever the tiling and the other rows. It serves tiny
// models, float32, odd shapes and every format; nothing here is meant to be fast.
//
// Codes are multiplied as the numbers they stand for, and the sums scaled: with a scale a row once, with scales of
// groups a group at a time. Input that is to be quantised becomes such numbers on its way to shared memory.
#include "kernels/cuda/device/math.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/matmul/generic.h"
#include "kernels/cuda/ptx/pdl.h"
#include "kernels/cuda/weight_layout.h"
#include "quant/fp8.h"

namespace l4::cuda {

namespace {
constexpr int kTile = 64, kDepth = 16, kThreads = 256, kPerThread = 4;

struct Rows {
  int64_t n_rows;        // without groups
  const int32_t* begin;  // [E + 1] or null
  const int32_t *x_rows, *y_rows;
  const float* x_scale;
  // What rows of x are divided by to become codes: each by its own, or all by one; neither: they stay as they are.
  const float* own_scale;
  float one_scale;
  __device__ bool to_codes() const { return own_scale || one_scale != 0; }
  __device__ float code_scale(int64_t x_row) const { return own_scale ? own_scale[x_row] : one_scale; }
};

// Weights by format: the number at a column of a row (of all experts' rows), and what sums are multiplied by.
template <class W>
struct Plain {
  static constexpr bool kGroups = false;
  const W* w;
  int64_t k;
  __device__ float value(int64_t row, int64_t column) const { return get(w[row * k + column]); }
  __device__ float row_scale(int64_t) const { return 1; }
};
struct Fp8 {
  static constexpr bool kGroups = false;
  const uint8_t* codes;
  const float* scales;
  int64_t k;
  __device__ float value(int64_t row, int64_t column) const { return fp8_to_float(codes[row * k + column]); }
  __device__ float row_scale(int64_t row) const { return scales[row]; }
};
struct Int4 {
  static constexpr bool kGroups = true;
  const uint32_t* words;
  const bf16* scales;
  int64_t n, k, group;
  __device__ float value(int64_t row, int64_t column) const {
    const uint32_t word = words[row * (k / 8) + word_at(column / 8, k)];
    return float(int(word >> shift_of(column % 8) & 15u) - 8);
  }
  __device__ float row_scale(int64_t) const { return 1; }
  // Of the group that begins at column k0 of row n of an expert.
  __device__ float group_scale(int64_t expert, int64_t row, int64_t k0) const {
    const int64_t n_groups = k / group;
    return get(scales[expert * scale_tiles(n) * kScaleRows * n_groups + group_scale_at(row, k0 / group, n_groups)]);
  }
};

template <class X, class Weights, class Y>
__global__ void __launch_bounds__(kThreads) generic_kernel(const X* x, Weights w, const float* bias, Y* y, int64_t n,
                                                           int64_t k, int64_t group, Rows rows, bool round) {
  wait_for_predecessor();
  let_successor_start();
  __shared__ float x_tile[kDepth][kTile + 1], w_tile[kDepth][kTile + 1];
  const int64_t expert = blockIdx.z, n0 = int64_t(blockIdx.x) * kTile;
  const int64_t first = rows.begin ? rows.begin[expert] : 0;
  const int64_t count = rows.begin ? rows.begin[expert + 1] - first : rows.n_rows;
  auto x_row = [&](int64_t entry) { return rows.x_rows ? int64_t(rows.x_rows[entry]) : entry; };
  const int tx = int(threadIdx.x % 16), ty = int(threadIdx.x / 16);
  for (int64_t m0 = int64_t(blockIdx.y) * kTile; m0 < count; m0 += int64_t(gridDim.y) * kTile) {
    float sum[kPerThread][kPerThread] = {};  // [row][column]
    for (int64_t group_begin = 0; group_begin < k; group_begin += group) {
      const int64_t group_end = group_begin + group;
      float part[kPerThread][kPerThread] = {};
      for (int64_t k0 = group_begin; k0 < group_end; k0 += kDepth) {
        for (int i = int(threadIdx.x); i < kTile * kDepth; i += kThreads) {
          const int64_t row = i / kDepth, column = k0 + i % kDepth;
          const bool inside = column < group_end;
          float vx = 0, vw = 0;
          if (inside && m0 + row < count) {
            const int64_t entry = first + m0 + row, from = x_row(entry);
            vx = get(x[from * k + column]);
            if (rows.to_codes())
              vx = fp8_to_float(fp8_from_float(vx / rows.code_scale(from)));
            else if (rows.x_scale)
              vx = round_to<X>(vx * rows.x_scale[entry]);
          }
          if (inside && n0 + row < n) vw = w.value(expert * n + n0 + row, column);
          x_tile[i % kDepth][row] = vx;
          w_tile[i % kDepth][row] = vw;
        }
        __syncthreads();
#pragma unroll
        for (int d = 0; d < kDepth; ++d)
#pragma unroll
          for (int i = 0; i < kPerThread; ++i)
#pragma unroll
            for (int j = 0; j < kPerThread; ++j)
              part[i][j] = fmaf(x_tile[d][ty + 16 * i], w_tile[d][tx + 16 * j], part[i][j]);
        __syncthreads();
      }
#pragma unroll
      for (int j = 0; j < kPerThread; ++j) {
        float scale = 1;
        if constexpr (Weights::kGroups)
          if (n0 + tx + 16 * j < n) scale = w.group_scale(expert, n0 + tx + 16 * j, group_begin);
#pragma unroll
        for (int i = 0; i < kPerThread; ++i) sum[i][j] = fmaf(part[i][j], scale, sum[i][j]);
      }
    }
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) {
      const int64_t row = m0 + ty + 16 * i;
      if (row >= count) continue;
      const int64_t entry = first + row;
      float x_scale = 1;
      if (rows.to_codes()) x_scale = rows.code_scale(x_row(entry)) * (rows.x_scale ? rows.x_scale[entry] : 1.0f);
      Y* to = y + (rows.y_rows ? rows.y_rows[entry] : entry) * n;
#pragma unroll
      for (int j = 0; j < kPerThread; ++j) {
        const int64_t column = n0 + tx + 16 * j;
        if (column >= n) continue;
        float v = sum[i][j] * (x_scale * w.row_scale(expert * n + column));
        if (bias) v += bias[expert * n + column];
        to[column] = rounded<Y>(round ? round_to<bf16>(v) : v);
      }
    }
  }
}

// A warp a row: what its values are divided by to become codes.
template <class X>
__global__ void __launch_bounds__(kThreads) code_scale_kernel(const X* x, int64_t n_rows, int64_t k, float* scale) {
  wait_for_predecessor();
  let_successor_start();
  const int64_t row = int64_t(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
  if (row >= n_rows) return;
  float largest = 0;
  for (int64_t i = threadIdx.x % 32; i < k; i += 32) largest = fmaxf(largest, fabsf(get(x[row * k + i])));
  largest = warp_max(largest);
  if (threadIdx.x % 32 == 0) scale[row] = fp8_scale(largest);
}

// y[t] = round(shared[t] + sum over the row's local choices of routed[slot]).
template <class A>
__global__ void __launch_bounds__(kThreads)
    combine_kernel(const float* shared, const float* routed, const int32_t* expert, int top_k, int first_expert,
                   int n_experts, A* y, int64_t d, int64_t n_elements) {
  wait_for_predecessor();
  let_successor_start();
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= n_elements) return;
  const int64_t t = i / d;
  float sum = 0;
  for (int64_t slot = t * top_k; slot < (t + 1) * top_k; ++slot) {
    const int e = expert[slot] - first_expert;
    if (e >= 0 && e < n_experts) sum += routed[slot * d + i % d];
  }
  y[i] = rounded<A>(shared[i] + sum);
}

template <class Body>
void with_weights(const PackedWeight& w, Body&& body) {
  const LinearSpec& spec = w.spec;
  const void *data = w.data.data(), *scales = w.scales.data();
  switch (spec.format) {
    case WeightFormat::f32:
      return body(Plain<float>{static_cast<const float*>(data), spec.k});
    case WeightFormat::bf16:
      return body(Plain<bf16>{static_cast<const bf16*>(data), spec.k});
    case WeightFormat::fp8:
      return body(Fp8{static_cast<const uint8_t*>(data), static_cast<const float*>(scales), spec.k});
    case WeightFormat::int4:
      return body(
          Int4{static_cast<const uint32_t*>(data), static_cast<const bf16*>(scales), spec.n, spec.k, spec.group});
  }
}
}  // namespace

void generic_gemm(const OpContext& ctx, const GenericGemm& g) {
  const LinearSpec& spec = g.w->spec;
  Scratch scratch(ctx.work);
  const int64_t n_x_rows = g.x.elements() / spec.k;
  float* own_scale = spec.input == InputFormat::fp8_token ? scratch.take_array<float>(n_x_rows) : nullptr;
  if (ctx.measuring()) return;
  const int64_t n_rows = g.groups ? g.groups->n_slots : n_x_rows;
  const int64_t n_experts = g.groups ? g.groups->n_experts : 1;
  constexpr int64_t kMostRowTiles = 1024;
  const Rows rows{n_rows,
                  g.groups ? g.groups->begin : nullptr,
                  g.x_rows,
                  g.y_rows,
                  g.x_scale,
                  own_scale,
                  spec.input == InputFormat::fp8_static ? spec.input_scale : 0};
  const Launch l{.grid = dim3(unsigned((spec.n + kTile - 1) / kTile),
                              unsigned(std::min((n_rows + kTile - 1) / kTile, kMostRowTiles)), unsigned(n_experts)),
                 .block = kThreads,
                 .stream = ctx.gpu.stream,
                 .programmatic = true};
  const float* bias = spec.bias ? static_cast<const float*>(g.w->bias.data()) : nullptr;
  const int64_t group = spec.format == WeightFormat::int4 ? spec.group : spec.k;
  with_activation(g.x.dtype, [&](auto x) {
    using X = decltype(x);
    const X* from = static_cast<const X*>(g.x.data);
    if (own_scale)
      launch({.grid = unsigned((n_x_rows + kThreads / 32 - 1) / (kThreads / 32)),
              .block = kThreads,
              .stream = ctx.gpu.stream,
              .programmatic = true},
             code_scale_kernel<X>, from, n_x_rows, spec.k, own_scale);
    with_weights(*g.w, [&](auto w) {
      with_activation(g.y.dtype, [&](auto y) {
        using Y = decltype(y);
        launch(l, generic_kernel<X, decltype(w), Y>, from, w, bias, data<Y>(g.y), spec.n, spec.k, group, rows,
               g.round_to == DType::bf16);
      });
    });
  });
}

void generic_ffn_up(const OpContext& ctx, const FfnUpArgs& args) {
  Scratch scratch(ctx.work);
  const DType a = args.h.dtype;
  const int64_t n_rows = args.h.rows();
  View shared = scratch.take(a, {n_rows, args.shared->spec.n});
  generic_gemm(ctx, {.w = args.shared, .x = args.h, .y = shared, .round_to = a});
  swiglu(ctx, shared, args.shared->spec, args.act_shared);
  if (!args.experts) return;
  const LinearSpec& spec = args.experts->spec;
  View routed = scratch.take(a, {n_rows * args.route.top_k, spec.n});
  const ExpertGroups groups = group_by_expert(scratch, ctx, args.route, args.first_expert, spec.n_experts);
  generic_gemm(ctx, {.w = args.experts,
                     .x = args.h,
                     .y = routed,
                     .round_to = a,
                     .groups = &groups,
                     .x_rows = groups.rows,
                     .x_scale = groups.scores});
  swiglu(ctx, routed, spec, args.act_routed);
}

void generic_ffn_down(const OpContext& ctx, const FfnDownArgs& args, const View& y) {
  if (!args.experts) {
    generic_gemm(ctx, {.w = args.shared, .x = args.act_shared, .y = y, .round_to = y.dtype});
    return;
  }
  Scratch scratch(ctx.work);
  const int64_t n_rows = y.rows(), d = y.cols(), top_k = args.route.top_k;
  const int64_t n_experts = args.experts->spec.n_experts;
  View shared = scratch.take(DType::f32, {n_rows, d}), routed = scratch.take(DType::f32, {n_rows * top_k, d});
  generic_gemm(ctx, {.w = args.shared, .x = args.act_shared, .y = shared});
  const ExpertGroups groups = group_by_expert(scratch, ctx, args.route, args.first_expert, n_experts);
  generic_gemm(ctx, {.w = args.experts, .x = args.act_routed, .y = routed, .groups = &groups, .y_rows = groups.slots});
  if (ctx.measuring()) return;
  with_activation(y.dtype, [&](auto a) {
    using A = decltype(a);
    launch({.grid = unsigned((n_rows * d + kThreads - 1) / kThreads),
            .block = kThreads,
            .stream = ctx.gpu.stream,
            .programmatic = true},
           combine_kernel<A>, shared.f32(), routed.f32(), args.route.expert.i32(), int(top_k), int(args.first_expert),
           int(n_experts), data<A>(y), d, n_rows * d);
  });
}

}  // namespace l4::cuda
