#include "kernels/cuda/libraries.h"

#include <dlfcn.h>

#include "base/error.h"

namespace l4::cuda {

namespace {

#define L4_STRING(x) #x
#define L4_EXPAND(x) L4_STRING(x)
// The sonames carry the major version of the headers the tables were declared from.
constexpr const char* kCublasLt = "libcublasLt.so." L4_EXPAND(CUBLAS_VER_MAJOR);
constexpr const char* kNccl = "libnccl.so." L4_EXPAND(NCCL_MAJOR);

template <class Function>
void bind(void* library, const char* soname, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  if (!function) fail(ErrorKind::device, soname, " has no function ", name, ": it is too old for this build");
}

}  // namespace

void* open_library(const char* soname) {
  // The loader's own paths first, then the toolkit's usual place, which a host without ld.so.conf entries has.
  for (const std::string& name : {std::string(soname), cat("/usr/local/cuda/lib64/", soname)}) {
    if (void* handle = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL)) return handle;
  }
  dlopen(soname, RTLD_NOW | RTLD_LOCAL);  // again, for its message
  const char* reason = dlerror();
  fail(ErrorKind::device, soname, " cannot be loaded (", reason ? reason : "no reason given",
       "): install it or add its directory to LD_LIBRARY_PATH");
}

const CublasLt& cublas_lt() {
  static const CublasLt table = [] {
    CublasLt t{};
    void* library = open_library(kCublasLt);
#define L4_BIND(function) bind(library, kCublasLt, #function, t.function);
    L4_CUBLASLT_FUNCTIONS(L4_BIND)
#undef L4_BIND
    return t;
  }();
  return table;
}

const Nccl& nccl() {
  static const Nccl table = [] {
    Nccl t{};
    void* library = open_library(kNccl);
#define L4_BIND(function) bind(library, kNccl, #function, t.function);
    L4_NCCL_FUNCTIONS(L4_BIND)
#undef L4_BIND
    return t;
  }();
  return table;
}

}  // namespace l4::cuda
