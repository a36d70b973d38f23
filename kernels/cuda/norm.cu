// RMS norm, layer norm and the residual sum (contracts: kernels/cpu/ops.h). Compiled without contraction to fused
// multiply-adds, so that every value is rounded where the reference rounds it and only the order of sums differs.
//
// One block a row: the row is read once from memory and again, for the second pass, from the multiprocessor's cache (10
// KB of D = 5120, three blocks on a multiprocessor). Bytes a row: 4 D (norms), 8 D (with the residual sum).
#include <algorithm>

#include "kernels/cuda/device/last_block.h"
#include "kernels/cuda/device/peer.h"
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
  let_successor_start();  // early: launch.h
  wait_for_predecessor();
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

// What is added to the residual stream: a vector that lies there ...
template <class A, int n>
struct WholeSum {
  const A* y;
  struct Reader {
    const A* y;
    __device__ void send(int64_t) {}
    __device__ void get(int64_t i, float (&v)[n]) const { load(y + i, v); }
    __device__ void finish(int64_t) {}
  };
  __device__ Reader open() const { return {y}; }
};
// ... or the sum of the ranks' parts, which they exchange meanwhile (device/peer.h), rounded as Comm's sum is.
struct SumOfPeers {
  PeerLinks links;
  const bf16* y;
  class Reader {
   public:
    __device__ explicit Reader(const SumOfPeers& s)
        : peers_(s.links), n_ranks_(s.links.size), y_(reinterpret_cast<const uint4*>(s.y)) {}
    __device__ void send(int64_t i) { peers_.push(i / 8, y_[i / 8]); }
    __device__ void get(int64_t i, float (&v)[8]) const {
      float sum[8] = {};
      for (int r = 0; r < n_ranks_; ++r) {
        widen(peers_.part(r, i / 8, y_), v);
#pragma unroll
        for (int j = 0; j < 8; ++j) sum[j] += v[j];
      }
#pragma unroll
      for (int j = 0; j < 8; ++j) v[j] = round_to<bf16>(sum[j]);
    }
    __device__ void finish(int64_t n_elements) {
      peers_.finish(n_elements * int64_t(sizeof(bf16)));
    }

   private:
    PeerExchange peers_;
    const int n_ranks_;
    const uint4* y_;
  };
  __device__ Reader open() const {
    return Reader(*this);
  }
};

template <class A, int n, class Sum>
__global__ void __launch_bounds__(kThreads)
    add_residual_kernel(const __grid_constant__ Sum added, A* x, int64_t n_elements) {
  let_successor_start();  // early: launch.h
  wait_for_predecessor();
  const int64_t first = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * n, stride = int64_t(gridDim.x) * kThreads * n;
  auto y = added.open();
  for (int64_t i = first; i < n_elements; i += stride) y.send(i);
  for (int64_t i = first; i < n_elements; i += stride) {
    float a[n], b[n];
    load(x + i, a);
    y.get(i, b);
#pragma unroll
    for (int j = 0; j < n; ++j) a[j] += b[j];
    store(x + i, a);
  }
  y.finish(n_elements);
}

// The end of attn_out. A row has gridDim.y blocks, of which the first sends the row to the other ranks. Each computes
// the row's norm for itself, reading only, and its share of the router's logits, kAtOnce experts a pass over the row;
// the last to arrive writes x and h and routes. So the router (160 KB for 16 experts of D = 5120, 1.4 us of one
// multiprocessor) is read by many blocks while there are few rows. A logit's bits do not depend on how many blocks a
// row has.
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

