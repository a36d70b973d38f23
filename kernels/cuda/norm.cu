// RMS norm, layer norm and the residual sum (contracts: kernels/cpu/ops.h). Compiled without contraction to fused
// multiply-adds, so that every value is rounded where the reference rounds it and only the order of sums differs.
//
// One block a row. Bytes a row: 4 D (norms), 8 D (with the residual sum). In a decode step all that counts is how many
// trips to L2 or memory follow one another: weights are asked for before the wait, into registers; after it comes one
// trip for the row, which stays in registers too. So it is where a thread has one piece of a row (D = 5120 in
// bfloat16); of wider rows everything is read when it is needed, and again for the second pass. So it is in layer norm.
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

// f(i) for the piece [i, i + n) of every piece of this thread; one: it has one at most.
template <int n, bool one = false, class F>
__device__ void for_pieces(int d, F&& f) {
  const int first = int(threadIdx.x) * n;
  if constexpr (one) {
    if (first < d) f(first);
  } else {
    for (int i = first; i < d; i += int(blockDim.x) * n) f(i);
  }
}

// A row whose pieces are used more than once, or long after they should be asked for: a thread's only piece is in
// registers, others are read when they are needed.
template <class A, int n, bool one>
struct Kept {
  const A* row;
  Piece<A, n> piece;

  __device__ void open(const A* at, int d) {
    row = at;
    if constexpr (one)
      if (int(threadIdx.x) * n < d) piece = Piece<A, n>::at(row + int(threadIdx.x) * n);
  }
  __device__ Piece<A, n> get(int i) const {
    if constexpr (one)
      return piece;
    else
      return Piece<A, n>::at(row + i);
  }
};

// round(round(x * scale) * w)
template <class A, int n>
__device__ Piece<A, n> scaled(const Piece<A, n>& x, float scale, const Piece<A, n>& w) {
  float v[n];
  x.get_to(v);
#pragma unroll
  for (int j = 0; j < n; ++j) v[j] *= scale;
  return Piece<A, n>::of(v) * w;
}

template <class A, int n>
__device__ void add_squares(const Piece<A, n>& x, float& sum) {
  float v[n];
  x.get_to(v);
#pragma unroll
  for (int j = 0; j < n; ++j) sum += v[j] * v[j];
}

template <class A, int n, int kBlock, bool one>
__global__ void __launch_bounds__(kBlock)
    rms_norm_kernel(const A* in, const int32_t* rows, const A* weight, float eps, A* out, int d) {
  Kept<A, n, one> x, weights;
  weights.open(weight, d);
  in += int64_t(rows ? rows[blockIdx.x] : int(blockIdx.x)) * d;
  out += int64_t(blockIdx.x) * d;
  let_successor_start();  // early: launch.h
  wait_for_predecessor();
  x.open(in, d);
  float squares = 0;
  for_pieces<n, one>(d, [&](int i) { add_squares(x.get(i), squares); });
  const float scale = 1.0f / sqrtf(block_sum<kBlock>(squares) / float(d) + eps);
  for_pieces<n, one>(d, [&](int i) { scaled(x.get(i), scale, weights.get(i)).put(out + i); });
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
  __device__ bool comes_by_itself() const { return false; }
  struct Reader {
    const A* y;
    __device__ void send(int64_t) {}
    __device__ void sent() {}
    __device__ Piece<A, n> get(int64_t i) const { return Piece<A, n>::at(y + i); }
    __device__ void finish(int64_t) {}
  };
  __device__ Reader open() const { return {y}; }
};
// ... or the sum of the ranks' parts, which they exchange meanwhile (device/peer.h), rounded as Comm's sum is.
struct SumOfPeers {
  PeerLinks links;
  const bf16* y;
  // While the predecessor works; then it is late, and all before it has ended (launch.h).
  __device__ bool comes_by_itself() const { return links.sent; }
  class Reader {
   public:
    __device__ explicit Reader(const SumOfPeers& sum) : peers_(sum.links), sum_(sum) {}
    __device__ void send(int64_t i) {
      if (!sum_.links.sent) peers_.push(i / 8, mine()[i / 8]);
    }
    __device__ void sent() { peers_.empty_previous(); }
    __device__ Piece<bf16, 8> get(int64_t i) const {
      float v[8] = {};
      peers_.parts(i / 8, mine(), [&](const uint4& word) {
        float part[8];
        widen(word, part);
#pragma unroll
        for (int j = 0; j < 8; ++j) v[j] += part[j];
      });
      return Piece<bf16, 8>::of(v);
    }
    __device__ void finish(int64_t n_elements) {
      peers_.finish(n_elements * int64_t(sizeof(bf16)));
    }

