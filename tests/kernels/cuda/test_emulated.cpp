// The CUDA kernels without a GPU: tests/emulation's program, run as a whole.
#include <cstdio>

#include "support/test.h"

TEST_CASE("emulated CUDA: every test of the kernels passes on the host") {
  const l4::test::Result r =
      l4::test::run({(l4::test::binary_dir() / "l4-emulated-tests").string()}, {.timeout_s = 600});
  const std::string out = r.out.substr(0, r.out.find_last_not_of('\n') + 1);
  const std::string line = out.substr(out.rfind('\n') + 1);
  int n_passed = 0, n_failed = -1, n_skipped = 0;
  std::sscanf(line.c_str(), "%d passed, %d failed, %d skipped", &n_passed, &n_failed, &n_skipped);
  const std::string end = out.size() > 8000 ? out.substr(out.size() - 8000) : out;
  INFO(end);
  CHECK(n_failed == 0);
  CHECK(n_passed > 0);
  CHECK(r.status == 0);
}
