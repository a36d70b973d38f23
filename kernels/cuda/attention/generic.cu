// Attention of any shape: head_dim <= 256, any page size, types and spans. For tests and tiny models; the fast kernels
// are compared with it where the CPU is too slow.
//
// A warp has one query row and head and walks its keys 32 at a time: a lane computes one key's score, the warp the
// running maximum, and then each lane owns every 32nd element of the values' sum. A row's bits depend on nothing but
// its own keys. exp(s - running maximum) is rounded to A before it multiplies v, its sum is taken before, as in
// kernels/cpu/attention.cpp. A code's scale multiplies a score after its sum, and a value before the weight does.
#include "kernels/cuda/attention/choose.h"
#include "kernels/cuda/attention/kernels.h"
#include "kernels/cuda/device/math.h"
#include "kernels/cuda/launch.h"
#include "quant/fp8.h"

namespace l4::cuda {

namespace {

constexpr int kWarps = 4;
constexpr int kMaxElements = kMaxGenericHeadDim / 32;  // of a head, a lane

// What is kept of an element: a number, or a code that a scale multiplies.
template <class Kv>
__device__ inline float number(Kv v) {
  if constexpr (sizeof(Kv) == 1)
    return fp8_to_float(v);
  else
    return get(v);
}

// Where a row's keys and values are: n of them, the j-th at keys + at(j) and values + at(j), in elements, times its
// scales.
template <class Kv>
struct PagedKeys {
  PagedKv kv;
  int64_t group;  // query heads of a kv head

  struct Row {
    const Kv *keys, *values;
    const int32_t* pages;
    int64_t page_stride, head;  // elements
    int32_t page_tokens, head_dim, n;
    const PagedKv* kv;
    __device__ int64_t at(int32_t j) const {
      return pages[j / page_tokens] * page_stride + head + int64_t(j % page_tokens) * head_dim;
    }
    __device__ float key_scale(int32_t j) const { return scale(j, kv->k_scale_offset, kv->k_scale); }
    __device__ float value_scale(int32_t j) const { return scale(j, kv->v_scale_offset, kv->v_scale); }
    __device__ float scale(int32_t j, int64_t offset, float of_all) const {
      if (sizeof(Kv) > 1 || offset < 0) return of_all;
      const std::byte* page = kv->base + pages[j / page_tokens] * kv->page_stride;
      return get(reinterpret_cast<const bf16*>(page + offset)[head / head_dim + j % page_tokens]);
    }
  };
  __device__ Row row(int64_t row, int64_t head) const {
    int32_t low = 0, high = kv.n_spans;  // spans[low].row <= row < spans[high].row
    while (high - low > 1) {
      const int32_t middle = (low + high) / 2;
      (kv.spans[middle].row <= row ? low : high) = middle;
    }
    const KvSpan span = kv.spans[low];
    return {reinterpret_cast<const Kv*>(kv.base + kv.k_offset),
            reinterpret_cast<const Kv*>(kv.base + kv.v_offset),
            kv.pages + span.table,
            kv.page_stride / int64_t(sizeof(Kv)),
            head / group * kv.page_tokens * kv.head_dim,
            kv.page_tokens,
            kv.head_dim,
            span.past + int32_t(row - span.row) + 1,
            &kv};
  }
};

// Every token of the row's own tile.
template <class Kv>
struct TileKeys {
  const Kv *k, *v;
  int64_t n_tokens, n_heads, head_dim;  // of a tile