   private:
    __device__ const uint4* mine() const {
      return reinterpret_cast<const uint4*>(sum_.y);
    }
    PeerExchange peers_;
    const SumOfPeers& sum_;
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
  y.sent();
  for (int64_t i = first; i < n_elements; i += stride) {
    const auto old = Piece<A, n>::at(x + i);
    (old + y.get(i)).put(x + i);
  }
  y.finish(n_elements);
}

// The end of attn_out and, without a router, of ffn_down. A row has gridDim.y blocks, of which the first sends the row
// to the other ranks. Each computes the row's sum and norm for itself, reading only, and its share of the router's
// logits, kAtOnce experts a pass over the row; the last to arrive writes x and h and routes. So the router (160 KB for
// 16 experts of D = 5120, 1.4 us of one multiprocessor) is read by many blocks while there are few rows, and the first
// kAtOnce experts of each (all it has, with 16 rows or fewer of 16 experts) are in registers when the wait is over. A
// logit's bits do not depend on how many blocks a row has.
//
// What the successor waits for is h, and the end of a kernel is 2 us further: a row's first block writes h before it goes
// on to the router, and says so in `ready`; the kernel that reads h is let in when every row has been made unready.
// Likewise it does not wait for its predecessor's end where the ranks' parts come by themselves. It does so before it writes
// what others than the successor read, or might use for something else: x, logits, counters.
//
// 48 registers: beside a block of small_m.cu (288 threads of 88, or of 120 with more than 8 rows) a multiprocessor has them.
// With more the blocks could not start before the predecessor's have left.
constexpr int kAtOnce = 2;

// The sum over the block of v[e], in thread e; e < n. By all threads; a barrier lies between two calls.
__device__ float block_sums(float (&v)[kAtOnce], int n) {
  constexpr int kWarps = kThreads / 32;
  __shared__ __align__(16) float parts[kAtOnce][kWarps];
#pragma unroll
  for (int e = 0; e < kAtOnce; ++e) {
    if (e >= n) continue;
    v[e] = warp_sum(v[e]);
    if (threadIdx.x % 32 == 0) parts[e][threadIdx.x / 32] = v[e];
  }
  __syncthreads();
  if (int(threadIdx.x) >= n) return 0;
  float sum = parts[threadIdx.x][0];
#pragma unroll
  for (int w = 1; w < kWarps; ++w) sum += parts[threadIdx.x][w];
  return sum;
}

template <class A, int n, bool one, class Sum>
__global__ void __launch_bounds__(kThreads, 2)
    add_residual_norm_route_kernel(const __grid_constant__ Sum added, A* x, const A* weight, float eps, A* h, int d,
                                   const A* router, const Routing to, float* logits, uint32_t* counters,
                                   uint32_t* ready) {
  const int n_mine = to.n_experts / int(gridDim.y), first_mine = int(blockIdx.y) * n_mine;
  router += int64_t(first_mine) * d;
  Kept<A, n, one> weights, experts[kAtOnce];
  weights.open(weight, d);
#pragma unroll
  for (int e = 0; e < kAtOnce; ++e)
    if (e < n_mine) experts[e].open(router + int64_t(e) * d, d);
  if (n == 8 && n_mine > kAtOnce && threadIdx.x == 0)
    bulk_prefetch(router + int64_t(kAtOnce) * d, uint32_t((n_mine - kAtOnce) * d) * sizeof(A));
  if (threadIdx.x == 0) {
    if (ready && blockIdx.y == 0) {  // who read it last is older than our predecessor
      store_relaxed_gpu(ready + blockIdx.x, 0);
      __threadfence();
    }
    let_successor_start();  // early: launch.h
  }
  if (!added.comes_by_itself()) wait_for_predecessor();
  const int64_t row = blockIdx.x;
  auto y = added.open();
  if (blockIdx.y == 0) for_pieces<n, one>(d, [&](int i) { y.send(row * d + i); });
  y.sent();
  x += row * d, h += row * d, logits += row * to.n_experts;
  Piece<A, n> new_x, new_h;  // this thread's only ones, or the last
  auto sum = [&](int i) {
    const auto old = Piece<A, n>::at(x + i);
    new_x = old + y.get(row * d + i);
  };
  float squares = 0;
  for_pieces<n, one>(d, [&](int i) { sum(i), add_squares(new_x, squares); });
  const float scale = 1.0f / sqrtf(block_sum<kThreads>(squares) / float(d) + eps);
  auto norm = [&](int i) {
    if constexpr (!one) sum(i);
    new_h = scaled(new_x, scale, weights.get(i));
  };
  if constexpr (one) for_pieces<n, one>(d, norm);
  if (blockIdx.y == 0) {
    for_pieces<n, one>(d, [&](int i) {
      if constexpr (!one) norm(i);
      new_h.put(h + i);
    });
    if (ready) {
      __syncthreads();
      if (threadIdx.x == 0) store_release_gpu(ready + blockIdx.x, 1);
    }
  }
  wait_for_predecessor();

  for (int pass = 0; pass < n_mine; pass += kAtOnce) {
    if (pass > 0) __syncthreads();
    const int n_now = min(n_mine - pass, kAtOnce);
    float sums[kAtOnce] = {};
    for_pieces<n, one>(d, [&](int i) {
      if constexpr (!one) norm(i);
      float v[n], w[n];
      new_h.get_to(v);
#pragma unroll
      for (int e = 0; e < kAtOnce; ++e) {
        if (e >= n_now) continue;
        if (pass == 0)
          experts[e].get(i).get_to(w);
        else
          load(router + int64_t(pass + e) * d + i, w);
#pragma unroll
        for (int j = 0; j < n; ++j) sums[e] = fmaf(v[j], w[j], sums[e]);
      }
    });
    const float logit = block_sums(sums, n_now);
    if (int(threadIdx.x) < n_now) logits[first_mine + pass + int(threadIdx.x)] = round_to<A>(logit);
  }
  // x may be written when all blocks have read it: each has, before the last barrier within it.
  const bool last = gridDim.y == 1 || last_to_arrive(counters + row, int(gridDim.y));
  if (last)
    for_pieces<n, one>(d, [&](int i) {
      if constexpr (!one) sum(i);
      new_x.put(x + i);
    });
  y.finish(int64_t(gridDim.x) * d);
  if (!last || to.n_experts == 0 || threadIdx.x >= 32) return;
  __syncwarp();  // a block's own logits are the first warp's
  route_row<A>(logits, row, to);
}

// Calls body(A{}, n, threads, one): as with_pieces, the threads of a row's block, and whether each has one piece at
// most.
template <class Body>
void with_rows(DType dtype, int64_t d, std::initializer_list<View> views, Body&& body) {
  with_pieces(dtype, d, views, [&](auto a, auto n) {
    if (d > kThreads * n)
      body(a, n, std::integral_constant<int, kThreads>{}, std::false_type{});
    else if (d > kNarrowThreads * n)
      body(a, n, std::integral_constant<int, kThreads>{}, std::true_type{});
    else
      body(a, n, std::integral_constant<int, kNarrowThreads>{}, std::true_type{});
  });
}
}  // namespace

