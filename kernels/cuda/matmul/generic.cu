// Tiled products on the ordinary cores: a block of 256 threads makes 64 x 64 outputs, 4 x 4 a thread, from tiles of 16
// columns of k in shared memory. Sums are float32 in order of k, whatever the tiling and the other rows. It serves tiny
// models, float32 and odd shapes; nothing here is meant to be fast.
#include "kernels/cuda/device/math.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/matmul/generic.h"
#include "kernels/cuda/ptx/pdl.h"

namespace l4::cuda {

namespace {
constexpr int kTile = 64, kDepth = 16, kThreads = 256, kPerThread = 4;

struct Rows {
  int64_t n_rows;        // without groups
  const int32_t* begin;  // [E + 1] or null
  const int32_t *x_rows, *y_rows;
  const float* x_scale;
};

template <class X, class W, class Y>
__global__ void __launch_bounds__(kThreads)
    generic_kernel(const X* x, const W* w, const float* bias, Y* y, int64_t n, int64_t k, Rows rows, bool round) {
  wait_for_predecessor();
  let_successor_start();
  __shared__ float x_tile[kDepth][kTile + 1], w_tile[kDepth][kTile + 1];
  const int64_t expert = blockIdx.z, n0 = int64_t(blockIdx.x) * kTile;
  const int64_t first = rows.begin ? rows.begin[expert] : 0;
  const int64_t count = rows.begin ? rows.begin[expert + 1] - first : rows.n_rows;
  w += expert * n * k;
  const int tx = int(threadIdx.x % 16), ty = int(threadIdx.x / 16);
  for (int64_t m0 = int64_t(blockIdx.y) * kTile; m0 < count; m0 += int64_t(gridDim.y) * kTile) {
    float sum[kPerThread][kPerThread] = {};  // [row][column]
    for (int64_t k0 = 0; k0 < k; k0 += kDepth) {
      for (int i = int(threadIdx.x); i < kTile * kDepth; i += kThreads) {
        const int64_t row = i / kDepth, column = i % kDepth;
        const bool inside = k0 + column < k;
        float vx = 0, vw = 0;
        if (inside && m0 + row < count) {
          const int64_t entry = first + m0 + row;
          vx = get(x[(rows.x_rows ? rows.x_rows[entry] : entry) * k + k0 + column]);
          if (rows.x_scale) vx = round_to<X>(vx * rows.x_scale[entry]);
        }
        if (inside && n0 + row < n) vw = get(w[(n0 + row) * k + k0 + column]);
        x_tile[column][row] = vx;
        w_tile[column][row] = vw;
      }
      __syncthreads();
#pragma unroll
      for (int d = 0; d < kDepth; ++d)
#pragma unroll
        for (int i = 0; i < kPerThread; ++i)
#pragma unroll
          for (int j = 0; j < kPerThread; ++j)
            sum[i][j] = fmaf(x_tile[d][ty + 16 * i], w_tile[d][tx + 16 * j], sum[i][j]);
      __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) {
      const int64_t row = m0 + ty + 16 * i;
      if (row >= count) continue;
      Y* to = y + (rows.y_rows ? rows.y_rows[first + row] : first + row) * n;
#pragma unroll
      for (int j = 0; j < kPerThread; ++j) {
        const int64_t column = n0 + tx + 16 * j;
        if (column >= n) continue;
        const float v = sum[i][j] + (bias ? bias[expert * n + column] : 0.0f);
        to[column] = rounded<Y>(round ? round_to<bf16>(v) : v);
      }
    }
  }
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
void with_weights(const LinearSpec& spec, Body&& body) {
  if (spec.format == WeightFormat::f32)
    body(float{});
  else if (spec.format == WeightFormat::bf16)
    body(bf16{});
  else
    fail(ErrorKind::unsupported, spec.name, ": no product with weights in ", weight_format_name(spec.format));
}
}  // namespace

void generic_gemm(const OpContext& ctx, const GenericGemm& g) {
  if (ctx.measuring()) return;
  const LinearSpec& spec = g.w->spec;
  const int64_t n_rows = g.groups ? g.groups->n_slots : g.x.elements() / spec.k;
  const int64_t n_experts = g.groups ? g.groups->n_experts : 1;
  constexpr int64_t kMostRowTiles = 1024;
  const Rows rows{n_rows, g.groups ? g.groups->begin : nullptr, g.x_rows, g.y_rows, g.x_scale};
  const Launch l{.grid = dim3(unsigned((spec.n + kTile - 1) / kTile),
                              unsigned(std::min((n_rows + kTile - 1) / kTile, kMostRowTiles)), unsigned(n_experts)),
                 .block = kThreads,
                 .stream = ctx.gpu.stream,
                 .programmatic = true};
  const float* bias = spec.bias ? static_cast<const float*>(g.w->bias.data()) : nullptr;
  with_activation(g.x.dtype, [&](auto x) {
    with_weights(spec, [&](auto w) {
      with_activation(g.y.dtype, [&](auto y) {
        using X = decltype(x);
        using W = decltype(w);
        using Y = decltype(y);
        launch(l, generic_kernel<X, W, Y>, static_cast<const X*>(g.x.data), static_cast<const W*>(g.w->data.data()),
               bias, data<Y>(g.y), spec.n, spec.k, rows, g.round_to == DType::bf16);
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
