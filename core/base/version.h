// What --version and a bug report say about this build.
#pragma once

#include <string>

namespace l4 {

struct BuildInfo {
  std::string version;     // "0.1.0"
  std::string commit;      // "318d56a0c1b2", "-dirty" after it when files were changed; "unknown" outside git
  std::string build_type;  // "Release"
  std::string cuda;        // the toolkit the CUDA backend was built with, "13.0.88"; empty in a CPU build
};

const BuildInfo& build_info();

// "l4-run 0.1.0 (commit 318d56a0c1b2, Release, CUDA 13.0.88 for sm_90a)"; "CPU only" in place of CUDA.
std::string version_line(const std::string& program);

}  // namespace l4
