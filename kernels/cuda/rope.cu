// What happens to q, k and v between the projection and the cache (contract: kernels/cpu/ops.h). Compiled without
// contraction to fused multiply-adds: the rotation's products and sums are rounded one by one, as the reference's.
//
// A group of lanes owns a head, a lane up to 8 of its elements: at hd = 128 in bfloat16 16 lanes with one piece each,
// so that the QK norm is four shuffles. A lane has the same elements of every head that it comes to, so it computes
// their cosines and sines once, in registers, before it waits for the projection: no shared memory (blocks of the
// projection and of attention, which both overlap this kernel, need nearly all of it), no barrier. With few rows a
// row's heads are spread over several blocks. Bytes a row: (H + 2K) hd read and written, 28 KB for Scout. Codes of an FP8
// cache: a group's maximum is four shuffles more.
#include <algorithm>

#include "kernels/cuda/device/piece.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/ptx/pdl.h"
#include "quant/fp8.h"

namespace l4::cuda {

namespace {
constexpr int kThreads = 256;
constexpr int kMaxHead = 256;  // 32 lanes with 8 elements

struct Frequencies {
  float of[kMaxHead / 2];
};

struct FinishQkv {               // what the kernel needs of QkvArgs
  int n_heads, n_kv, hd, lanes;  // lanes: threads that share a head, a power of two up to 32
  bool rope, qk_norm, temperature;
  float qk_norm_eps, floor_scale, attn_scale;
  const int32_t *positions, *slots;
  char* pages;
  int64_t page_stride, k_offset, v_offset, k_scale_offset, v_scale_offset;
  float k_scale, v_scale;
  int page_tokens;
};

// Sum over the `lanes` lanes of a group.
__device__ inline float group_sum(float v, int lanes) {
  for (int offset = lanes / 2; offset > 0; offset /= 2) v += __shfl_xor_sync(0xffffffffu, v, offset);
  return v;
}

// The largest size of an element over the `lanes` lanes of a group, NaN if any is.
__device__ inline float group_largest(float v, int lanes) {
  for (int offset = lanes / 2; offset > 0; offset /= 2) v = larger(v, __shfl_xor_sync(0xffffffffu, v, offset));
  return v;
}

// Codes of neighbouring elements.
template <int n>
__device__ inline void store_codes(uint8_t* to, const float (&v)[n], float scale) {
  if constexpr (n == 8) {
    uint32_t words[2] = {};
#pragma unroll
    for (int i = 0; i < n; ++i) words[i / 4] |= uint32_t(fp8_from_float(v[i] / scale)) << (i % 4 * 8);
    *reinterpret_cast<uint2*>(to) = make_uint2(words[0], words[1]);
  } else {
#pragma unroll
    for (int i = 0; i < n; ++i) to[i] = fp8_from_float(v[i] / scale);
  }
}

// A: activations, C: the cache's type, uint8_t for codes.
template <class A, class C, int n>
__global__ void __launch_bounds__(kThreads) finish_qkv_kernel(const A* qkv, A* q, const __grid_constant__ FinishQkv p,
                                                              const __grid_constant__ Frequencies inv_freq) {
  constexpr int kStep = n > 2 ? n : 2;  // a pair is the least that can be rotated
  constexpr int kSteps = 8 / kStep;     // of a lane
  let_successor_start();  // early: launch.h
  const int lane = int(threadIdx.x) % p.lanes, group = int(threadIdx.x) / p.lanes, n_groups = kThreads / p.lanes;
  auto at = [&](int step) { return (step * p.lanes + lane) * kStep; };
  const int64_t row = blockIdx.x;
  // The step's plan came before its first kernel: it may be read before the wait.
  const int position = p.positions[row], slot = p.slots[row];
  float cosine[kSteps][kStep / 2], sine[kSteps][kStep / 2];
  float temperature = 1;
  if (p.rope) {
#pragma unroll
    for (int s = 0; s < kSteps; ++s)
#pragma unroll
      for (int j = 0; j < kStep / 2; ++j) {
        if (at(s) >= p.hd) continue;
        // The product is rounded to float32 as the reference does; cosf and sinf reduce the full range.
        const float angle = float(position) * inv_freq.of[at(s) / 2 + j];
        cosine[s][j] = cosf(angle);
        sine[s][j] = sinf(angle);
      }
  } else if (p.temperature) {
    const float steps = floorf((float(position) + 1.0f) / p.floor_scale);
    temperature = log1pf(steps) * p.attn_scale + 1.0f;
  }
  char* page = p.pages + slot / p.page_tokens * p.page_stride;
  const int in_page = slot % p.page_tokens;
  wait_for_predecessor();

  const int n_all = p.n_heads + 2 * p.n_kv;
  for (int first = int(blockIdx.y) * n_groups; first < n_all; first += int(gridDim.y) * n_groups) {
    const int head = first + group;
    const bool is_q = head < p.n_heads, is_v = head >= p.n_heads + p.n_kv;
    const bool real = head < n_all;  // a group without a head goes along, for the shuffles of its warp
    const A* from = qkv + (row * n_all + head) * p.hd;
    float v[kSteps][kStep] = {};
    float squares = 0;
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      if (!real || at(s) >= p.hd) continue;
      load(from + at(s), v[s]);
      if (!p.rope || is_v) continue;
#pragma unroll
      for (int j = 0; j < kStep; j += 2) {
        const float a = v[s][j], b = v[s][j + 1];
        v[s][j] = round_to<A>(a * cosine[s][j / 2] - b * sine[s][j / 2]);
        v[s][j + 1] = round_to<A>(a * sine[s][j / 2] + b * cosine[s][j / 2]);
        squares += v[s][j] * v[s][j] + v[s][j + 1] * v[s][j + 1];
      }
    }
    float factor = is_q ? temperature : 1;
    if (p.rope && p.qk_norm) {
      const float mean = group_sum(squares, p.lanes) / float(p.hd);
      if (!is_v) factor = 1.0f / sqrtf(mean + p.qk_norm_eps);
    }
    float largest = 0;
#pragma unroll
    for (int s = 0; s < kSteps; ++s)
#pragma unroll
      for (int j = 0; j < kStep; ++j) {
        v[s][j] = round_to<A>(v[s][j] * factor);  // by 1: no change
        largest = larger(largest, fabsf(v[s][j]));
      }
    float scale = is_v ? p.v_scale : p.k_scale;
    bool is_own = false;
    if constexpr (sizeof(C) == 1) {
      is_own = p.k_scale_offset >= 0;
      if (is_own) {
        scale = round_to<bf16>(group_largest(largest, p.lanes) / kFp8Max);
        if (scale == 0) scale = 1;
      }
    }
    if (!real) continue;
    if (is_q) {
#pragma unroll
      for (int s = 0; s < kSteps; ++s)
        if (at(s) < p.hd) store(q + (row * p.n_heads + head) * p.hd + at(s), v[s]);
      continue;
    }
    if (slot < 0) continue;  // nobody's row
    const int64_t entry = int64_t(head - p.n_heads - (is_v ? p.n_kv : 0)) * p.page_tokens + in_page;
    C* to = reinterpret_cast<C*>(page + (is_v ? p.v_offset : p.k_offset)) + entry * p.hd;
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      if (at(s) >= p.hd) continue;
      if constexpr (sizeof(C) == 1)
        store_codes(to + at(s), v[s], scale);
      else
        store(to + at(s), v[s]);
    }
    if (is_own && lane == 0)
      reinterpret_cast<bf16*>(page + (is_v ? p.v_scale_offset : p.k_scale_offset))[entry] = rounded<bf16>(scale);
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
  const bool is_fp8 = layout.dtype == DType::f8_e4m3;
  if (layout.dtype != DType::f32 && layout.dtype != DType::bf16 && !is_fp8)
    fail(ErrorKind::unsupported, "the CUDA backend keeps the KV cache in F32, BF16 or F8_E4M3, not ",
         dtype_name(layout.dtype));
  L4_CHECK(qkv.rows() == step.n_rows && qkv.cols() == n_all * hd && hd % 2 == 0 && hd <= kMaxHead);
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
                      .k_scale_offset = layout.k_scale_offset,
                      .v_scale_offset = layout.v_scale_offset,
                      .k_scale = args.kv.k_scale,
                      .v_scale = args.kv.v_scale,
                      .page_tokens = int(layout.page_tokens)};
    const int64_t heads_at_once = kThreads / lanes, rows = qkv.rows();
    const int64_t blocks =
        std::clamp<int64_t>(2 * ctx.gpu.n_sms / rows, 1, (n_all + heads_at_once - 1) / heads_at_once);
    const Launch where{
        .grid = {unsigned(rows), unsigned(blocks)}, .block = kThreads, .stream = ctx.gpu.stream, .programmatic = true};
    if (layout.dtype == DType::f32)
      launch(where, finish_qkv_kernel<A, float, n>, data<A>(qkv), data<A>(args.q), p, inv_freq);
    else if (is_fp8)
      launch(where, finish_qkv_kernel<A, uint8_t, n>, data<A>(qkv), data<A>(args.q), p, inv_freq);
    else
      launch(where, finish_qkv_kernel<A, bf16, n>, data<A>(qkv), data<A>(args.q), p, inv_freq);
  });
}

}  // namespace l4::cuda
