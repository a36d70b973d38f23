// Slices of checkpoint tensors to the layout of weight_layout.h: moved, transposed where the source is, converted;
// codes and scales too, and FP8 made here.
//
// A block moves a tile of 32 rows (n) and 32 columns (k): it reads along whichever axis of the source is dense, turns
// the tile over in shared memory (rows of 33 words: no bank conflicts) and writes along k. 32 to 128 bytes a row and
// access, so well under the memory's rate, but above the 50 GB/s at which pieces come over PCIe.
//
// FP8 of weights of another type: codes of w / s with s = max|w| / 448 over a whole row, bit for bit the CPU's. The
// maxima come first, in the place of the scales, which are zeros before that: at once where a piece has whole rows,
// otherwise from all pieces of the weight, each of which then comes a second time.
#include <algorithm>

#include "kernels/cuda/device/math.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/pack_values.h"

namespace l4::cuda {

namespace {
using namespace packing;

constexpr int kTile = 32, kRowsAtOnce = 8;

// A rectangle of one expert's matrix in device memory and where its rows go, in closed form for the device.
template <class From>
struct Source {
  const From* data;
  int64_t n, k, n_stride, k_stride;
  int64_t first_row, first_column;
  int64_t half;  // rows of gate where they are interleaved with those of up; 0: rows stay where they are

