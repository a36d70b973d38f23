// A thread takes 8 neighbouring columns of 4 rows: their codes (4 bytes of INT4, 8 of FP8, a warp's side by side), their
// scales, which for INT4 are one access of 8 bytes, and stores 16 bytes a row. 2.5 bytes a weight in INT4, 2 of them written;
// 205 instructions for the 32 weights of each lane, where the memory leaves a warp 770 issue slots.
#include <type_traits>

#include "kernels/cuda/device/math.h"
#include "kernels/cuda/device/piece.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/matmul/cublas.h"
#include "kernels/cuda/matmul/grouped.h"
#include "kernels/cuda/matmul/int4_codes.h"
#include "kernels/cuda/ptx/pdl.h"
#include "kernels/cuda/weight_layout.h"
#include "quant/fp8.h"

namespace l4::cuda {

namespace {
constexpr int kThreads = 128, kRows = 4, kColumns = 8;

struct Int4Rows {
  const uint32_t* codes;
  const bf16* scales;
  unsigned n, k, group;

  __device__ unsigned place(unsigned piece) const { return unsigned(word_at(piece, k)); }
  // Of kRows rows, which begin at a multiple of kRows.
  __device__ uint2 scales_of(unsigned expert, unsigned row, unsigned piece) const {
    const unsigned n_groups = k / group;
    return *reinterpret_cast<const uint2*>(scales + expert * (scale_tiles(n) * kScaleRows * n_groups) +
                                           group_scale_at(row, piece * kColumns / group, n_groups));
  }
  __device__ static uint4 values(uint32_t word, const uint2& s, int i) {
    const uint32_t two = i < 2 ? s.x : s.y, scale = __byte_perm(two, 0, i % 2 ? 0x3232 : 0x1010);
    __nv_bfloat162 both;
    memcpy(&both, &scale, sizeof both);
    return {times(int4_codes(word, 0), both), times(int4_codes(word, 1), both), times(int4_codes(word, 2), both),
            times(int4_codes(word, 3), both)};
  }
};

struct Fp8Rows {
  const uint2* codes;
  const float* scales;
  unsigned n, k;

  __device__ unsigned place(unsigned piece) const { return piece; }
  struct OfRows {
    float of[kRows];
  };
  __device__ OfRows scales_of(unsigned expert, unsigned row, unsigned) const {
    OfRows s;
#pragma unroll
    for (int i = 0; i < kRows; ++i) s.of[i] = row + i < n ? scales[int64_t(expert) * n + row + i] : 0;
    return s;
  }
  __device__ static uint4 values(const uint2& c, const OfRows& s, int i) {
    float v[kColumns];
#pragma unroll
    for (int j = 0; j < kColumns; ++j) v[j] = fp8_to_float(uint8_t((j < 4 ? c.x : c.y) >> 8 * (j % 4))) * s.of[i];
    return narrow(v);
  }
};

template <class Weights>
__global__ void __launch_bounds__(kThreads) dequantize_kernel(Weights w, unsigned first_expert, uint4* to) {
  wait_for_predecessor();  // which may still read the scratch that is written here
  let_successor_start();
  const unsigned n_pieces = w.k / kColumns, piece = blockIdx.y * kThreads + threadIdx.x, row = blockIdx.x * kRows;
  if (piece >= n_pieces) return;
  const unsigned expert = first_expert + blockIdx.z;
  const auto* from = w.codes + (int64_t(expert) * w.n + row) * n_pieces + w.place(piece);
  to += (int64_t(blockIdx.z) * w.n + row) * n_pieces + piece;
  std::decay_t<decltype(*from)> codes[kRows];
#pragma unroll
  for (unsigned i = 0; i < kRows; ++i)
    if (row + i < w.n) codes[i] = from[i * n_pieces];
  const auto scales = w.scales_of(expert, row, piece);
#pragma unroll
  for (unsigned i = 0; i < kRows; ++i)
    if (row + i < w.n) to[i * n_pieces] = Weights::values(codes[i], scales, int(i));
}

Buffer view_of(void* data, size_t bytes) {
  return Buffer(data, bytes, [](void*) {});
}
}  // namespace

PackedWeight dequantize(const OpContext& ctx, const PackedWeight& w, int64_t first_expert, int64_t n_experts,
                        bf16* to) {
  const LinearSpec& spec = w.spec;
  PackedWeight plain{.spec = spec,
                     .data = view_of(to, size_t(n_experts * dequantized_bytes(spec))),
                     .scales = {},
                     .bias = view_of(w.bias.data(), w.bias.bytes())};
  plain.spec.format = WeightFormat::bf16;
  plain.spec.group = 0;
  plain.spec.n_experts = n_experts;
  if (ctx.measuring()) return plain;
  auto start = [&](const auto& weights) {
    launch({.grid = dim3(unsigned((spec.n + kRows - 1) / kRows),
                         unsigned((spec.k / kColumns + kThreads - 1) / kThreads), unsigned(n_experts)),
            .block = kThreads,
            .stream = ctx.gpu.stream,
            .programmatic = true},
           dequantize_kernel<std::decay_t<decltype(weights)>>, weights, unsigned(first_expert),
           reinterpret_cast<uint4*>(to));
  };
  const void *data = w.data.data(), *scales = w.scales.data();
  const auto n = unsigned(spec.n), k = unsigned(spec.k);
  if (spec.format == WeightFormat::int4)
    start(Int4Rows{static_cast<const uint32_t*>(data), static_cast<const bf16*>(scales), n, k, unsigned(spec.group)});
  else
    start(Fp8Rows{static_cast<const uint2*>(data), static_cast<const float*>(scales), n, k});
  return plain;
}

void dequantized_linear(const OpContext& ctx, const View& x, const PackedWeight& w, const View& y, DType round_to) {
  Scratch scratch(ctx.work);
  bf16* to = scratch.take_array<bf16>(w.spec.n * w.spec.k);
  const PackedWeight plain = dequantize(ctx, w, 0, 1, to);
  ctx.invariant ? grouped_linear(ctx, x, plain, y, round_to) : cublas_linear(ctx, x, plain, y, round_to);
}

}  // namespace l4::cuda
