// Stands in for kernels/cuda/libraries.cpp: cuBLASLt and NCCL as far as the kernels call them.
#include "kernels/cuda/libraries.h"

#include <map>
#include <string>

#include "base/error.h"

namespace l4::cuda {

void* emulated_cublas_lt(const std::string& name);  // cublas.cpp; null: not there

namespace {

// What is asked for and not in the table ends here.
[[noreturn]] void not_emulated() {
  fail(ErrorKind::device,
       "emulated CUDA: a function of cuBLASLt or NCCL that tests/emulation/libraries.cpp does not have");
}

int opaque;
cublasStatus_t create(cublasLtHandle_t* handle) {
  *handle = reinterpret_cast<cublasLtHandle_t>(&opaque);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t destroy(cublasLtHandle_t) {
  return CUBLAS_STATUS_SUCCESS;
}
size_t version() {
  return CUBLAS_VERSION;
}

void* function(const std::string& name) {
  static const std::map<std::string, void*> table = {
      {"cublasLtCreate", reinterpret_cast<void*>(create)},
      {"cublasLtDestroy", reinterpret_cast<void*>(destroy)},
      {"cublasLtGetVersion", reinterpret_cast<void*>(version)},
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
