// Slices of checkpoint tensors to the layout of weight_layout.h: moved, transposed where the source is, converted.
//
// A block moves a tile of 32 rows (n) and 32 columns (k): it reads along whichever axis of the source is dense, turns
// the tile over in shared memory (rows of 33 words: no bank conflicts) and writes along k. 64 to 128 bytes a row and
// access, so well under the memory's rate, but an order above the 50 GB/s at which pieces come over PCIe.
#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/cuda/device/math.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/weight_layout.h"
#include "ops/weight_slices.h"

namespace l4::cuda {

namespace {
constexpr int kTile = 32, kRowsAtOnce = 8;

struct F16 {
  uint16_t bits;
};
// Exact; by shifts, so that no header of half arithmetic is needed.
__device__ inline float get(F16 v) {
  const uint32_t sign = uint32_t(v.bits & 0x8000u) << 16, magnitude = v.bits & 0x7FFFu;
  constexpr float kSubnormal = 1.0f / (1 << 24);
  if (magnitude < 0x0400u) return __uint_as_float(__float_as_uint(float(magnitude) * kSubnormal) | sign);
  const uint32_t exponent = magnitude >= 0x7C00u ? 0x70000000u : 0x38000000u;  // infinity and NaN keep all ones
  return __uint_as_float(((magnitude << 13) + exponent) | sign);
}
using cuda::get;

// Where the rows of a slice go: row i to packed_row(first_row + i), in closed form for the device.
struct RowMap {
  int64_t first_row, half;  // half: rows of gate; 0: rows stay where they are
  __device__ int64_t operator()(int64_t i) const {
    const int64_t n = first_row + i;
    if (half == 0) return n;
    const int64_t j = n < half ? n : n - half;
    return j / kGateBlock * 2 * kGateBlock + (n < half ? 0 : kGateBlock) + j % kGateBlock;
  }
};

template <class From, class To>
__global__ void __launch_bounds__(kTile* kRowsAtOnce)
    pack_kernel(const From* from, int64_t n, int64_t k, int64_t n_stride, int64_t k_stride, RowMap row, To* to,
                int64_t to_stride) {
  __shared__ float tile[kTile][kTile + 1];  // [n][k]
  const int64_t n0 = int64_t(blockIdx.y) * kTile, k0 = int64_t(blockIdx.x) * kTile;
  const int x = int(threadIdx.x);
  const bool along_n = n_stride == 1 && k_stride != 1;
  for (int y = int(threadIdx.y); y < kTile; y += kRowsAtOnce) {
    const int i = along_n ? x : y, j = along_n ? y : x;
    if (n0 + i < n && k0 + j < k) tile[i][j] = get(from[(n0 + i) * n_stride + (k0 + j) * k_stride]);
  }
  __syncthreads();
  for (int y = int(threadIdx.y); y < kTile; y += kRowsAtOnce)
    if (n0 + y < n && k0 + x < k) to[row(n0 + y) * to_stride + k0 + x] = rounded<To>(tile[y][x]);
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

// to: the matrix (or bias) of the piece's expert; to_stride: its row length.
void pack_to(cudaStream_t stream, const WeightSlice& s, const LinearSpec& spec, DType format, void* to,
             int64_t to_stride) {
  L4_CHECK(s.n_stride == 1 || s.k_stride == 1 || s.k == 1, spec.name, ": a slice of strides ", s.n_stride, " and ",
           s.k_stride);
  const RowMap row{s.n_offset, interleaves_gate_up(spec) ? spec.n / 2 : 0};
  // Rows in as many launches as the grid's limit asks for.
  constexpr int64_t kMostRows = int64_t(65535) * kTile;
  for (int64_t n0 = 0; n0 < s.n && s.k > 0; n0 += kMostRows) {
    const int64_t n = std::min(kMostRows, s.n - n0);
    const Launch l{.grid = dim3(unsigned((s.k + kTile - 1) / kTile), unsigned((n + kTile - 1) / kTile)),
                   .block = dim3(kTile, kRowsAtOnce),
                   .stream = stream};
    with_source(s.dtype, [&](auto from) {
      using From = decltype(from);
      const From* data = static_cast<const From*>(s.data) + n0 * s.n_stride;
      const RowMap rows{row.first_row + n0, row.half};
      if (format == DType::f32)
        launch(l, pack_kernel<From, float>, data, n, s.k, s.n_stride, s.k_stride, rows,
               static_cast<float*>(to) + s.k_offset, to_stride);
      else
        launch(l, pack_kernel<From, bf16>, data, n, s.k, s.n_stride, s.k_stride, rows,
               static_cast<bf16*>(to) + s.k_offset, to_stride);
    });
  }
}

DType element_type(const LinearSpec& spec) {
  switch (spec.format) {
    case WeightFormat::f32:
      return DType::f32;
    case WeightFormat::bf16:
      return DType::bf16;
    default:
      break;
  }
  fail(ErrorKind::unsupported, spec.name, ": the CUDA backend does not hold weights as ",
       weight_format_name(spec.format));
}
size_t data_bytes(const LinearSpec& spec) {
  return size_t(spec.n_experts * spec.n * spec.k) * dtype_bytes(element_type(spec));
}
size_t bias_bytes(const LinearSpec& spec) {
  return spec.bias ? size_t(spec.n_experts * spec.n) * sizeof(float) : 0;
}

// Uploads a slice of host memory as it lies along its dense axis, a part at a time, and packs each part.
void upload_slice(Gpu& gpu, const WeightSlice& slice, void* staging, size_t staging_bytes, bool bias,
                  const PackedWeight& to) {
  const bool along_n = slice.n_stride == 1 && slice.k_stride != 1 && slice.k > 1;
  const bool gathered = !along_n && slice.k_stride != 1 && slice.k > 1;  // neither axis is dense
  const int64_t line = along_n ? slice.n : slice.k, n_lines = along_n ? slice.k : slice.n;
  const int64_t line_stride = along_n ? slice.k_stride : slice.n_stride, element = int64_t(dtype_bytes(slice.dtype));
  const int64_t lines_at_once = int64_t(staging_bytes) / (line * element);
  L4_CHECK(lines_at_once > 0, to.spec.name, ": a row of ", line, " elements is longer than the staging buffer");
  std::vector<std::byte> dense;
  for (int64_t first = 0; first < n_lines; first += lines_at_once) {
    const int64_t lines = std::min(lines_at_once, n_lines - first);
    const std::byte* from = static_cast<const std::byte*>(slice.data) + first * line_stride * element;
    int64_t pitch = line_stride * element;
    if (gathered || pitch < line * element) {
      dense.resize(size_t(lines * line * element));
      for (int64_t i = 0; i < lines; ++i)
        for (int64_t j = 0; j < line; ++j)
          std::memcpy(dense.data() + (i * line + j) * element,
                      from + (i * line_stride + j * (along_n ? 1 : slice.k_stride)) * element, size_t(element));
      from = dense.data();
      pitch = line * element;
    }
    L4_CUDA(cudaMemcpy2DAsync(staging, size_t(line * element), from, size_t(pitch), size_t(line * element),
                              size_t(lines), cudaMemcpyHostToDevice, gpu.stream));
    WeightSlice piece = slice;
    piece.data = staging;
    (along_n ? piece.k : piece.n) = lines;
    (along_n ? piece.k_offset : piece.n_offset) += first;
    piece.n_stride = along_n ? 1 : line;
    piece.k_stride = along_n ? line : 1;
    bias ? pack_bias_piece(gpu.stream, piece, to) : pack_piece(gpu.stream, piece, to);
    L4_CUDA(cudaStreamSynchronize(gpu.stream));  // the staging memory is used again
  }
}
}  // namespace

size_t packed_weight_bytes(const LinearSpec& spec) {
  return data_bytes(spec) + bias_bytes(spec);
}

PackedWeight empty_weight(const LinearSpec& spec, const Allocate& allocate) {
  L4_CHECK(spec.n > 0 && spec.k > 0 && spec.n_experts > 0 && (!spec.gated || spec.n % 2 == 0), spec.name);
  PackedWeight weight{.spec = spec, .data = allocate(data_bytes(spec), spec.name.c_str()), .scales = {}, .bias = {}};
  if (spec.bias) weight.bias = allocate(bias_bytes(spec), spec.name.c_str());
  return weight;
}

void pack_piece(cudaStream_t stream, const WeightSlice& piece, const PackedWeight& to) {
  const LinearSpec& spec = to.spec;
  std::byte* matrix =
      static_cast<std::byte*>(to.data.data()) + size_t(piece.expert) * (data_bytes(spec) / spec.n_experts);
  pack_to(stream, piece, spec, element_type(spec), matrix, spec.k);
}

void pack_bias_piece(cudaStream_t stream, const WeightSlice& piece, const PackedWeight& to) {
  pack_to(stream, piece, to.spec, DType::f32, static_cast<float*>(to.bias.data()) + piece.expert * to.spec.n, 1);
}

PackedWeight pack_weight(Gpu& gpu, const LinearSpec& spec, std::span<const WeightSlice> weight,
                         std::span<const WeightSlice> bias, const Allocate& allocate) {
  L4_CHECK(spec.bias || bias.empty(), spec.name, ": a bias where none was announced");
  check_slices(spec, weight, spec.k, "weight");
  if (spec.bias) check_slices(spec, bias, 1, "bias");
  PackedWeight packed = empty_weight(spec, allocate);
  constexpr size_t kStagingBytes = 16 << 20;
  size_t largest = 0;
  for (auto slices : {weight, bias})
    for (const WeightSlice& s : slices) largest = std::max(largest, size_t(s.n * s.k) * dtype_bytes(s.dtype));
  const size_t staging_bytes = std::min(kStagingBytes, largest);
  Buffer staging = allocate(staging_bytes, "staging of weights");
  for (const WeightSlice& s : weight)
    if (s.n * s.k > 0) upload_slice(gpu, s, staging.data(), staging_bytes, false, packed);
  for (const WeightSlice& s : bias)
    if (s.n * s.k > 0) upload_slice(gpu, s, staging.data(), staging_bytes, true, packed);
  return packed;
}

}  // namespace l4::cuda
