// Contract: random_weights.h. A thread makes 8 neighbours along k, some 25 integer instructions each, and writes them
// with one 16-byte store where they lie so: about 1e12 values a second by the count of instructions, so that the 109
// billion of Scout take a tenth of a second. Runs before anything is timed; nothing was tried to make it faster.
#include "kernels/cuda/device/math.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/random_weights.h"
#include "kernels/cuda/weight_layout.h"

namespace l4::cuda {

namespace {
constexpr int kThreads = 256, kEach = 8;

struct Source {
  RandomTensor tensor;
  int64_t first, n_stride, k_stride;
};
struct Place {
  int64_t n, k;                        // of the slice
  int64_t first_row, to_stride, half;  // half: rows of gate where they are interleaved with those of up, else 0
};

template <class T>
__global__ void __launch_bounds__(kThreads) random_kernel(Source from, Place at, T* to) {
  const int64_t pieces = (at.k + kEach - 1) / kEach;
  const int64_t n_threads = int64_t(gridDim.x) * kThreads;
  for (int64_t p = int64_t(blockIdx.x) * kThreads + threadIdx.x; p < at.n * pieces; p += n_threads) {
    const int64_t i = p / pieces, j0 = p % pieces * kEach;
    int64_t row = at.first_row + i;
    if (at.half > 0) {  // packed_row() of weight_layout.h
      const int64_t j = row < at.half ? row : row - at.half;
      row = j / kGateBlock * 2 * kGateBlock + (row < at.half ? 0 : kGateBlock) + j % kGateBlock;
    }
    T* out = to + row * at.to_stride + j0;
    alignas(16) T values[kEach];
#pragma unroll
    for (int j = 0; j < kEach; ++j)
      values[j] = rounded<T>(random_weight(from.tensor, from.first + i * from.n_stride + (j0 + j) * from.k_stride));
    if (j0 + kEach <= at.k && reinterpret_cast<uintptr_t>(out) % 16 == 0) {
#pragma unroll
      for (size_t part = 0; part < sizeof values / 16; ++part)
        reinterpret_cast<uint4*>(out)[part] = reinterpret_cast<const uint4*>(values)[part];
    } else {
#pragma unroll
      for (int j = 0; j < kEach; ++j)
        if (j0 + j < at.k) out[j] = values[j];
    }
  }
}

// A bias is float32 as packed, and BF16 as made: rounded by way of the type it would have been stored in.
__global__ void __launch_bounds__(kThreads) round_kernel(float* v, Place at) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= at.n) return;
  int64_t row = at.first_row + i;
  v[row] = round_to<bf16>(v[row]);
}

template <class T>
void fill(cudaStream_t stream, const Source& from, const Place& at, T* to) {
  const int64_t threads = at.n * ((at.k + kEach - 1) / kEach);
  if (threads == 0) return;
  constexpr int64_t kMostBlocks = 132 * 16;
  launch({.grid = unsigned(std::min((threads + kThreads - 1) / kThreads, kMostBlocks)), .block = kThreads, .stream = stream},
         random_kernel<T>, from, at, to);
}

Place place(const RandomSlice& s, const LinearSpec& spec, int64_t to_stride) {
  return {s.at.n, s.at.k, s.at.n_offset, to_stride, interleaves_gate_up(spec) ? spec.n / 2 : 0};
}
Source source(const RandomSlice& s) {
  return {s.tensor, s.first, s.at.n_stride, s.at.k_stride};
}
}  // namespace

void fill_random_piece(cudaStream_t stream, const RandomSlice& s, const PackedWeight& to) {
  const LinearSpec& spec = to.spec;
  const int64_t begin = s.at.expert * spec.n * spec.k + s.at.k_offset;
  if (spec.format == WeightFormat::f32)
    fill(stream, source(s), place(s, spec, spec.k), static_cast<float*>(to.data.data()) + begin);
  else
    fill(stream, source(s), place(s, spec, spec.k), static_cast<bf16*>(to.data.data()) + begin);
}

void fill_random_bias_piece(cudaStream_t stream, const RandomSlice& s, const PackedWeight& to) {
  L4_CHECK(!to.spec.gated, to.spec.name, ": gated weights have no bias");
  const Place at = place(s, to.spec, 1);
  float* bias = static_cast<float*>(to.bias.data()) + s.at.expert * to.spec.n;
  fill(stream, source(s), at, bias);
  if (to.spec.format != WeightFormat::f32 && at.n > 0)
    launch({.grid = unsigned((at.n + kThreads - 1) / kThreads), .block = kThreads, .stream = stream}, round_kernel, bias, at);
}

void fill_random_rows(cudaStream_t stream, const RandomSlice& s, void* to) {
  fill(stream, source(s), {s.at.n, s.at.k, 0, s.at.k, 0}, static_cast<bf16*>(to));
}

void fill_random_view(cudaStream_t stream, const View& to, const RandomTensor& tensor, int64_t first) {
  const Source from{tensor, first, 0, 1};
  const Place at{1, to.elements(), 0, 0, 0};
  with_activation(to.dtype, [&](auto a) { fill(stream, from, at, data<decltype(a)>(to)); });
}

}  // namespace l4::cuda
