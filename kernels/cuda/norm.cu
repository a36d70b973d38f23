// RMS norm, layer norm and the residual sum (contracts: kernels/cpu/ops.h). Compiled without contraction to fused
// multiply-adds, so that every value is rounded where the reference rounds it and only the order of sums differs.
//
// One block a row: the row is read once from memory and again, for the second pass, from the multiprocessor's cache (10
// KB of D = 5120, three blocks on a multiprocessor). Bytes a row: 4 D (norms), 8 D (with the residual sum).
#include "kernels/cuda/device/last_block.h"
#include "kernels/cuda/device/piece.h"
#include "kernels/cuda/device/top_experts.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/ptx/pdl.h"
#include "kernels/cuda/ptx/tma.h"

namespace l4::cuda {

namespace {
constexpr int kThreads = 640;        // one piece a thread at D = 5120
constexpr int kNarrowThreads = 192;  // and at the vision tower's 1408

// f(i) for the piece [i, i + n) of every piece of this thread.
template <int n, class F>
__device__ void for_pieces(int d, F&& f) {
  for (int i = int(threadIdx.x) * n; i < d; i += int(blockDim.x) * n) f(i);
}

template <class A, int n, int kBlock>
__device__ float inverse_rms(const A* x, int d, float eps) {
  float squares = 0;
  for_pieces<n>(d, [&](int i) {
    float v[n];
    load(x + i, v);
#pragma unroll
    for (int j = 0; j < n; ++j) squares += v[j] * v[j];
  });
  return 1.0f / sqrtf(block_sum<kBlock>(squares) / float(d) + eps);
}

// y = round(round(x * scale) * w)
template <class A, int n>
__device__ void scale_row(const A* x, float scale, const A* weight, A* y, int d) {
  for_pieces<n>(d, [&](int i) {
    float v[n], w[n];
    load(x + i, v);
    load(weight + i, w);
#pragma unroll
    for (int j = 0; j < n; ++j) v[j] = round_to<A>(v[j] * scale) * w[j];
    store(y + i, v);
  });
}

template <class A, int n, int kBlock>
__global__ void __launch_bounds__(kBlock)
    rms_norm_kernel(const A* in, const int32_t* rows, const A* weight, float eps, A* out, int d) {
  wait_for_predecessor();
  let_successor_start();
  const A* x = in + int64_t(rows ? rows[blockIdx.x] : int(blockIdx.x)) * d;
  const float scale = inverse_rms<A, n, kBlock>(x, d, eps);
  scale_row<A, n>(x, scale, weight, out + int64_t(blockIdx.x) * d, d);
}

template <class A, int n, int kBlock>
__global__ void __launch_bounds__(kBlock)
    layer_norm_kernel(const A* in, const A* weight, const A* bias, float eps, A* out, int d) {
  wait_for_predecessor();
  let_successor_start();
  const A* x = in + int64_t(blockIdx.x) * d;
  A* y = out + int64_t(blockIdx.x) * d;
  float v[n], w[n], b[n], sum = 0;
  for_pieces<n>(d, [&](int i) {
    load(x + i, v);
#pragma unroll
    for (int j = 0; j < n; ++j) sum += v[j];
  });
  const float mean = block_sum<kBlock>(sum) / float(d);
  sum = 0;
  for_pieces<n>(d, [&](int i) {
    load(x + i, v);
#pragma unroll
    for (int j = 0; j < n; ++j) sum += (v[j] - mean) * (v[j] - mean);
  });
  const float scale = 1.0f / sqrtf(block_sum<kBlock>(sum) / float(d) + eps);
  for_pieces<n>(d, [&](int i) {  // in place too: a thread writes what it alone reads
    load(x + i, v);
    load(weight + i, w);
    load(bias + i, b);
#pragma unroll
    for (int j = 0; j < n; ++j) v[j] = (v[j] - mean) * scale * w[j] + b[j];
    store(y + i, v);
  });
}

template <class A, int n>
__global__ void __launch_bounds__(kThreads) add_residual_kernel(const A* y, A* x, int64_t n_elements) {
  wait_for_predecessor();
  let_successor_start();
  const int64_t i = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * n;
  if (i >= n_elements) return;
  float a[n], b[n];
  load(x + i, a);
  load(y + i, b);
#pragma unroll
  for (int j = 0; j < n; ++j) a[j] += b[j];
  store(x + i, a);
}

// The end of attn_out. A row has gridDim.y blocks. Each computes the row's norm for itself, reading only, and its share
// of the router's logits, kAtOnce experts a pass over the row; the last to arrive writes x and h and routes. So the
// router (160 KB for 16 experts of D = 5120, 1.4 us of one multiprocessor) is read by many blocks while there are few
// rows. A logit's bits do not depend on how many blocks a row has.
constexpr int kAtOnce = 4;

// Sums over the block of kAtOnce values, in thread 0.
__device__ void block_sums(float (&v)[kAtOnce]) {
  __shared__ float parts[kThreads / 32][kAtOnce];
#pragma unroll
  for (int e = 0; e < kAtOnce; ++e) v[e] = warp_sum(v[e]);
  __syncthreads();  // parts may be read still
  if (threadIdx.x % 32 == 0)
#pragma unroll
    for (int e = 0; e < kAtOnce; ++e) parts[threadIdx.x / 32][e] = v[e];
  __syncthreads();
  if (threadIdx.x == 0)
#pragma unroll
    for (int e = 0; e < kAtOnce; ++e)
      for (int w = 1; w < kThreads / 32; ++w) v[e] += parts[w][e];
}

template <class A, int n>
__global__ void __launch_bounds__(kThreads)
    add_residual_norm_route_kernel(const A* y, A* x, const A* weight, float eps, A* h, int d, const A* router,
                                   const Routing to, float* logits, uint32_t* counters) {
  const int n_mine = to.n_experts / int(gridDim.y), first_mine = int(blockIdx.y) * n_mine;
  if (n == 8 && n_mine > 0 && threadIdx.x == 0)
    bulk_prefetch(router + int64_t(first_mine) * d, uint32_t(n_mine * d) * sizeof(A));
  wait_for_predecessor();
  let_successor_start();
  const int64_t row = blockIdx.x;
  y += row * d, x += row * d, h += row * d;
  auto sum = [&](int i, float(&v)[n]) {  // the new x
    float b[n];
    load(x + i, v);
    load(y + i, b);
#pragma unroll
    for (int j = 0; j < n; ++j) v[j] = round_to<A>(v[j] + b[j]);
  };
  float squares = 0;
  for_pieces<n>(d, [&](int i) {
    float v[n];
    sum(i, v);
#pragma unroll
    for (int j = 0; j < n; ++j) squares += v[j] * v[j];
  });
  const float scale = 1.0f / sqrtf(block_sum<kThreads>(squares) / float(d) + eps);
  auto norm = [&](int i, float(&v)[n]) {  // the new x to the new h
    float w[n];
    load(weight + i, w);
#pragma unroll
    for (int j = 0; j < n; ++j) v[j] = round_to<A>(round_to<A>(v[j] * scale) * w[j]);
  };

  logits += row * to.n_experts;
  for (int first = first_mine; first < first_mine + n_mine; first += kAtOnce) {
    float sums[kAtOnce] = {};
    for_pieces<n>(d, [&](int i) {
      float v[n], w[n];
      sum(i, v);
      norm(i, v);
#pragma unroll
      for (int e = 0; e < kAtOnce; ++e) {
        load(router + int64_t(min(first + e, to.n_experts - 1)) * d + i, w);
#pragma unroll
        for (int j = 0; j < n; ++j) sums[e] = fmaf(v[j], w[j], sums[e]);
      }
    });
    block_sums(sums);
    if (threadIdx.x == 0)
#pragma unroll
      for (int e = 0; e < kAtOnce; ++e)
        if (first + e < first_mine + n_mine) logits[first + e] = round_to<A>(sums[e]);
  }
  if (gridDim.y > 1 && !last_to_arrive(counters + row, int(gridDim.y))) return;
  for_pieces<n>(d, [&](int i) {
    float v[n];
    sum(i, v);
    store(x + i, v);
    norm(i, v);
    store(h + i, v);
  });
  if (to.n_experts == 0) return;
  __syncthreads();  // this block's own logits
  if (threadIdx.x < 32) route_row<A>(logits, row, to);
}

// Calls body(A{}, n, threads): as with_pieces, and the threads of a row's block.
template <class Body>
void with_rows(DType dtype, int64_t d, std::initializer_list<View> views, Body&& body) {
  with_pieces(dtype, d, views, [&](auto a, auto n) {
    if (d > kNarrowThreads * n)
      body(a, n, std::integral_constant<int, kThreads>{});
    else
      body(a, n, std::integral_constant<int, kNarrowThreads>{});
  });
}
}  // namespace

void rms_norm(const OpContext& ctx, const View& in, const int32_t* rows, const View& weight, float eps,
              const View& out) {
  if (ctx.measuring()) return;
  const int64_t d = weight.elements();
  L4_CHECK(in.dtype == out.dtype && in.dtype == weight.dtype && out.cols() == d);
  with_rows(in.dtype, d, {in, weight, out}, [&](auto a, auto n, auto threads) {
    using A = decltype(a);
    launch({.grid = unsigned(out.rows()), .block = unsigned(threads), .stream = ctx.gpu.stream, .programmatic = true},
           rms_norm_kernel<A, n, threads>, data<A>(in), rows, data<A>(weight), eps, data<A>(out), int(d));
  });
}

void layer_norm(const OpContext& ctx, const View& in, const LayerNormWeights& norm, const View& out) {
  if (ctx.measuring()) return;
  const int64_t d = norm.weight.elements();
  L4_CHECK(in.dtype == out.dtype && in.dtype == norm.weight.dtype && in.elements() == out.elements());
  with_rows(in.dtype, d, {in, norm.weight, norm.bias, out}, [&](auto a, auto n, auto threads) {
    using A = decltype(a);
    launch({.grid = unsigned(in.elements() / d),
            .block = unsigned(threads),
            .stream = ctx.gpu.stream,
            .programmatic = true},
           layer_norm_kernel<A, n, threads>, data<A>(in), data<A>(norm.weight), data<A>(norm.bias), norm.eps,
           data<A>(out), int(d));
  });
}

void add_residual(const OpContext& ctx, const View& y, const View& x) {
  if (ctx.measuring()) return;
  L4_CHECK(y.dtype == x.dtype && y.elements() == x.elements());
  with_pieces(x.dtype, x.elements(), {y, x}, [&](auto a, auto n) {
    using A = decltype(a);
    const int64_t per_block = kThreads * n;
    launch({.grid = unsigned((x.elements() + per_block - 1) / per_block),
            .block = kThreads,
            .stream = ctx.gpu.stream,
            .programmatic = true},
           add_residual_kernel<A, n>, data<A>(y), data<A>(x), x.elements());
  });
}

void add_residual_norm_route(const OpContext& ctx, const View& y, const View& x, const View& norm_weight, float eps,
                             const View& h, const PackedWeight* router, const Route& route) {
  const int64_t d = norm_weight.elements(), n_rows = x.rows(), n_experts = router ? router->spec.n : 0;
  L4_CHECK(x.dtype == y.dtype && x.dtype == h.dtype && x.dtype == norm_weight.dtype && x.cols() == d);
  // Many rows: the router is a matrix product like others.
  constexpr int64_t kMaxFused = 4096;  // logits; 42 MB of router, from the L2 cache
  const bool fused = n_rows * n_experts <= kMaxFused;
  Scratch scratch(ctx.work);
  View logits = scratch.take(fused ? DType::f32 : x.dtype, {n_rows, n_experts}), weight;
  if (router) {
    weight = {router->data.data(), router->spec.format == WeightFormat::f32 ? DType::f32 : DType::bf16, {n_experts, d}};
    L4_CHECK(router->spec.k == d && weight.dtype == x.dtype, "router ", dtype_name(weight.dtype), " of ",
             router->spec.k, " columns");
  }
  if (!ctx.measuring())
    with_pieces(x.dtype, d, {y, x, norm_weight, h, weight}, [&](auto a, auto n) {
      using A = decltype(a);
      const Routing to = router && fused ? routing(route, n_rows, n_experts) : Routing{};
      int64_t blocks = 1;  // a row
      while (to.n_experts > 0 && n_experts % (2 * blocks) == 0 && 2 * blocks * n_rows <= ctx.gpu.n_sms) blocks *= 2;
      launch({.grid = {unsigned(n_rows), unsigned(blocks)},
              .block = kThreads,
              .stream = ctx.gpu.stream,
              .programmatic = true},
             add_residual_norm_route_kernel<A, n>, data<A>(y), data<A>(x), data<A>(norm_weight), eps, data<A>(h),
             int(d), router ? data<A>(weight) : nullptr, to, static_cast<float*>(logits.data), ctx.gpu.counters);
    });
  if (router && !fused) {
    linear(ctx, h, *router, logits, x.dtype);
    route_rows(ctx, logits, route);
  }
}

}  // namespace l4::cuda
