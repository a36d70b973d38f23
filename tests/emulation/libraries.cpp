// Stands in for kernels/cuda/libraries.cpp: cuBLASLt as far as the kernels call it, and no NCCL.
#include "kernels/cuda/libraries.h"

#include <cstring>
#include <map>
#include <string>

#include "base/error.h"
#include "runtime.h"
#include "tensor/dtype.h"

namespace l4::cuda {

void* emulated_cublas_lt(const std::string& name);  // cublas.cpp; null: not there

namespace {

// What is asked for and not in the table ends here.
[[noreturn]] void not_emulated() {
  fail(ErrorKind::device, "emulated CUDA: a function of cuBLASLt that tests/emulation/libraries.cpp does not have");
}

// ---- the library's objects

struct Layout {
  cudaDataType_t type;
  uint64_t rows, columns;
  int64_t leading;
};
struct Product {
  cublasComputeType_t compute;
  int32_t transpose_a = CUBLAS_OP_N, transpose_b = CUBLAS_OP_N, epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  const void* bias = nullptr;
  int32_t bias_type = -1;  // that of the result
};

template <class Handle, class Object>
Handle handle_of(Object* object) {
  return reinterpret_cast<Handle>(object);
}
template <class Object, class Handle>
Object* object_of(Handle handle) {
  return reinterpret_cast<Object*>(handle);
}

int g_library, g_preference;

cublasStatus_t create(cublasLtHandle_t* handle) {
  *handle = handle_of<cublasLtHandle_t>(&g_library);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t destroy(cublasLtHandle_t) {
  return CUBLAS_STATUS_SUCCESS;
}
size_t version() {
  return CUBLAS_VERSION;
}
cublasStatus_t layout_create(cublasLtMatrixLayout_t* layout, cudaDataType type, uint64_t rows, uint64_t columns,
                             int64_t leading) {
  if (leading < int64_t(rows) || (type != CUDA_R_16BF && type != CUDA_R_32F)) return CUBLAS_STATUS_INVALID_VALUE;
  *layout = handle_of<cublasLtMatrixLayout_t>(new Layout{type, rows, columns, leading});
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t layout_destroy(cublasLtMatrixLayout_t layout) {
  delete object_of<Layout>(layout);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t product_create(cublasLtMatmulDesc_t* product, cublasComputeType_t compute, cudaDataType_t scale) {
  if (compute != CUBLAS_COMPUTE_32F || scale != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
  *product = handle_of<cublasLtMatmulDesc_t>(new Product{compute});
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t product_destroy(cublasLtMatmulDesc_t product) {
  delete object_of<Product>(product);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t product_set(cublasLtMatmulDesc_t product, cublasLtMatmulDescAttributes_t attribute, const void* value,
                           size_t n_bytes) {
  Product& p = *object_of<Product>(product);
  auto set = [&](auto& to) {
    if (n_bytes != sizeof to) return CUBLAS_STATUS_INVALID_VALUE;
    std::memcpy(&to, value, n_bytes);
    return CUBLAS_STATUS_SUCCESS;
  };
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
      return set(p.transpose_a);
    case CUBLASLT_MATMUL_DESC_TRANSB:
      return set(p.transpose_b);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
      return set(p.epilogue);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
      return set(p.bias);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
      return set(p.bias_type);
    default:
      return CUBLAS_STATUS_NOT_SUPPORTED;
  }
}
cublasStatus_t preference_create(cublasLtMatmulPreference_t* preference) {
  *preference = handle_of<cublasLtMatmulPreference_t>(&g_preference);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t preference_destroy(cublasLtMatmulPreference_t) {
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t preference_set(cublasLtMatmulPreference_t, cublasLtMatmulPreferenceAttributes_t, const void*, size_t) {
  return CUBLAS_STATUS_SUCCESS;
}

// ---- products

float element(const void* data, cudaDataType_t type, int64_t i) {
  return type == CUDA_R_32F ? static_cast<const float*>(data)[i] : to_float(static_cast<const BFloat16*>(data)[i]);
}

// Whether the shapes fit: D [m, n] = op(A) [m, k] op(B) [k, n], all counted columns first.
bool fits(const Product& p, const Layout& a, const Layout& b, const Layout& c, const Layout& d) {
  const bool ta = p.transpose_a == CUBLAS_OP_T, tb = p.transpose_b == CUBLAS_OP_T;
  return (ta ? a.columns : a.rows) == d.rows && (tb ? b.rows : b.columns) == d.columns &&
         (ta ? a.rows : a.columns) == (tb ? b.columns : b.rows) && c.rows == d.rows && c.columns == d.columns &&
         a.type == b.type && c.type == d.type &&
         (p.epilogue == CUBLASLT_EPILOGUE_DEFAULT || p.epilogue == CUBLASLT_EPILOGUE_BIAS);
}

cublasStatus_t choose(cublasLtHandle_t, cublasLtMatmulDesc_t product, cublasLtMatrixLayout_t a,
                      cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                      cublasLtMatmulPreference_t, int n_wanted, cublasLtMatmulHeuristicResult_t* found, int* n_found) {
  *n_found = 0;
  if (n_wanted < 1) return CUBLAS_STATUS_INVALID_VALUE;
  if (!fits(*object_of<Product>(product), *object_of<Layout>(a), *object_of<Layout>(b), *object_of<Layout>(c),
            *object_of<Layout>(d)))
    return CUBLAS_STATUS_NOT_SUPPORTED;
  std::memset(found, 0, sizeof *found);
  *n_found = 1;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t multiply(cublasLtHandle_t, cublasLtMatmulDesc_t product, const void* alpha, const void* a,
                        cublasLtMatrixLayout_t a_layout, const void* b, cublasLtMatrixLayout_t b_layout,
                        const void* beta, const void* c, cublasLtMatrixLayout_t c_layout, void* d,
                        cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t*, void* workspace, size_t n_bytes,
                        cudaStream_t stream) {
  const Product p = *object_of<Product>(product);
  const Layout la = *object_of<Layout>(a_layout), lb = *object_of<Layout>(b_layout), lc = *object_of<Layout>(c_layout),
               ld = *object_of<Layout>(d_layout);
  if (!fits(p, la, lb, lc, ld)) return CUBLAS_STATUS_NOT_SUPPORTED;
  for (const void* pointer : {a, b, c, static_cast<const void*>(d)})
    if (!pointer || reinterpret_cast<uintptr_t>(pointer) % 16) return CUBLAS_STATUS_INVALID_VALUE;
  const float scale = *static_cast<const float*>(alpha), keep = *static_cast<const float*>(beta);
  const cudaError_t status = emulation::issue_step(stream, [=] {
    std::memset(workspace, 0xEE, n_bytes);  // nobody else may count on it
    const bool ta = p.transpose_a == CUBLAS_OP_T, tb = p.transpose_b == CUBLAS_OP_T;
    const int64_t k = int64_t(ta ? la.rows : la.columns);
    auto line = [k](const void* from, const Layout& l, bool along, int64_t i, std::vector<float>& to) {
      to.resize(size_t(k));
      for (int64_t j = 0; j < k; ++j)
        to[size_t(j)] = element(from, l.type, along ? i * l.leading + j : j * l.leading + i);
    };
    std::vector<std::vector<float>> rows(ld.rows);
    for (size_t m = 0; m < rows.size(); ++m) line(a, la, ta, int64_t(m), rows[m]);
    std::vector<float> column;
    for (uint64_t n = 0; n < ld.columns; ++n) {
      line(b, lb, !tb, int64_t(n), column);
      for (uint64_t m = 0; m < ld.rows; ++m) {
        // Eight chains, as wide as a vector.
        float sums[8] = {};
        const float *x = rows[m].data(), *y = column.data();
        for (int64_t j = 0; j + 8 <= k; j += 8)
          for (int i = 0; i < 8; ++i) sums[i] += x[j + i] * y[j + i];
        float sum = 0;
        for (float s : sums) sum += s;
        for (int64_t j = k / 8 * 8; j < k; ++j) sum += x[j] * y[j];
        const int64_t at = int64_t(n) * ld.leading + int64_t(m);
        float v = scale * sum;
        if (keep != 0) v += keep * element(c, lc.type, int64_t(n) * lc.leading + int64_t(m));
        if (p.epilogue == CUBLASLT_EPILOGUE_BIAS)
          v += element(p.bias, p.bias_type < 0 ? ld.type : cudaDataType_t(p.bias_type), int64_t(m));
        if (ld.type == CUDA_R_32F)
          static_cast<float*>(d)[at] = v;
        else
          static_cast<BFloat16*>(d)[at] = to_bf16(v);
      }
    }
  });
  return status == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}

void* function(const std::string& name) {
  static const std::map<std::string, void*> table = {
      {"cublasLtCreate", reinterpret_cast<void*>(create)},
      {"cublasLtDestroy", reinterpret_cast<void*>(destroy)},
      {"cublasLtGetVersion", reinterpret_cast<void*>(version)},
      {"cublasLtMatmul", reinterpret_cast<void*>(multiply)},
      {"cublasLtMatmulAlgoGetHeuristic", reinterpret_cast<void*>(choose)},
      {"cublasLtMatmulDescCreate", reinterpret_cast<void*>(product_create)},
      {"cublasLtMatmulDescDestroy", reinterpret_cast<void*>(product_destroy)},
      {"cublasLtMatmulDescSetAttribute", reinterpret_cast<void*>(product_set)},
      {"cublasLtMatmulPreferenceCreate", reinterpret_cast<void*>(preference_create)},
      {"cublasLtMatmulPreferenceDestroy", reinterpret_cast<void*>(preference_destroy)},
      {"cublasLtMatmulPreferenceSetAttribute", reinterpret_cast<void*>(preference_set)},
      {"cublasLtMatrixLayoutCreate", reinterpret_cast<void*>(layout_create)},
      {"cublasLtMatrixLayoutDestroy", reinterpret_cast<void*>(layout_destroy)},
  };
  const auto found = table.find(name);
  if (found != table.end()) return found->second;
  void* product = emulated_cublas_lt(name);
  return product ? product : reinterpret_cast<void*>(not_emulated);
}

}  // namespace

const CublasLt& cublas_lt() {
  static const CublasLt table = [] {
    CublasLt t{};
#define L4_BIND(f) t.f = reinterpret_cast<decltype(t.f)>(function(#f));
    L4_CUBLASLT_FUNCTIONS(L4_BIND)
    return t;
  }();
  return table;
}

const Nccl& nccl() {
  fail(ErrorKind::device, "emulated CUDA has no NCCL");
}

}  // namespace l4::cuda