  __device__ int64_t packed_row(int64_t i) const {
    const int64_t row = first_row + i;
    if (half == 0) return row;
    const int64_t j = row < half ? row : row - half;
    return j / kGateBlock * 2 * kGateBlock + (row < half ? 0 : kGateBlock) + j % kGateBlock;
  }
};

// Reads this block's tile; all threads.
template <class From>
__device__ void read_tile(const Source<From>& from, Moved<From> (&tile)[kTile][kTile + 1]) {
  const int64_t n0 = int64_t(blockIdx.y) * kTile, k0 = int64_t(blockIdx.x) * kTile;
  const int x = int(threadIdx.x);
  const bool along_n = from.n_stride == 1 && from.k_stride != 1;
  for (int y = int(threadIdx.y); y < kTile; y += kRowsAtOnce) {
    const int i = along_n ? x : y, j = along_n ? y : x;
    const bool inside = n0 + i < from.n && k0 + j < from.k;
    tile[i][j] = inside ? get(from.data[(n0 + i) * from.n_stride + (k0 + j) * from.k_stride]) : Moved<From>(0);
  }
  __syncthreads();
}

template <class From, class Store>
__global__ void __launch_bounds__(kTile* kRowsAtOnce) pack_kernel(Source<From> from, Store store) {
  __shared__ Moved<From> tile[kTile][kTile + 1];
  read_tile(from, tile);
  const int64_t n0 = int64_t(blockIdx.y) * kTile, column = int64_t(blockIdx.x) * kTile + threadIdx.x;
  for (int y = int(threadIdx.y); y < kTile; y += kRowsAtOnce)
    if (n0 + y < from.n && column < from.k)
      store({from.packed_row(n0 + y), from.first_row + n0 + y, from.first_column + column}, tile[y][threadIdx.x]);
}

// largest[row] = max(largest[row], |w|...). A NaN is passed over here and becomes a code that is refused.
template <class From>
__global__ void __launch_bounds__(kTile* kRowsAtOnce) largest_kernel(Source<From> from, float* largest) {
  __shared__ Moved<From> tile[kTile][kTile + 1];
  read_tile(from, tile);
  const int64_t n0 = int64_t(blockIdx.y) * kTile;
  for (int y = int(threadIdx.y); y < kTile; y += kRowsAtOnce) {
    const float v = fabsf(tile[y][threadIdx.x]), most = warp_max(v == v ? v : 0.0f);
    if (threadIdx.x == 0 && n0 + y < from.n)  // floats that are not negative are ordered as their bits
      atomicMax(reinterpret_cast<int*>(largest + from.packed_row(n0 + y)), __float_as_int(most));
  }
}

constexpr int kScaleThreads = 128;
// The largest of rows to their scales.
__global__ void __launch_bounds__(kScaleThreads) scale_kernel(Source<float> rows, float* scales, Notes notes) {
  const int64_t i = int64_t(blockIdx.x) * kScaleThreads + threadIdx.x;
  if (i >= rows.n) return;
  float& scale = scales[rows.packed_row(i)];
  scale = fp8_scale(scale);
  notes.check_scale(scale, rows.first_row + i, 0);
}

// ---- launching

template <class From>
Source<From> source(const LinearSpec& spec, const WeightSlice& s) {
  return {static_cast<const From*>(s.data),          s.n, s.k, s.n_stride, s.k_stride, s.n_offset, s.k_offset,
          interleaves_gate_up(spec) ? spec.n / 2 : 0};
}

// kernel(source, arguments...) over all tiles.
template <class From, class Kernel, class... Arguments>
void over_tiles(cudaStream_t stream, const LinearSpec& spec, const WeightSlice& s, Kernel kernel,
                Arguments... arguments) {
  L4_CHECK(s.n_stride == 1 || s.k_stride == 1 || s.k == 1, spec.name, ": a slice of strides ", s.n_stride, " and ",
           s.k_stride);
  // Rows in as many launches as the grid's limit asks for.
  constexpr int64_t kMostRows = int64_t(65535) * kTile;
  for (int64_t n0 = 0; n0 < s.n && s.k > 0; n0 += kMostRows) {
    Source<From> part = source<From>(spec, s);
    part.data += n0 * s.n_stride, part.first_row += n0, part.n = std::min(kMostRows, s.n - n0);
    launch({.grid = dim3(unsigned((s.k + kTile - 1) / kTile), unsigned((part.n + kTile - 1) / kTile)),
            .block = dim3(kTile, kRowsAtOnce),
            .stream = stream},
           kernel, part, arguments...);
  }
}

template <class Body>
void with_source(DType dtype, Body&& body) {
  switch (dtype) {
    case DType::f32:
      return body(float{});
    case DType::bf16:
      return body(bf16{});
    case DType::f16:
      return body(F16{});
    default:
      L4_CHECK(false, "weights come as F32, F16 or BF16, not ", dtype_name(dtype));
  }
}
template <class Store>
void pack_values(cudaStream_t stream, const LinearSpec& spec, const WeightSlice& s, const Store& store) {
  with_source(s.dtype, [&](auto from) {
    using From = decltype(from);
    over_tiles<From>(stream, spec, s, pack_kernel<From, Store>, store);
  });
}

// Of one expert.
size_t data_bytes(const LinearSpec& spec) {
  const size_t n = size_t(spec.n * spec.k);
  switch (spec.format) {
    case WeightFormat::f32:
      return n * sizeof(float);
    case WeightFormat::bf16:
      return n * sizeof(bf16);
    case WeightFormat::fp8:
      return n;
    case WeightFormat::int4:
      return n / 2;
  }
  L4_CHECK(false);
}
size_t scale_bytes(const LinearSpec& spec) {
  if (spec.format == WeightFormat::fp8) return size_t(spec.n) * sizeof(float);
  if (spec.format != WeightFormat::int4) return 0;
  L4_CHECK(spec.group > 0 && spec.k % spec.group == 0 && spec.k % 8 == 0, spec.name, ": groups of ", spec.group, " of ",
           spec.k, " columns");
  return size_t(scale_tiles(spec.n) * kScaleRows * (spec.k / spec.group)) * sizeof(bf16);
}
size_t bias_bytes(const LinearSpec& spec) {
  return spec.bias ? size_t(spec.n) * sizeof(float) : 0;
}
// The memory of one expert in a buffer of all.
template <class T>
T* expert_part(const Buffer& all, int64_t expert, size_t expert_bytes) {
  return reinterpret_cast<T*>(static_cast<std::byte*>(all.data()) + size_t(expert) * expert_bytes);
}
float* row_scales(const PackedWeight& to, int64_t expert) {
  return expert_part<float>(to.scales, expert, scale_bytes(to.spec));
}

void pack_weights(cudaStream_t stream, const WeightSlice& s, const PackedWeight& to, const Notes& notes) {
  const LinearSpec& spec = to.spec;
  const size_t bytes = data_bytes(spec);
  switch (spec.format) {
    case WeightFormat::f32:
      return pack_values(stream, spec, s, StoreValue<float>{expert_part<float>(to.data, s.expert, bytes), spec.k});
    case WeightFormat::bf16:
      return pack_values(stream, spec, s, StoreValue<bf16>{expert_part<bf16>(to.data, s.expert, bytes), spec.k});
    case WeightFormat::fp8: {
      const StoreFp8 store{expert_part<uint8_t>(to.data, s.expert, bytes), spec.k, notes};
      if (s.dtype == DType::f8_e4m3) return over_tiles<uint8_t>(stream, spec, s, pack_kernel<uint8_t, StoreFp8>, store);
      return pack_values(stream, spec, s, MakeFp8{store, row_scales(to, s.expert)});
    }
    case WeightFormat::int4:
      return over_tiles<uint32_t>(stream, spec, s, pack_kernel<uint32_t, StoreInt4>,
                                  StoreInt4{expert_part<uint32_t>(to.data, s.expert, bytes), spec.k});
  }
}
}  // namespace

size_t packed_weight_bytes(const LinearSpec& spec) {
  return size_t(spec.n_experts) * (data_bytes(spec) + scale_bytes(spec) + bias_bytes(spec));
}

PackedWeight empty_weight(const LinearSpec& spec, const Allocate& allocate) {
  L4_CHECK(spec.n > 0 && spec.k > 0 && spec.n_experts > 0 && (!spec.gated || spec.n % 2 == 0), spec.name);
  auto of_all = [&](size_t expert_bytes) { return allocate(size_t(spec.n_experts) * expert_bytes, spec.name.c_str()); };
  PackedWeight weight{.spec = spec, .data = of_all(data_bytes(spec)), .scales = {}, .bias = {}};
  if (scale_bytes(spec)) weight.scales = of_all(scale_bytes(spec));
  if (spec.bias) weight.bias = of_all(bias_bytes(spec));
  return weight;
}

void clear_scales(cudaStream_t stream, const PackedWeight& to) {
  if (to.scales) L4_CUDA(cudaMemsetAsync(to.scales.data(), 0, to.scales.bytes(), stream));
}

void finish_scales(cudaStream_t stream, int64_t expert, int64_t first_row, int64_t n, const PackedWeight& to,
                   const DefectNotes& defects) {
  const WeightSlice rows{.n = n, .k = 1, .expert = expert, .n_offset = first_row};
  launch({.grid = unsigned((n + kScaleThreads - 1) / kScaleThreads), .block = kScaleThreads, .stream = stream},
         scale_kernel, source<float>(to.spec, rows), row_scales(to, expert), Notes{defects, expert * to.spec.n});
}

void pack_piece(cudaStream_t stream, const WeightSlice& piece, WeightPart part, const PackedWeight& to,
                const DefectNotes& defects) {
  const LinearSpec& spec = to.spec;
  const Notes notes{defects, piece.expert * spec.n};
  switch (part) {
    case WeightPart::bias:
      return pack_values(stream, spec, piece,
                         StoreValue<float>{expert_part<float>(to.bias, piece.expert, bias_bytes(spec)), 1});
    case WeightPart::scales:
      if (spec.format == WeightFormat::fp8)
        return pack_values(stream, spec, piece, StoreRowScale{row_scales(to, piece.expert), notes});
      return pack_values(
          stream, spec, piece,
          StoreGroupScale{expert_part<bf16>(to.scales, piece.expert, scale_bytes(spec)), spec.k / spec.group, notes});
    case WeightPart::largest:
      return with_source(piece.dtype, [&](auto from) {
        using From = decltype(from);
        over_tiles<From>(stream, spec, piece, largest_kernel<From>, row_scales(to, piece.expert));
      });
    case WeightPart::whole_rows:
      pack_piece(stream, piece, WeightPart::largest, to, defects);
      finish_scales(stream, piece.expert, piece.n_offset, piece.n, to, defects);
      return pack_weights(stream, piece, to, notes);
    case WeightPart::weights:
      return pack_weights(stream, piece, to, notes);
  }
}

}  // namespace l4::cuda
