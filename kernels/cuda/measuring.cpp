// What l4-bench asks of the CUDA backend: weights without files, how long something takes, which kernels serve it.
#include "kernels/cuda/attention/choose.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/graph.h"
#include "kernels/cuda/matmul/dispatch.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/random_weights.h"
#include "kernels/cuda/timing.h"
#include "kernels/cuda/weight_defects.h"

namespace l4 {

using namespace cuda;

namespace {
// By way of BF16, as they would be loaded, some rows at a time.
void make_random_fp8(cudaStream_t stream, std::span<const RandomSlice> weight, const PackedWeight& to) {
  constexpr int64_t kStagingBytes = int64_t(64) << 20;
  const Buffer staging = device_buffer(size_t(kStagingBytes), "staging of weights");
  WeightDefects defects(stream);
  const DefectNotes notes = defects.notes(to);
  auto pack = [&](WeightPart part) {
    for (const RandomSlice& s : weight) {
      const int64_t at_once = std::max<int64_t>(1, kStagingBytes / (s.at.k * int64_t(sizeof(BFloat16))));
      for (int64_t first = 0; first < s.at.n; first += at_once) {
        RandomSlice rows = s;
        rows.at.n = std::min(at_once, s.at.n - first), rows.at.n_offset += first;
        rows.first += first * s.at.n_stride;
        fill_random_rows(stream, rows, staging.data());
        rows.at.data = staging.data(), rows.at.dtype = DType::bf16;
        rows.at.n_stride = rows.at.k, rows.at.k_stride = 1;
        pack_piece(stream, rows.at, part, to, notes);
      }
    }
  };
  clear_scales(stream, to);
  if (std::all_of(weight.begin(), weight.end(), [&](const RandomSlice& s) { return s.at.k == to.spec.k; })) {
    pack(WeightPart::whole_rows);
  } else {
    pack(WeightPart::largest);
    for (int64_t e = 0; e < to.spec.n_experts; ++e) finish_scales(stream, e, 0, to.spec.n, to, notes);
    pack(WeightPart::weights);
  }
  L4_CUDA(cudaStreamSynchronize(stream));
  defects.check(stream);
}
}  // namespace

PackedWeight CudaBackend::pack_random(const LinearSpec& spec, std::span<const RandomSlice> weight,
                                      std::span<const RandomSlice> bias) {
  make_current();
  PackedWeight packed = empty_weight(spec, [](size_t bytes, const char* what) { return device_buffer(bytes, what); });
  if (spec.format == WeightFormat::int4) clear_scales(gpu_.stream, packed);  // rows that fill up the last tile
  if (spec.format == WeightFormat::fp8)
    make_random_fp8(gpu_.stream, weight, packed);
  else
    for (const RandomSlice& s : weight) fill_random_piece(gpu_.stream, s, packed);
  for (const RandomSlice& s : bias) fill_random_bias_piece(gpu_.stream, s, packed);
  return packed;
}

void CudaBackend::fill_random(const View& to, const RandomTensor& tensor, int64_t first) {
  make_current();
  fill_random_view(gpu_.stream, to, tensor, first);
}

std::vector<double> CudaBackend::time_runs(const std::function<void()>& issue, int n_runs) {
  make_current();
  issue();  // what is made once, such as a choice of cuBLASLt's, is made outside of the recording
  const Recording recording(gpu_.stream, issue);
  return cuda::time_runs(gpu_.stream, n_runs, [&] { recording.replay(); });
}

std::string CudaBackend::linear_kernel_of(const PackedWeight& w, const View& x) const {
  return linear_kernel_name(w.spec, x.dtype, x.elements() / w.spec.k, options_.batch_invariant);
}
std::string CudaBackend::kernel_of(const QkvArgs& args) const {
  return linear_kernel_of(*args.w, args.h);
}
std::string CudaBackend::kernel_of(const AttentionArgs& args) const {
  return choose_attention(attention_shape(args), args.step->of(args.kv.kind).spans, options_.batch_invariant).str();
}
std::string CudaBackend::kernel_of(const AttnOutArgs& args) const {
  return linear_kernel_of(*args.w, args.attn);
}
std::string CudaBackend::kernel_of(const FfnUpArgs& args) const {
  return ffn_kernel_name(args, options_.batch_invariant);
}
std::string CudaBackend::kernel_of(const FfnDownArgs& args) const {
  return matmul_kernel_name(ffn_kernel(ffn_shape(args), args.x.rows(), options_.batch_invariant));
}
std::string CudaBackend::kernel_of(const HeadArgs& args) const {
  return linear_kernel_of(*args.w, args.h);
}

}  // namespace l4
