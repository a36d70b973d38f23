// FP8 is per-tensor scaled by 1: the rate does not depend on scales.
#include "kernels/cuda/products.h"

#include <algorithm>

#include "kernels/cuda/cublas_descriptors.h"
#include "kernels/cuda/device/math.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/random_weights.h"
#include "kernels/cuda/timing.h"

namespace l4::cuda {

namespace {
constexpr size_t kWorkspaceBytes = 64 << 20;
constexpr int kMostChoices = 8, kThreads = 256;

// Random signs and fractions, exponents of 1/4 to 4: finite, none zero.
__global__ void __launch_bounds__(kThreads) fill_fp8_kernel(uint8_t* to, int64_t n, uint64_t key) {
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < n; i += int64_t(gridDim.x) * kThreads) {
    const uint32_t bits = uint32_t(sample_mix(key + (uint64_t(i) + 1) * kSampleGolden) >> 40);
    to[i] = uint8_t((bits & 0x87u) | ((5u + (bits >> 8) % 4u) << 3));
  }
}

Buffer operand(Gpu& gpu, int64_t rows, int64_t k, bool fp8, uint64_t key) {
  const size_t n = size_t(rows * k);
  Buffer buffer = device_buffer(fp8 ? n : 2 * n, "a product");
  if (fp8)
    launch({.grid = unsigned(8 * gpu.n_sms), .block = kThreads, .stream = gpu.stream}, fill_fp8_kernel,
           static_cast<uint8_t*>(buffer.data()), int64_t(n), key);
  else
    fill_random_view(gpu.stream, {buffer.data(), DType::bf16, {rows, k}}, {key, 0, 1}, 0);
  return buffer;
}
}  // namespace

struct CublasProduct::Impl {
  Gpu& gpu;
  Buffer w, x, y, workspace, scale;
  ProductDescriptor product;
  MatrixLayout a, b, d;
  cublasLtMatmulAlgo_t algorithm{};

  Impl(Gpu& g, const ProductShape& shape, cudaDataType_t in)
      : gpu(g), a(in, shape.k, shape.n), b(in, shape.k, shape.m), d(CUDA_R_16BF, shape.n, shape.m) {}
  ~Impl() { cudaStreamSynchronize(gpu.stream); }
  cublasStatus_t run(const cublasLtMatmulAlgo_t& algo) {
    const float one = 1, zero = 0;
    return cublas_lt().cublasLtMatmul(gpu.cublas_lt, product.handle, &one, w.data(), a.handle, x.data(), b.handle,
                                      &zero, y.data(), d.handle, y.data(), d.handle, &algo, workspace.data(),
                                      kWorkspaceBytes, gpu.stream);
  }
};

CublasProduct::CublasProduct(Gpu& gpu, const ProductShape& shape)
    : impl_(std::make_unique<Impl>(gpu, shape, shape.fp8 ? CUDA_R_8F_E4M3 : CUDA_R_16BF)) {
  Impl& im = *impl_;
  im.w = operand(gpu, shape.n, shape.k, shape.fp8, 1);
  im.x = operand(gpu, shape.m, shape.k, shape.fp8, 2);
  im.y = device_buffer(size_t(shape.m * shape.n) * 2, "a product");
  im.workspace = device_buffer(kWorkspaceBytes, "cuBLASLt's workspace");
  if (shape.fp8) {
    im.scale = device_buffer(sizeof(float), "a scale");
    fill_random_view(gpu.stream, {im.scale.data(), DType::f32, {1}}, {0, 1, 0}, 0);
    const void* one = im.scale.data();
    im.product.set(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, one);
    im.product.set(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, one);
  }
  const ProductPreference preference(kWorkspaceBytes);
  cublasLtMatmulHeuristicResult_t choices[kMostChoices] = {};
  int n_choices = 0;
  const cublasStatus_t status = cublas_lt().cublasLtMatmulAlgoGetHeuristic(
      gpu.cublas_lt, im.product.handle, im.a.handle, im.b.handle, im.d.handle, im.d.handle, preference.handle,
      kMostChoices, choices, &n_choices);
  if (status != CUBLAS_STATUS_SUCCESS || n_choices == 0)
    fail(ErrorKind::device, "cuBLASLt (status ", int(status), ") has no ", shape.fp8 ? "FP8" : "BF16", " product of ",
         shape.m, " x ", shape.n, " x ", shape.k);

  double best = 1e30;
  for (int i = 0; i < n_choices; ++i) {
    bool ran = true;
    const std::vector<double> runs =
        time_runs(gpu.stream, 2, [&] { ran &= im.run(choices[i].algo) == CUBLAS_STATUS_SUCCESS; });
    const double seconds = *std::min_element(runs.begin(), runs.end());
    if (ran && seconds < best) best = seconds, im.algorithm = choices[i].algo;
  }
  if (best == 1e30)
    fail(ErrorKind::device, "cuBLASLt: none of its products of ", shape.m, " x ", shape.n, " x ", shape.k, " runs");
}

CublasProduct::~CublasProduct() = default;

void CublasProduct::issue() {
  L4_CUDA(impl_->run(impl_->algorithm));
}

}  // namespace l4::cuda
