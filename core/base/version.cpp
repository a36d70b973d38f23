#include "base/version.h"

#include "base/strings.h"

namespace l4 {

const BuildInfo& build_info() {
  static const BuildInfo info{
      .version = L4_VERSION,
      .commit =
#include "commit.inc"
      ,
      .build_type = L4_BUILD_TYPE,
      .cuda = L4_CUDA_VERSION,
  };
  return info;
}

std::string version_line(const std::string& program) {
  const BuildInfo& b = build_info();
  return cat(program, " ", b.version, " (commit ", b.commit, ", ", b.build_type, ", ",
             b.cuda.empty() ? std::string("CPU only") : cat("CUDA ", b.cuda, " for sm_90a"), ")");
}

}  // namespace l4
