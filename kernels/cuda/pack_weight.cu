// Whole weights from slices in host memory: for tests, tiny models, and what has no file. Files are weight_loader.cu's.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/cuda/check.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/weight_defects.h"
#include "ops/weight_slices.h"

namespace l4::cuda {

namespace {
// Uploads a slice of host memory as it lies along its dense axis, a part at a time, and packs each part.
void upload_slice(Gpu& gpu, const WeightSlice& slice, WeightPart part, const Buffer& staging, const PackedWeight& to,
                  const DefectNotes& defects) {
  if (slice.n * slice.k == 0) return;
  const bool along_n = slice.n_stride == 1 && slice.k_stride != 1 && slice.k > 1;
  const bool gathered = !along_n && slice.k_stride != 1 && slice.k > 1;  // neither axis is dense
  const int64_t line = along_n ? slice.n : slice.k, n_lines = along_n ? slice.k : slice.n;
  const int64_t line_stride = along_n ? slice.k_stride : slice.n_stride, element = int64_t(dtype_bytes(slice.dtype));
  const int64_t lines_at_once = int64_t(staging.bytes()) / (line * element);
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
    L4_CUDA(cudaMemcpy2DAsync(staging.data(), size_t(line * element), from, size_t(pitch), size_t(line * element),
                              size_t(lines), cudaMemcpyHostToDevice, gpu.stream));
    WeightSlice piece = slice;
    piece.data = staging.data();
    (along_n ? piece.k : piece.n) = lines;
    (along_n ? piece.k_offset : piece.n_offset) += first;
    piece.n_stride = along_n ? 1 : line;
    piece.k_stride = along_n ? line : 1;
    pack_piece(gpu.stream, piece, part, to, defects);
    L4_CUDA(cudaStreamSynchronize(gpu.stream));  // the staging memory is used again
  }
}
}  // namespace

WeightSlice counted_in_elements(WeightSlice slice) {
  if (slice.dtype == DType::i32) slice.k /= 8, slice.k_offset /= 8;
  return slice;
}

void check_weight(const LinearSpec& spec, std::span<const WeightSlice> weight, std::span<const WeightSlice> bias,
                  std::span<const WeightSlice> scale) {
  L4_CHECK(spec.bias || bias.empty(), spec.name, ": a bias where none was announced");
  L4_CHECK(is_quantized(spec.format) || scale.empty(), spec.name, ": scales where none were announced");
  if (spec.input == InputFormat::fp8_static && !(std::isfinite(spec.input_scale) && spec.input_scale != 0))
    fail(ErrorKind::input, spec.name, ": the scale of its input is ", spec.input_scale);
  const bool codes = spec.format == WeightFormat::int4 || !scale.empty();
  check_slices(spec, weight, spec.k, "weight", codes);
  if (codes) check_slices(spec, scale, spec.format == WeightFormat::int4 ? spec.k / spec.group : 1, "scale");
  if (spec.bias) check_slices(spec, bias, 1, "bias");
}

WeightPart part_of(const LinearSpec& spec, std::span<const WeightSlice> weight, std::span<const WeightSlice> scale) {
  if (spec.format != WeightFormat::fp8 || !scale.empty()) return WeightPart::weights;
  auto whole = [&](const WeightSlice& s) { return s.k_stride == 1 && s.k == spec.k; };
  return std::all_of(weight.begin(), weight.end(), whole) ? WeightPart::whole_rows : WeightPart::largest;
}

PackedWeight pack_weight(Gpu& gpu, const LinearSpec& spec, std::span<const WeightSlice> weight,
                         std::span<const WeightSlice> bias, std::span<const WeightSlice> scale,
                         const Allocate& allocate) {
  PackedWeight packed = empty_weight(spec, allocate);
  check_weight(spec, weight, bias, scale);
  constexpr size_t kStagingBytes = 16 << 20;
  size_t largest = 0;
  for (auto slices : {weight, bias, scale})
    for (const WeightSlice& s : slices) largest = std::max(largest, size_t(s.n * s.k) * dtype_bytes(s.dtype));
  const Buffer staging = allocate(std::min(kStagingBytes, largest), "staging of weights");
  WeightDefects defects(gpu.stream);
  const DefectNotes notes = defects.notes(packed);
  auto upload = [&](std::span<const WeightSlice> slices, WeightPart part) {
    for (const WeightSlice& s : slices) upload_slice(gpu, counted_in_elements(s), part, staging, packed, notes);
  };
  clear_scales(gpu.stream, packed);
  upload(scale, WeightPart::scales);
  upload(bias, WeightPart::bias);
  const WeightPart part = part_of(spec, weight, scale);
  upload(weight, part);
  if (part == WeightPart::largest) {
    for (int64_t e = 0; e < spec.n_experts; ++e) finish_scales(gpu.stream, e, 0, spec.n, packed, notes);
    upload(weight, WeightPart::weights);
  }
  L4_CUDA(cudaStreamSynchronize(gpu.stream));
  defects.check(gpu.stream);
  return packed;
}

}  // namespace l4::cuda
