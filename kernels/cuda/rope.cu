// What happens to q, k and v between the projection and the cache (contract: kernels/cpu/ops.h). Compiled without
// contraction to fused multiply-adds: the rotation's products and sums are rounded one by one, as the reference's.
//
// A group of lanes owns one head and walks it a piece at a time: at hd = 128 in bfloat16 16 lanes with one piece each,
// so the QK norm is four shuffles. Blocks are (16 heads or so, row); each makes the table of its row, hd / 2 cosines
// and sines, anew: with 16 heads that is a fifth of the instructions of a kernel that waits for memory. Bytes a row:
// twice (H + 2K) hd, 28 KB for Scout.
#include "kernels/cuda/device/piece.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/ptx/pdl.h"

namespace l4::cuda {

namespace {
constexpr int kThreads = 256;
constexpr int kMaxPairs = 128;  // head_dim up to 256

struct Frequencies {
  float of[kMaxPairs];
};

struct FinishQkv {               // what the kernel needs of QkvArgs
  int n_heads, n_kv, hd, lanes;  // lanes: threads that share a head, a power of two up to 32
  bool rope, qk_norm, temperature;
  float qk_norm_eps, floor_scale, attn_scale;
  const int32_t *positions, *slots;
  char* pages;
  int64_t page_stride, k_offset, v_offset;
  int page_tokens;
};

// Sum over the `lanes` lanes of a group.
__device__ inline float group_sum(float v, int lanes) {
  for (int offset = lanes / 2; offset > 0; offset /= 2) v += __shfl_xor_sync(0xffffffffu, v, offset);
  return v;
}

// A: activations, C: the cache's type.
template <class A, class C, int n>
__global__ void __launch_bounds__(kThreads) finish_qkv_kernel(const A* qkv, A* q, const __grid_constant__ FinishQkv p,
                                                              const __grid_constant__ Frequencies inv_freq) {
  __shared__ float table[kMaxPairs][2];  // cos, sin
  wait_for_predecessor();
  let_successor_start();
  const int64_t row = blockIdx.x;
  const int position = p.positions[row];
  if (p.rope)
    for (int i = int(threadIdx.x); i < p.hd / 2; i += kThreads) {
      // The product is rounded to float32 as the reference does; cosf and sinf reduce the full range.
      const float angle = float(position) * inv_freq.of[i];
      table[i][0] = cosf(angle);
      table[i][1] = sinf(angle);
    }
  __syncthreads();

  const int n_all = p.n_heads + 2 * p.n_kv, lane = int(threadIdx.x) % p.lanes;
  const int head = int(blockIdx.y) * (kThreads / p.lanes) + int(threadIdx.x) / p.lanes;
  const bool is_q = head < p.n_heads, is_v = head >= p.n_heads + p.n_kv;
  const bool real = head < n_all;  // a group without a head goes along, for the shuffles of its warp
  const A* from = qkv + (row * n_all + (real ? head : 0)) * p.hd;

  constexpr int kStep = n > 2 ? n : 2;  // a pair is the least that can be rotated
  auto rotated = [&](int i, float(&v)[kStep]) {
    load(from + i, v);
    if (!p.rope || is_v) return;
#pragma unroll
    for (int j = 0; j < kStep; j += 2) {
      const float a = v[j], b = v[j + 1], c = table[(i + j) / 2][0], s = table[(i + j) / 2][1];
      v[j] = round_to<A>(a * c - b * s);
      v[j + 1] = round_to<A>(a * s + b * c);
    }
  };
  float v[kStep];
  float factor = 1;  // of the QK norm or of the temperature
  bool scaled = false;
  if (p.rope && p.qk_norm) {
    float squares = 0;
    for (int i = lane * kStep; i < p.hd; i += p.lanes * kStep) {
      rotated(i, v);
#pragma unroll
      for (int j = 0; j < kStep; ++j) squares += v[j] * v[j];
    }
    factor = 1.0f / sqrtf(group_sum(squares, p.lanes) / float(p.hd) + p.qk_norm_eps);
    scaled = !is_v;
  } else if (!p.rope && p.temperature) {
    const float steps = floorf((float(position) + 1.0f) / p.floor_scale);
    factor = log1pf(steps) * p.attn_scale + 1.0f;
    scaled = is_q;
  }
  if (!real) return;
  const int kv_head = is_v ? head - p.n_heads - p.n_kv : head - p.n_heads;
  const int slot = p.slots[row];
  C* entry = reinterpret_cast<C*>(p.pages + slot / p.page_tokens * p.page_stride + (is_v ? p.v_offset : p.k_offset)) +
             (int64_t(kv_head) * p.page_tokens + slot % p.page_tokens) * p.hd;
  for (int i = lane * kStep; i < p.hd; i += p.lanes * kStep) {
    rotated(i, v);
    if (scaled)
#pragma unroll
      for (int j = 0; j < kStep; ++j) v[j] = round_to<A>(v[j] * factor);
    if (is_q)
      store(q + (row * p.n_heads + head) * p.hd + i, v);
    else
      store(entry + i, v);
  }
}
}  // namespace

void finish_qkv(const OpContext& ctx, const QkvArgs& args, const View& qkv) {
  if (ctx.measuring()) return;
  const KvLayout& layout = args.kv.layout;
  const DeviceStep& step = ctx.gpu.step;
  const int64_t hd = layout.head_dim, n_kv = layout.n_kv_heads, n_heads = args.q.cols() / hd,
                n_all = n_heads + 2 * n_kv;
  const bool rope = bool(args.inv_freq);
  if (layout.dtype != DType::f32 && layout.dtype != DType::bf16)
    fail(ErrorKind::unsupported, "the CUDA backend keeps the KV cache in F32 or BF16, not ", dtype_name(layout.dtype));
  L4_CHECK(qkv.rows() == step.n_rows && qkv.cols() == n_all * hd && hd % 2 == 0 && hd / 2 <= kMaxPairs);
  Frequencies inv_freq = {};
  if (rope) {
    L4_CHECK(args.inv_freq.elements() == hd / 2);
    for (int64_t i = 0; i < hd / 2; ++i) inv_freq.of[i] = args.inv_freq.f32()[i];
  }
  const View pages{args.kv.base, layout.dtype, {1}};
  const bool whole = (layout.k_offset | layout.v_offset | args.kv.page_stride) % 16 == 0;
  with_pieces(qkv.dtype, whole ? hd : 1, {qkv, args.q, pages}, [&](auto a, auto n) {
    using A = decltype(a);
    int lanes = 1;
    while (lanes < 32 && lanes * std::max<int>(n, 2) < hd) lanes *= 2;
    const FinishQkv p{.n_heads = int(n_heads),
                      .n_kv = int(n_kv),
                      .hd = int(hd),
                      .lanes = lanes,
                      .rope = rope,
                      .qk_norm = args.qk_norm,
                      .temperature = args.temperature,
                      .qk_norm_eps = args.qk_norm_eps,
                      .floor_scale = args.floor_scale,
                      .attn_scale = args.attn_scale,
                      .positions = step.positions,
                      .slots = step.of(args.kv.kind).slots,
                      .pages = static_cast<char*>(args.kv.base),
                      .page_stride = args.kv.page_stride,
                      .k_offset = layout.k_offset,
                      .v_offset = layout.v_offset,
                      .page_tokens = int(layout.page_tokens)};
    const unsigned heads_a_block = unsigned(kThreads / lanes);
    const Launch where{.grid = {unsigned(qkv.rows()), (unsigned(n_all) + heads_a_block - 1) / heads_a_block},
                       .block = kThreads,
                       .stream = ctx.gpu.stream,
                       .programmatic = true};
    if (layout.dtype == DType::f32)
      launch(where, finish_qkv_kernel<A, float, n>, data<A>(qkv), data<A>(args.q), p, inv_freq);
    else
      launch(where, finish_qkv_kernel<A, bf16, n>, data<A>(qkv), data<A>(args.q), p, inv_freq);
  });
}

}  // namespace l4::cuda
