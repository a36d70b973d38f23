// cuBLASLt and NCCL, opened at run time. The program has no link to either (nor to the driver), so that one binary also runs
// where they are absent; who needs one asks for its table and gets a clear error there. Headers only, from the toolkit:
//
//   const CublasLt& lt = cublas_lt();
//   cublas_check(lt.cublasLtCreate(&handle));
//
// A function that a kernel file needs is added to the list below, nothing else.
#pragma once

#include <cublasLt.h>
#include <nccl.h>

#include <string>

namespace l4::cuda {

#define L4_CUBLASLT_FUNCTIONS(X)           \
  X(cublasLtGetVersion)                    \
  X(cublasLtCreate)                        \
  X(cublasLtDestroy)                       \
  X(cublasLtMatmul)                        \
  X(cublasLtMatmulAlgoGetHeuristic)        \
  X(cublasLtMatmulDescCreate)              \
  X(cublasLtMatmulDescDestroy)             \
  X(cublasLtMatmulDescSetAttribute)        \
  X(cublasLtMatrixLayoutCreate)            \
  X(cublasLtMatrixLayoutDestroy)           \
  X(cublasLtMatmulPreferenceCreate)        \
  X(cublasLtMatmulPreferenceDestroy)       \
  X(cublasLtMatmulPreferenceSetAttribute)

#define L4_NCCL_FUNCTIONS(X) \
  X(ncclGetVersion)          \
  X(ncclGetErrorString)      \
  X(ncclGetLastError)        \
  X(ncclGetUniqueId)         \
  X(ncclCommInitRank)        \
  X(ncclCommAbort)           \
  X(ncclGroupStart)          \
  X(ncclGroupEnd)            \
  X(ncclAllReduce)           \
  X(ncclAllGather)           \
  X(ncclBroadcast)           \
  X(ncclSend)                \
  X(ncclRecv)

#define L4_DECLARE(function) decltype(&::function) function;
struct CublasLt {
  L4_CUBLASLT_FUNCTIONS(L4_DECLARE)
};
struct Nccl {
  L4_NCCL_FUNCTIONS(L4_DECLARE)
};
#undef L4_DECLARE

// The loaded tables, the same for every caller. Error{device} naming the library, and what dlopen or dlsym said, where it
// cannot be had; a later call tries again.
const CublasLt& cublas_lt();
const Nccl& nccl();

// What both use: dlopen by the loader's own search, then in the toolkit's usual directory.
void* open_library(const char* soname);

}  // namespace l4::cuda
