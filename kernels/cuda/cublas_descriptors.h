// cuBLASLt's descriptors with their owners. The library's objects are plain memory behind a pointer: cheap to make for
// a call. It counts columns first, so that our y [m, n] = x [m, k] W [n, k]^T is its D [n, m] = op(A) B with A = W
// transposed and B = x: the layout with both operands along k, which is its fastest.
#pragma once

#include "kernels/cuda/check.h"
#include "kernels/cuda/libraries.h"

namespace l4::cuda {

struct MatrixLayout {
  cublasLtMatrixLayout_t handle = nullptr;
  MatrixLayout(cudaDataType_t type, int64_t rows, int64_t columns) {
    L4_CUDA(cublas_lt().cublasLtMatrixLayoutCreate(&handle, type, uint64_t(rows), uint64_t(columns), rows));
  }
  ~MatrixLayout() { cublas_lt().cublasLtMatrixLayoutDestroy(handle); }
  MatrixLayout(const MatrixLayout&) = delete;
  MatrixLayout& operator=(const MatrixLayout&) = delete;
};
struct ProductDescriptor {
  cublasLtMatmulDesc_t handle = nullptr;
  ProductDescriptor() {
    L4_CUDA(cublas_lt().cublasLtMatmulDescCreate(&handle, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    set(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
    set(CUBLASLT_MATMUL_DESC_TRANSB, CUBLAS_OP_N);
  }
  ~ProductDescriptor() { cublas_lt().cublasLtMatmulDescDestroy(handle); }
  ProductDescriptor(const ProductDescriptor&) = delete;
  ProductDescriptor& operator=(const ProductDescriptor&) = delete;
  template <class T>
  void set(cublasLtMatmulDescAttributes_t attribute, const T& value) {
    L4_CUDA(cublas_lt().cublasLtMatmulDescSetAttribute(handle, attribute, &value, sizeof value));
  }
  // False where the library is older than the attribute.
  template <class T>
  bool set_if_known(cublasLtMatmulDescAttributes_t attribute, const T& value) {
    return cublas_lt().cublasLtMatmulDescSetAttribute(handle, attribute, &value, sizeof value) == CUBLAS_STATUS_SUCCESS;
  }
};
struct ProductPreference {
  cublasLtMatmulPreference_t handle = nullptr;
  explicit ProductPreference(uint64_t workspace_bytes) {
    L4_CUDA(cublas_lt().cublasLtMatmulPreferenceCreate(&handle));
    set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace_bytes);
  }
  ~ProductPreference() { cublas_lt().cublasLtMatmulPreferenceDestroy(handle); }
  ProductPreference(const ProductPreference&) = delete;
  ProductPreference& operator=(const ProductPreference&) = delete;
  template <class T>
  void set(cublasLtMatmulPreferenceAttributes_t attribute, const T& value) {
    L4_CUDA(cublas_lt().cublasLtMatmulPreferenceSetAttribute(handle, attribute, &value, sizeof value));
  }
};

}  // namespace l4::cuda
