#include "kernels/cuda/libraries.h"

#include "support/test.h"

using namespace l4;

namespace {

// The test is about this machine's library; where there is none it is skipped, by the name in the error.
template <class Load>
void load_or_skip(Load&& load) {
  try {
    load();
  } catch (const Error& e) {
    CHECK(e.kind() == ErrorKind::device);
    L4_SKIP(e.message());
  }
}

}  // namespace

TEST_CASE("libraries: cuBLASLt is the major version we were built for") {
  load_or_skip([] { cuda::cublas_lt(); });
  CHECK(cuda::cublas_lt().cublasLtGetVersion() / 10000 == CUBLAS_VER_MAJOR);
}

TEST_CASE("libraries: NCCL answers") {
  load_or_skip([] { cuda::nccl(); });
  int version = 0;
  CHECK(cuda::nccl().ncclGetVersion(&version) == ncclSuccess);
  CHECK(version >= 22000);  // 2.20
  CHECK(std::string(cuda::nccl().ncclGetErrorString(ncclInvalidUsage)) != "");
}

TEST_CASE("libraries: an absent library is one clear line") {
  const std::string message = test::error_of([] { cuda::open_library("libl4-no-such.so.7"); });
  CHECK(message.find("libl4-no-such.so.7 cannot be loaded (") == 0);
  CHECK(message.find("LD_LIBRARY_PATH") != std::string::npos);
  CHECK(message.find('\n') == std::string::npos);
}
