// Contract: random_weights.h. A thread makes 8 neighbours along k, some 25 integer instructions each, and writes them
// with one 16-byte store where they lie so: about 1e12 values a second by the count of instructions, so that the 109
// billion of Scout take a tenth of a second; as INT4, some 40 instructions each, 0.2 s. FP8 (measuring.cpp) goes by way of
// BF16 in memory, about a second. Runs before anything is timed; nothing was tried to make it faster.
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

  __device__ int64_t packed_row(int64_t i) const {
    const int64_t row = first_row + i;
    if (half == 0) return row;
    const int64_t j = row < half ? row : row - half;
    return j / kGateBlock * 2 * kGateBlock + (row < half ? 0 : kGateBlock) + j % kGateBlock;
  }
};

template <class T>
__global__ void __launch_bounds__(kThreads) random_kernel(Source from, Place at, T* to) {
  const int64_t pieces = (at.k + kEach - 1) / kEach;
  const int64_t n_threads = int64_t(gridDim.x) * kThreads;
  for (int64_t p = int64_t(blockIdx.x) * kThreads + threadIdx.x; p < at.n * pieces; p += n_threads) {
    const int64_t i = p / pieces, j0 = p % pieces * kEach;
    T* out = to + at.packed_row(i) * at.to_stride + j0;
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

// A thread makes the eight codes of a word, the first of a group its scale too. A warp's words fill whole lines, in the order
// of word_at().
struct Int4Place {
  uint32_t* words;
  bf16* scales;
  int64_t k, first_column, group;  // k: of a whole row
};
__global__ void __launch_bounds__(kThreads) random_int4_kernel(Source from, Place at, Int4Place to) {
  const int64_t words = at.k / 8, n_threads = int64_t(gridDim.x) * kThreads;
  for (int64_t p = int64_t(blockIdx.x) * kThreads + threadIdx.x; p < at.n * words; p += n_threads) {
    const int64_t i = p / words, j0 = p % words * 8, row = at.packed_row(i);
    const auto index = [&](int64_t j) { return from.first + i * from.n_stride + j * from.k_stride; };
    const bf16 scale = rounded<bf16>(random_int4_scale(from.tensor, index(j0 / to.group * to.group)));
    const float inverse = 1 / get(scale);
    uint32_t word = 0;
#pragma unroll
    for (int j = 0; j < 8; ++j) word |= uint32_t(random_int4_code(from.tensor, index(j0 + j), inverse) + 8) << shift_of(j);
    const int64_t column = to.first_column + j0;
    to.words[row * (to.k / 8) + word_at(column / 8, to.k)] = word;
    if (j0 % to.group == 0) to.scales[group_scale_at(row, column / to.group, to.k / to.group)] = scale;
  }
}

// A bias is float32 as packed, and BF16 as made: rounded by way of the type it would have been stored in.
__global__ void __launch_bounds__(kThreads) round_kernel(float* v, Place at) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= at.n) return;
  int64_t row = at.first_row + i;
  v[row] = round_to<bf16>(v[row]);
}

template <class Kernel, class To>
void over_pieces(cudaStream_t stream, Kernel kernel, const Source& from, const Place& at, To to) {
  const int64_t threads = at.n * ((at.k + kEach - 1) / kEach);
  if (threads == 0) return;
  constexpr int64_t kMostBlocks = 132 * 16;
  launch({.grid = unsigned(std::min((threads + kThreads - 1) / kThreads, kMostBlocks)), .block = kThreads, .stream = stream},
         kernel, from, at, to);
}
template <class T>
void fill(cudaStream_t stream, const Source& from, const Place& at, T* to) {
  over_pieces(stream, random_kernel<T>, from, at, to);
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
  if (spec.format == WeightFormat::int4) {
    L4_CHECK(s.at.k % spec.group == 0 && s.at.k_offset % spec.group == 0, spec.name, ": groups of ", spec.group, " are cut");
    const int64_t scales = scale_tiles(spec.n) * kScaleRows * (spec.k / spec.group);  // of an expert
    over_pieces(stream, random_int4_kernel, source(s), place(s, spec, 0),
                Int4Place{static_cast<uint32_t*>(to.data.data()) + s.at.expert * spec.n * spec.k / 8,
                          static_cast<bf16*>(to.scales.data()) + s.at.expert * scales, spec.k, s.at.k_offset, spec.group});
  } else if (spec.format == WeightFormat::f32)
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