template <class A, int n, class Sum>
__global__ void __launch_bounds__(kThreads)
    add_residual_norm_route_kernel(const __grid_constant__ Sum added, A* x, const A* weight, float eps, A* h, int d,
                                   const A* router, const Routing to, float* logits, uint32_t* counters) {
  const int n_mine = to.n_experts / int(gridDim.y), first_mine = int(blockIdx.y) * n_mine;
  if (n == 8 && n_mine > 0 && threadIdx.x == 0)
    bulk_prefetch(router + int64_t(first_mine) * d, uint32_t(n_mine * d) * sizeof(A));
  let_successor_start();  // early: launch.h
  wait_for_predecessor();
  const int64_t row = blockIdx.x;
  auto y = added.open();
  if (blockIdx.y == 0) for_pieces<n>(d, [&](int i) { y.send(row * d + i); });
  x += row * d, h += row * d;
  auto sum = [&](int i, float(&v)[n]) {  // the new x
    float b[n];
    load(x + i, v);
    y.get(row * d + i, b);
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
  if (gridDim.y > 1 && !last_to_arrive(counters + row, int(gridDim.y))) return y.finish(int64_t(gridDim.x) * d);
  for_pieces<n>(d, [&](int i) {
    float v[n];
    sum(i, v);
    store(x + i, v);
    norm(i, v);
    store(h + i, v);
  });
  y.finish(int64_t(gridDim.x) * d);
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

void add_residual(const OpContext& ctx, const View& y, const View& x, const PeerLinks* peers) {
  if (ctx.measuring()) return;
  L4_CHECK(y.dtype == x.dtype && y.elements() == x.elements());
  with_pieces(x.dtype, x.elements(), {y, x}, [&](auto a, auto n) {
    using A = decltype(a);
    const int64_t per_block = kThreads * n, blocks = (x.elements() + per_block - 1) / per_block;
    auto start = [&](auto sum) {
      launch({.grid = unsigned(peers ? std::min<int64_t>(blocks, most_exchange_blocks(ctx.gpu.n_sms)) : blocks),
              .block = kThreads,
              .stream = ctx.gpu.stream,
              .programmatic = true},
             add_residual_kernel<A, n, decltype(sum)>, sum, data<A>(x), x.elements());
    };
    if constexpr (n == 8)
      if (peers) return start(SumOfPeers{*peers, data<A>(y)});
    L4_CHECK(!peers);
    start(WholeSum<A, n>{data<A>(y)});
  });
}

void add_residual_norm_route(const OpContext& ctx, const View& y, const View& x, const View& norm_weight, float eps,
                             const View& h, const PackedWeight* router, const Route& route, const PeerLinks* peers) {
  const int64_t d = norm_weight.elements(), n_rows = x.rows(), n_experts = router ? router->spec.n : 0;
  L4_CHECK(x.dtype == y.dtype && x.dtype == h.dtype && x.dtype == norm_weight.dtype && x.cols() == d);
  const DType stored = router && router->spec.format == WeightFormat::f32 ? DType::f32 : DType::bf16;
  // Many rows, or a router of another type than the activations: a matrix product like others.
  constexpr int64_t kMaxFused = 4096;  // logits; 42 MB of router, from the L2 cache
  const bool fused = n_rows * n_experts <= kMaxFused && (!router || stored == x.dtype);
  Scratch scratch(ctx.work);
  View logits = scratch.take(fused ? DType::f32 : x.dtype, {n_rows, n_experts}), weight;
  L4_CHECK(!router || router->spec.k == d, "router of ", router->spec.k, " columns");
  if (router && fused) weight = {router->data.data(), stored, {n_experts, d}};
  if (!ctx.measuring())
    with_pieces(x.dtype, d, {y, x, norm_weight, h, weight}, [&](auto a, auto n) {
      using A = decltype(a);
      const Routing to = router && fused ? routing(route, n_rows, n_experts) : Routing{};
      int64_t blocks = 1;  // a row
      const int64_t most = peers ? most_exchange_blocks(ctx.gpu.n_sms) : ctx.gpu.n_sms;
      while (to.n_experts > 0 && n_experts % (2 * blocks) == 0 && 2 * blocks * n_rows <= most) blocks *= 2;
      auto start = [&](auto sum) {
        launch({.grid = {unsigned(n_rows), unsigned(blocks)},
                .block = kThreads,
                .stream = ctx.gpu.stream,
                .programmatic = true},
               add_residual_norm_route_kernel<A, n, decltype(sum)>, sum, data<A>(x), data<A>(norm_weight), eps,
               data<A>(h), int(d), weight ? data<A>(weight) : nullptr, to, static_cast<float*>(logits.data),
               ctx.gpu.counters);
      };
      if constexpr (n == 8)
        if (peers) return start(SumOfPeers{*peers, data<A>(y)});
      L4_CHECK(!peers);
      start(WholeSum<A, n>{data<A>(y)});
    });
  if (router && !fused) {
    linear(ctx, h, *router, logits, x.dtype);
    route_rows(ctx, logits, route);
  }
}

}  // namespace l4::cuda