void rms_norm(const OpContext& ctx, const View& in, const int32_t* rows, const View& weight, float eps,
              const View& out) {
  if (ctx.measuring()) return;
  const int64_t d = weight.elements();
  L4_CHECK(in.dtype == out.dtype && in.dtype == weight.dtype && out.cols() == d);
  with_rows(in.dtype, d, {in, weight, out}, [&](auto a, auto n, auto threads, auto one) {
    using A = decltype(a);
    launch({.grid = unsigned(out.rows()), .block = unsigned(threads), .stream = ctx.gpu.stream, .programmatic = true},
           rms_norm_kernel<A, n, threads, one>, data<A>(in), rows, data<A>(weight), eps, data<A>(out), int(d));
  });
}

void layer_norm(const OpContext& ctx, const View& in, const LayerNormWeights& norm, const View& out) {
  if (ctx.measuring()) return;
  const int64_t d = norm.weight.elements();
  L4_CHECK(in.dtype == out.dtype && in.dtype == norm.weight.dtype && in.elements() == out.elements());
  with_rows(in.dtype, d, {in, norm.weight, norm.bias, out}, [&](auto a, auto n, auto threads, auto) {
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

bool add_residual_norm_route(const OpContext& ctx, const View& y, const View& x, const View& norm_weight, float eps,
                             const View& h, const PackedWeight* router, const Route& route, const PeerLinks* peers) {
  const int64_t d = norm_weight.elements(), n_rows = x.rows(), n_experts = router ? router->spec.n : 0;
  L4_CHECK(x.dtype == y.dtype && x.dtype == h.dtype && x.dtype == norm_weight.dtype && x.cols() == d);
  const DType stored = router && router->spec.format == WeightFormat::f32 ? DType::f32 : DType::bf16;
  // Many rows, or a router of another type than the activations: a matrix product like others.
  constexpr int64_t kMaxFused = 4096;  // logits; 42 MB of router, from the L2 cache
  const bool few = ctx.invariant || n_rows * n_experts <= kMaxFused;
  const bool fused = few && (!router || stored == x.dtype);
  const bool publishes = fused && n_rows <= Gpu::kPublishedRows && !ctx.measuring();
  Scratch scratch(ctx.work);
  View logits = scratch.take(fused ? DType::f32 : x.dtype, {n_rows, n_experts}), weight;
  L4_CHECK(!router || router->spec.k == d, "router of ", router->spec.k, " columns");
  if (router && fused) weight = {router->data.data(), stored, {n_experts, d}};
  if (!ctx.measuring())
    with_pieces(x.dtype, d, {y, x, norm_weight, h, weight}, [&](auto a, auto n) {
      using A = decltype(a);
      const Routing to = router && fused ? routing(route, n_rows, n_experts, ctx.gpu.step) : Routing{};
      int64_t blocks = 1;  // a row
      const int64_t most = peers ? most_exchange_blocks(ctx.gpu.n_sms) : ctx.gpu.n_sms;
      while (to.n_experts > 0 && n_experts % (2 * blocks) == 0 && 2 * blocks * n_rows <= most) blocks *= 2;
      auto start = [&](auto sum) {
        const auto kernel = d <= kThreads * n ? add_residual_norm_route_kernel<A, n, true, decltype(sum)>
                                              : add_residual_norm_route_kernel<A, n, false, decltype(sum)>;
        launch({.grid = {unsigned(n_rows), unsigned(blocks)},
                .block = kThreads,
                .stream = ctx.gpu.stream,
                .programmatic = true},
               kernel, sum, data<A>(x), data<A>(norm_weight), eps, data<A>(h), int(d),
               weight ? data<A>(weight) : nullptr, to, static_cast<float*>(logits.data), ctx.gpu.counters,
               publishes ? ctx.gpu.rows_ready : nullptr);
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
  return publishes;
}

}  // namespace l4::cuda
