// cuBLASLt's matrix product on emulated devices, as far as kernels/cuda/matmul/cublas.cu asks for it: both operands
// along k, a bias of the output's rows, float32 sums; of E4M3 with a scale for each of the output's rows and columns.
// Strict about what the library is strict about, so that a wrong descriptor fails here and not on the first GPU.
#include <cublasLt.h>
#include <cuda_bf16.h>

#include <map>
#include <string>

#include "kernels/cuda/launch.h"
#include "quant/fp8.h"

namespace l4::cuda {

namespace {

struct Desc {
  cublasOperation_t op_a = CUBLAS_OP_N, op_b = CUBLAS_OP_N;
  cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  const void* bias = nullptr;
  cudaDataType_t bias_type = cudaDataType_t(-1);
  int32_t mode_a = CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F, mode_b = CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F;
  const float *scale_a = nullptr, *scale_b = nullptr;
};
struct Layout {
  cudaDataType_t type;
  uint64_t rows, columns;
  int64_t stride;
};
struct Preference {
  uint64_t workspace_bytes = 0;
};
template <class T>
T& of(void* handle) {
  return *static_cast<T*>(handle);
}

cublasStatus_t desc_create(cublasLtMatmulDesc_t* handle, cublasComputeType_t compute, cudaDataType_t scale) {
  if (compute != CUBLAS_COMPUTE_32F || scale != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
  *handle = reinterpret_cast<cublasLtMatmulDesc_t>(new Desc);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t desc_destroy(cublasLtMatmulDesc_t handle) {
  delete &of<Desc>(handle);
  return CUBLAS_STATUS_SUCCESS;
}
template <class T>
cublasStatus_t take(T& to, const void* from, size_t n_bytes) {
  if (n_bytes != sizeof(T)) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(&to, from, n_bytes);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t desc_set(cublasLtMatmulDesc_t handle, cublasLtMatmulDescAttributes_t attribute, const void* value,
                        size_t n_bytes) {
  Desc& d = of<Desc>(handle);
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
      return take(d.op_a, value, n_bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB:
      return take(d.op_b, value, n_bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
      return take(d.epilogue, value, n_bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
      return take(d.bias, value, n_bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
      return take(d.bias_type, value, n_bytes);
    case CUBLASLT_MATMUL_DESC_A_SCALE_MODE:
      return take(d.mode_a, value, n_bytes);
    case CUBLASLT_MATMUL_DESC_B_SCALE_MODE:
      return take(d.mode_b, value, n_bytes);
    case CUBLASLT_MATMUL_DESC_A_SCALE_POINTER:
      return take(d.scale_a, value, n_bytes);
    case CUBLASLT_MATMUL_DESC_B_SCALE_POINTER:
      return take(d.scale_b, value, n_bytes);
    default:
      return CUBLAS_STATUS_NOT_SUPPORTED;
  }
}
cublasStatus_t layout_create(cublasLtMatrixLayout_t* handle, cudaDataType_t type, uint64_t rows, uint64_t columns,
                             int64_t stride) {
  if (stride < int64_t(rows)) return CUBLAS_STATUS_INVALID_VALUE;
  *handle = reinterpret_cast<cublasLtMatrixLayout_t>(new Layout{type, rows, columns, stride});
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t layout_destroy(cublasLtMatrixLayout_t handle) {
  delete &of<Layout>(handle);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t preference_create(cublasLtMatmulPreference_t* handle) {
  *handle = reinterpret_cast<cublasLtMatmulPreference_t>(new Preference);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t preference_destroy(cublasLtMatmulPreference_t handle) {
  delete &of<Preference>(handle);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t preference_set(cublasLtMatmulPreference_t handle, cublasLtMatmulPreferenceAttributes_t attribute,
                              const void* value, size_t n_bytes) {
  uint32_t alignment;
  if (attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES)
    return take(of<Preference>(handle).workspace_bytes, value, n_bytes);
  return take(alignment, value, n_bytes);
}

// An n for which there is no FP8 kernel: what serves instead is to be seen.
constexpr uint64_t kNoKernel = 96;

// D [n, m] = A^T B, A [k, n], B [k, m], all column after column.
cublasStatus_t check(const Desc& d, const Layout& a, const Layout& b, const Layout& out) {
  if (d.op_a != CUBLAS_OP_T || d.op_b != CUBLAS_OP_N) return CUBLAS_STATUS_NOT_SUPPORTED;
  const bool codes = a.type == CUDA_R_8F_E4M3;
  if ((a.type != CUDA_R_16BF && !codes) || b.type != a.type || (out.type != CUDA_R_16BF && out.type != CUDA_R_32F))
    return CUBLAS_STATUS_NOT_SUPPORTED;
  if (a.rows != b.rows || a.columns != out.rows || b.columns != out.columns) return CUBLAS_STATUS_INVALID_VALUE;
  const bool scaled = d.scale_a || d.scale_b || d.mode_a || d.mode_b;
  if (codes) {
    if (d.mode_a != CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F || d.mode_b != d.mode_a || !d.scale_a || !d.scale_b)
      return CUBLAS_STATUS_NOT_SUPPORTED;
    if (a.rows % 16 || a.columns % 16 || a.stride % 16 || b.stride % 16) return CUBLAS_STATUS_NOT_SUPPORTED;
    if (a.columns == kNoKernel) return CUBLAS_STATUS_NOT_SUPPORTED;
  } else if (scaled) {
    return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  const bool bias = d.epilogue == CUBLASLT_EPILOGUE_BIAS;
  if (bias && (!d.bias || d.bias_type != out.type)) return CUBLAS_STATUS_NOT_SUPPORTED;
  return bias || d.epilogue == CUBLASLT_EPILOGUE_DEFAULT ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}
cublasStatus_t heuristic(cublasLtHandle_t, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                         cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t d,
                         cublasLtMatmulPreference_t, int n_wanted, cublasLtMatmulHeuristicResult_t* results,
                         int* n_found) {
  *n_found = 0;
  const cublasStatus_t status = check(of<Desc>(desc), of<Layout>(a), of<Layout>(b), of<Layout>(d));
  if (status != CUBLAS_STATUS_SUCCESS || n_wanted < 1) return status;
  results[0] = {};
  results[0].algo.data[0] = of<Layout>(d).columns;  // to see that a product gets the algorithm of its shape
  *n_found = 1;
  return CUBLAS_STATUS_SUCCESS;
}

float number(const void* from, int64_t at, cudaDataType_t type) {
  if (type == CUDA_R_8F_E4M3) return fp8_to_float(static_cast<const uint8_t*>(from)[at]);
  return __bfloat162float(static_cast<const __nv_bfloat16*>(from)[at]);
}
void product_kernel(const void* a, const void* b, void* d, Layout la, Layout lb, Layout ld, const void* bias,
                    const float* scale_a, const float* scale_b) {
  const int64_t column = blockIdx.x;
  for (uint64_t row = 0; row < ld.rows; ++row) {
    float sum = 0;
    for (uint64_t k = 0; k < la.rows; ++k)
      sum += number(a, int64_t(row) * la.stride + k, la.type) * number(b, column * lb.stride + k, lb.type);
    if (scale_a) sum *= scale_a[row] * scale_b[column];
    const int64_t at = column * ld.stride + int64_t(row);
    if (ld.type == CUDA_R_32F) {
      static_cast<float*>(d)[at] = sum + (bias ? static_cast<const float*>(bias)[row] : 0);
    } else {
      if (bias) sum += __bfloat162float(static_cast<const __nv_bfloat16*>(bias)[row]);
      static_cast<__nv_bfloat16*>(d)[at] = __float2bfloat16_rn(sum);
    }
  }
}
cublasStatus_t matmul(cublasLtHandle_t, cublasLtMatmulDesc_t desc, const void* alpha, const void* a,
                      cublasLtMatrixLayout_t la, const void* b, cublasLtMatrixLayout_t lb, const void* beta,
                      const void*, cublasLtMatrixLayout_t, void* d, cublasLtMatrixLayout_t ld,
                      const cublasLtMatmulAlgo_t* algo, void*, size_t, cudaStream_t stream) {
  const Layout& out = of<Layout>(ld);
  const cublasStatus_t status = check(of<Desc>(desc), of<Layout>(la), of<Layout>(lb), out);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  if (*static_cast<const float*>(alpha) != 1 || *static_cast<const float*>(beta) != 0 || algo->data[0] != out.columns)
    return CUBLAS_STATUS_INVALID_VALUE;
  const bool bias = of<Desc>(desc).epilogue == CUBLASLT_EPILOGUE_BIAS;
  launch({.grid = unsigned(out.columns), .block = 1, .stream = stream}, product_kernel, a, b, d, of<Layout>(la),
         of<Layout>(lb), out, bias ? of<Desc>(desc).bias : nullptr, of<Desc>(desc).scale_a, of<Desc>(desc).scale_b);
  return CUBLAS_STATUS_SUCCESS;
}

}  // namespace

void* emulated_cublas_lt(const std::string& name) {
  static const std::map<std::string, void*> table = {
      {"cublasLtMatmulDescCreate", reinterpret_cast<void*>(desc_create)},
      {"cublasLtMatmulDescDestroy", reinterpret_cast<void*>(desc_destroy)},
      {"cublasLtMatmulDescSetAttribute", reinterpret_cast<void*>(desc_set)},
      {"cublasLtMatrixLayoutCreate", reinterpret_cast<void*>(layout_create)},
      {"cublasLtMatrixLayoutDestroy", reinterpret_cast<void*>(layout_destroy)},
      {"cublasLtMatmulPreferenceCreate", reinterpret_cast<void*>(preference_create)},
      {"cublasLtMatmulPreferenceDestroy", reinterpret_cast<void*>(preference_destroy)},
      {"cublasLtMatmulPreferenceSetAttribute", reinterpret_cast<void*>(preference_set)},
      {"cublasLtMatmulAlgoGetHeuristic", reinterpret_cast<void*>(heuristic)},
      {"cublasLtMatmul", reinterpret_cast<void*>(matmul)},
  };
  const auto found = table.find(name);
  return found == table.end() ? nullptr : found->second;
}

}  // namespace l4::cuda
