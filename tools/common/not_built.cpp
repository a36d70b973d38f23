#include "tools/common/not_built.h"

#include <cstdio>
#include <string_view>

#include "base/version.h"

namespace l4::tools {

int not_built(const char* program, int argc, char** argv) {
  const std::string_view word = argc > 1 ? argv[1] : "";
  if (word == "--version") {
    std::printf("%s\n", version_line(program).c_str());
    return 0;
  }
  const bool asked = word == "--help" || word == "-h";
  std::fprintf(asked ? stdout : stderr, "%s: not part of this version yet; only --version and --help work\n", program);
  return asked ? 0 : 2;
}

}  // namespace l4::tools
