// Kernels of ours around cuBLASLt's product, where the library has no form for what we ask: the bias as bfloat16 (it
// adds a bias only in the type of its output; exact for checkpoints in bfloat16), and float32 results rounded to
// bfloat16 (logits).
#include <map>
#include <mutex>
#include <optional>
#include <tuple>

#include "kernels/cuda/cublas_descriptors.h"
#include "kernels/cuda/device/math.h"
#include "kernels/cuda/matmul/cublas.h"
#include "kernels/cuda/one_thread_each.h"
#include "kernels/cuda/ptx/pdl.h"

namespace l4::cuda {

namespace {
constexpr size_t kWorkspaceBytes = 32 << 20;  // what the library's documentation asks for on Hopper

__global__ void __launch_bounds__(kThreadsEach) narrow_kernel(const float* from, bf16* to, int64_t n) {
  wait_for_predecessor();
  const int64_t i = int64_t(blockIdx.x) * kThreadsEach + threadIdx.x;
  if (i < n) to[i] = rounded<bf16>(from[i]);
}
__global__ void __launch_bounds__(kThreadsEach) round_kernel(float* v, int64_t n) {
  wait_for_predecessor();
  let_successor_start();
  const int64_t i = int64_t(blockIdx.x) * kThreadsEach + threadIdx.x;
  if (i < n) v[i] = round_to<bf16>(v[i]);
}

// The library's first choice for a shape, if it has one. Asked for once: it takes the host some 50 us. By device, since a
// choice belongs to one kind of GPU.
using Algorithm = std::optional<cublasLtMatmulAlgo_t>;
Algorithm algorithm(Gpu& gpu, const ProductDescriptor& product, const MatrixLayout& a, const MatrixLayout& b,
                    const MatrixLayout& d, const LinearSpec& spec, int64_t m, cudaDataType_t in, bool f32, bool bias) {
  using Key = std::tuple<int, int64_t, int64_t, int64_t, cudaDataType_t, bool, bool>;
  static std::mutex mutex;
  static std::map<Key, Algorithm> known;
  const Key key{gpu.index, m, spec.n, spec.k, in, f32, bias};
  const std::lock_guard lock(mutex);
  if (const auto it = known.find(key); it != known.end()) return it->second;
  ProductPreference preference(kWorkspaceBytes);
  constexpr uint32_t kAlignment = 16;  // views begin at rows
  preference.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, kAlignment);
  preference.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, kAlignment);
  preference.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, kAlignment);
  preference.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, kAlignment);
  cublasLtMatmulHeuristicResult_t found{};
  int n_found = 0;
  const cublasStatus_t status = cublas_lt().cublasLtMatmulAlgoGetHeuristic(
      gpu.cublas_lt, product.handle, a.handle, b.handle, d.handle, d.handle, preference.handle, 1, &found, &n_found);
  return known[key] = status == CUBLAS_STATUS_SUCCESS && n_found > 0 ? Algorithm(found.algo) : std::nullopt;
}

// y = x W^T by `product`, which knows of bias and scales; x and W of type `in`. Whether the library has a kernel for it.
bool multiply(const OpContext& ctx, const ProductDescriptor& product, cudaDataType_t in, const void* x, int64_t m,
              const PackedWeight& w, const View& y, DType round_to, void* workspace) {
  const LinearSpec& spec = w.spec;
  const bool f32 = y.dtype == DType::f32;
  const MatrixLayout a(in, spec.k, spec.n), b(in, spec.k, m), d(f32 ? CUDA_R_32F : CUDA_R_16BF, spec.n, m);
  const Algorithm algo = algorithm(ctx.gpu, product, a, b, d, spec, m, in, f32, spec.bias);
  if (!algo) return false;
  const float one = 1, zero = 0;
  const cublasStatus_t status =
      cublas_lt().cublasLtMatmul(ctx.gpu.cublas_lt, product.handle, &one, w.data.data(), a.handle, x, b.handle, &zero,
                                 y.data, d.handle, y.data, d.handle, &*algo, workspace, kWorkspaceBytes, ctx.gpu.stream);
  if (status != CUBLAS_STATUS_SUCCESS)
    fail(ErrorKind::device, spec.name, ": cuBLASLt: status ", int(status), " for ", m, " rows and a weight of [",
         spec.n, ", ", spec.k, "]");
  if (f32 && round_to == DType::bf16)
    launch(one_thread_each(ctx, m * spec.n), round_kernel, data<float>(y), m * spec.n);
  return true;
}
}  // namespace

void cublas_linear(const OpContext& ctx, const View& x, const PackedWeight& w, const View& y, DType round_to) {
  const LinearSpec& spec = w.spec;
  const int64_t m = x.elements() / spec.k;
  const bool f32 = y.dtype == DType::f32;
  Scratch scratch(ctx.work);
  void* workspace = scratch.take_array<std::byte>(kWorkspaceBytes);
  void* bias = w.bias ? w.bias.data() : nullptr;
  bf16* narrow_bias = spec.bias && !f32 ? scratch.take_array<bf16>(spec.n) : nullptr;
  if (ctx.measuring()) return;
  if (narrow_bias) {
    launch(one_thread_each(ctx, spec.n), narrow_kernel, static_cast<const float*>(bias), narrow_bias, spec.n);
    bias = narrow_bias;
  }

  ProductDescriptor product;
  if (bias) {
    product.set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    product.set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
    product.set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, f32 ? CUDA_R_32F : CUDA_R_16BF);
  }
  if (!multiply(ctx, product, CUDA_R_16BF, x.data, m, w, y, round_to, workspace))
    fail(ErrorKind::device, spec.name, ": cuBLASLt has no kernel for ", m, " rows and a weight of [", spec.n, ", ", spec.k,
         "] in BF16");
}

bool cublas_fp8_linear(const OpContext& ctx, const QuantisedRows& x, int64_t m, const PackedWeight& w, const View& y,
                       DType round_to) {
  Scratch scratch(ctx.work);
  void* workspace = scratch.take_array<std::byte>(kWorkspaceBytes);
  if (ctx.measuring()) return false;
  ProductDescriptor product;
  const int32_t mode = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
  if (!product.set_if_known(CUBLASLT_MATMUL_DESC_A_SCALE_MODE, mode) ||
      !product.set_if_known(CUBLASLT_MATMUL_DESC_B_SCALE_MODE, mode))
    return false;
  product.set(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, static_cast<const void*>(w.scales.data()));
  product.set(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, static_cast<const void*>(x.scales));
  return multiply(ctx, product, CUDA_R_8F_E4M3, x.codes, m, w, y, round_to, workspace);
}

}  // namespace l4::cuda