  struct Row {
    const Kv *keys, *values;
    int64_t stride;
    int32_t n;
    __device__ int64_t at(int32_t j) const { return j * stride; }
    __device__ float key_scale(int32_t) const { return 1; }
    __device__ float value_scale(int32_t) const { return 1; }
  };
  __device__ Row row(int64_t row, int64_t head) const {
    const int64_t first = (row / n_tokens * n_tokens * n_heads + head) * head_dim;
    return {k + first, v + first, n_heads * head_dim, int32_t(n_tokens)};
  }
};

template <class A, class Keys>
__global__ void __launch_bounds__(kWarps * 32)
    attend(const A* q, Keys all_keys, int64_t n_rows, int64_t n_heads, int32_t head_dim, float scale, A* out) {
  __shared__ float queries[kWarps][kMaxGenericHeadDim];
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  const int64_t item = int64_t(blockIdx.x) * kWarps + warp;
  if (item >= n_rows * n_heads) return;
  const auto row = all_keys.row(item / n_heads, item % n_heads);
  float* query = queries[warp];
  for (int d = lane; d < head_dim; d += 32) query[d] = get(q[item * head_dim + d]);
  __syncwarp();

  float top = -INFINITY, sum = 0, acc[kMaxElements] = {};
  for (int32_t first = 0; first < row.n; first += 32) {
    const int32_t n = min(32, row.n - first);
    int64_t at = 0;
    float s = -INFINITY, by = 0;
    if (lane < n) {
      at = row.at(first + lane);
      s = 0;
      for (int d = 0; d < head_dim; ++d) s += query[d] * number(row.keys[at + d]);
      s *= row.key_scale(first + lane) * scale;
      by = row.value_scale(first + lane);
    }
    const float next = fmaxf(top, warp_max(s)), shrink = expf(top - next);
    const float p = lane < n ? expf(s - next) : 0.0f;
    top = next;
    sum = sum * shrink + p;
#pragma unroll
    for (int i = 0; i < kMaxElements; ++i) acc[i] *= shrink;
    const float weight = round_to<A>(p);
    for (int32_t j = 0; j < n; ++j) {
      const float w = __shfl_sync(0xffffffffu, weight, j);
      const float value_scale = __shfl_sync(0xffffffffu, by, j);
      const auto* value = row.values + __shfl_sync(0xffffffffu, at, j);
#pragma unroll
      for (int i = 0; i < kMaxElements; ++i)
        if (lane + 32 * i < head_dim) acc[i] += w * (number(value[lane + 32 * i]) * value_scale);
    }
  }
  sum = warp_sum(sum);
#pragma unroll
  for (int i = 0; i < kMaxElements; ++i)
    if (lane + 32 * i < head_dim) out[item * head_dim + lane + 32 * i] = rounded<A>(acc[i] / sum);
}

template <class A, class Keys>
void launch_attend(const OpContext& ctx, const View& q, const Keys& keys, int64_t n_rows, int64_t n_heads,
                   int64_t head_dim, float scale, const View& out) {
  L4_CHECK(head_dim <= kMaxGenericHeadDim, "attention with a head dimension of ", head_dim, ", at most ",
           kMaxGenericHeadDim);
  const int64_t n_blocks = (n_rows * n_heads + kWarps - 1) / kWarps;
  launch({.grid = dim3(unsigned(n_blocks)), .block = kWarps * 32, .stream = ctx.gpu.stream}, attend<A, Keys>,
         data<A>(q), keys, n_rows, n_heads, int32_t(head_dim), scale, data<A>(out));
}

}  // namespace

void generic_paged_attention(const OpContext& ctx, const AttentionArgs& args) {
  if (ctx.measuring()) return;
  const PagedKv kv = paged_kv(args.kv, ctx.gpu.step.of(args.kv.kind));
  const int64_t n_heads = args.q.shape[1], group = n_heads / kv.n_kv_heads;
  L4_CHECK(group * kv.n_kv_heads == n_heads);
  with_activation(args.q.dtype, [&](auto a) {
    using A = decltype(a);
    auto run_with = [&](auto element) {
      launch_attend<A>(ctx, args.q, PagedKeys<decltype(element)>{kv, group}, args.q.rows(), n_heads, kv.head_dim,
                       args.scale, args.out);
    };
    args.kv.layout.dtype == DType::f8_e4m3 ? run_with(uint8_t()) : with_activation(args.kv.layout.dtype, run_with);
  });
}

void generic_tile_attention(const OpContext& ctx, const VisionAttentionArgs& args) {
  if (ctx.measuring()) return;
  const Shape& s = args.q.shape;  // [N, S, Hv, hd]
  with_activation(args.q.dtype, [&](auto a) {
    using A = decltype(a);
    launch_attend<A>(ctx, args.q, TileKeys<A>{data<A>(args.k), data<A>(args.v), s[1], s[2], s[3]}, s[0] * s[1], s[2],
                     s[3], args.scale, args.out);
  });
}

}  // namespace l4::cuda
