// A thread takes 8 neighbouring columns of 4 rows: their codes (4 bytes of INT4, 8 of FP8, a warp's side by side), their
// scales, which for INT4 are one access of 8 bytes, and stores 16 bytes a row. 2.5 bytes a weight in INT4, 2 of them written;
// about 35 instructions for 8 weights, where the memory leaves 190 issue slots for 8 a lane.
//
// A product of codes and scales of bfloat16 is exact in float32, so multiplying pairs of bfloat16 rounds the same.
#include "kernels/cuda/device/math.h"
#include "kernels/cuda/device/piece.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/matmul/cublas.h"
#include "kernels/cuda/matmul/dequantize.h"
#include "kernels/cuda/matmul/int4_codes.h"
#include "kernels/cuda/ptx/pdl.h"
#include "kernels/cuda/weight_layout.h"
#include "quant/fp8.h"

namespace l4::cuda {

namespace {
constexpr int kThreads = 128, kRows = 4, kColumns = 8;

struct Int4Rows {
  const uint32_t* words;
  const bf16* scales;
  int64_t n, k, group;

  using Codes = uint32_t;
  __device__ Codes codes(int64_t expert, int64_t row, int64_t piece) const {
    return words[(expert * n + row) * (k / kColumns) + word_at(piece, k)];
  }
  // Of kRows rows, which begin at a multiple of kRows.
  __device__ uint2 scales_of(int64_t expert, int64_t row, int64_t piece) const {
    const int64_t n_groups = k / group, of_expert = scale_tiles(n) * kScaleRows * n_groups;
    return *reinterpret_cast<const uint2*>(scales + expert * of_expert +
                                           group_scale_at(row, piece * kColumns / group, n_groups));
  }
  __device__ static uint4 values(Codes word, const uint2& s, int i) {
    const uint32_t two = i < 2 ? s.x : s.y, scale = __byte_perm(two, 0, i % 2 ? 0x3232 : 0x1010);
    auto times = [&](uint32_t codes) {
      return pairs::each(codes, scale, [](__nv_bfloat162 v, __nv_bfloat162 w) { return __hmul2_rn(v, w); });
    };
    return {times(int4_codes(word, 0)), times(int4_codes(word, 1)), times(int4_codes(word, 2)),
            times(int4_codes(word, 3))};
  }
};

struct Fp8Rows {
  const uint8_t* codes_;
  const float* scales;
  int64_t n, k;

  using Codes = uint2;
  __device__ Codes codes(int64_t expert, int64_t row, int64_t piece) const {
    return *reinterpret_cast<const uint2*>(codes_ + (expert * n + row) * k + piece * kColumns);
  }
  struct OfRows {
    float of[kRows];
  };
  __device__ OfRows scales_of(int64_t expert, int64_t row, int64_t) const {
    OfRows s;
#pragma unroll
    for (int i = 0; i < kRows; ++i) s.of[i] = row + i < n ? scales[expert * n + row + i] : 0;
    return s;
  }
  __device__ static uint4 values(const Codes& c, const OfRows& s, int i) {
    float v[kColumns];
#pragma unroll
    for (int j = 0; j < kColumns; ++j) v[j] = fp8_to_float(uint8_t((j < 4 ? c.x : c.y) >> 8 * (j % 4))) * s.of[i];
    return narrow(v);
  }
};

template <class Weights>
__global__ void __launch_bounds__(kThreads) dequantize_kernel(Weights w, int64_t first_expert, bf16* to) {
  wait_for_predecessor();  // which may still read the scratch that is written here
  let_successor_start();
  const int64_t piece = int64_t(blockIdx.y) * kThreads + threadIdx.x, row = int64_t(blockIdx.x) * kRows;
  if (piece >= w.k / kColumns) return;
  const int64_t of_scratch = blockIdx.z, expert = first_expert + of_scratch;
  typename Weights::Codes codes[kRows];
#pragma unroll
  for (int i = 0; i < kRows; ++i)
    if (row + i < w.n) codes[i] = w.codes(expert, row + i, piece);
  const auto scales = w.scales_of(expert, row, piece);
#pragma unroll
  for (int i = 0; i < kRows; ++i)
    if (row + i < w.n)
      reinterpret_cast<uint4*>(to)[(of_scratch * w.n + row + i) * (w.k / kColumns) + piece] =
          Weights::values(codes[i], scales, i);
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
           dequantize_kernel<std::decay_t<decltype(weights)>>, weights, first_expert, to);
  };
  const void *data = w.data.data(), *scales = w.scales.data();
  if (spec.format == WeightFormat::int4)
    start(Int4Rows{static_cast<const uint32_t*>(data), static_cast<const bf16*>(scales), spec.n, spec.k, spec.group});
  else
    start(Fp8Rows{static_cast<const uint8_t*>(data), static_cast<const float*>(scales), spec.n, spec.k});
  return plain;
}

void dequantized_linear(const OpContext& ctx, const View& x, const PackedWeight& w, const View& y, DType round_to) {
  Scratch scratch(ctx.work);
  bf16* to = scratch.take_array<bf16>(w.spec.n * w.spec.k);
  cublas_linear(ctx, x, dequantize(ctx, w, 0, 1, to), y, round_to);
}

}  // namespace l4::cuda
