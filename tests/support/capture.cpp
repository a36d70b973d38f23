#include "support/capture.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "support/test.h"

namespace l4::test {

std::string stderr_of(const std::function<void()>& body) {
  int captured = memfd_create("stderr", MFD_CLOEXEC), original = dup(2);
  if (captured < 0 || original < 0) L4_SKIP("cannot redirect stderr");
  std::fflush(stderr);
  dup2(captured, 2);
  auto restore = [&] {
    std::fflush(stderr);
    dup2(original, 2);
    close(original);
  };
  try {
    body();
  } catch (...) {
    restore();
    close(captured);
    throw;
  }
  restore();
  std::string text(size_t(lseek(captured, 0, SEEK_END)), '\0');
  lseek(captured, 0, SEEK_SET);
  text.resize(size_t(std::max<ssize_t>(0, read(captured, text.data(), text.size()))));
  close(captured);
  return text;
}

}  // namespace l4::test
