#include "kernels/cuda/weight_defects.h"

#include "kernels/cuda/memory.h"
#include "kernels/cuda/weight_layout.h"
#include "tensor/dtype.h"

namespace l4::cuda {

namespace {
void get(void* host, const void* device, size_t bytes, cudaStream_t stream) {
  L4_CUDA(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream));
  L4_CUDA(cudaStreamSynchronize(stream));
}
}  // namespace

WeightDefects::WeightDefects(cudaStream_t stream)
    : first_(device_buffer(sizeof(unsigned long long), "a note on weights")) {
  L4_CUDA(cudaMemsetAsync(first_.data(), 0xFF, first_.bytes(), stream));  // later than any place
  L4_CUDA(cudaStreamSynchronize(stream));                                 // notes come from any stream
}

DefectNotes WeightDefects::notes(const PackedWeight& weight) {
  const LinearSpec& spec = weight.spec;
  L4_CHECK(spec.n_experts * spec.n < int64_t(1) << DefectNotes::kRowBits &&
               spec.k < int64_t(1) << DefectNotes::kPositionBits &&
               weights_.size() + 1 < size_t(1) << DefectNotes::kWeightBits,
           spec.name, ": too large");
  weights_.push_back({spec, weight.scales.data()});
  return {static_cast<unsigned long long*>(first_.data()), weights_.size() - 1};
}

void WeightDefects::check(cudaStream_t stream) const {
  unsigned long long first = 0;
  get(&first, first_.data(), sizeof first, stream);
  if (first == ~0ull) return;
  auto take = [&first](int bits) {
    const int64_t part = int64_t(first & ((1ull << bits) - 1));
    first >>= bits;
    return part;
  };
  const int64_t position = take(DefectNotes::kPositionBits), is_code = take(1), row = take(DefectNotes::kRowBits);
  const auto& [spec, scales] = weights_.at(size_t(first));
  const int64_t expert = row / spec.n, n = row % spec.n;
  const std::string name = spec.n_experts == 1 ? cat("row ", n) : cat("row ", n, " of expert ", expert);
  if (is_code) fail(ErrorKind::input, spec.name, ": the weight of ", name, ", column ", position, " is NaN");
  if (spec.format == WeightFormat::fp8) {
    float scale = 0;
    get(&scale, static_cast<const float*>(scales) + expert * spec.n + packed_row(spec, n), sizeof scale, stream);
    fail(ErrorKind::input, spec.name, ": the scale of ", name, " is ", scale);
  }
  const int64_t n_groups = spec.k / spec.group, of_expert = scale_tiles(spec.n) * kScaleRows * n_groups;
  const int64_t at = expert * of_expert + group_scale_at(packed_row(spec, n), position, n_groups);
  BFloat16 scale{};
  get(&scale, static_cast<const BFloat16*>(scales) + at, sizeof scale, stream);
  fail(ErrorKind::input, spec.name, ": the scale of ", name, ", group ", position, " is ", to_float(scale));
}

}  // namespace l4::cuda
