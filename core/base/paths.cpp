#include "base/paths.h"

#include <cstdlib>

#include "base/error.h"

namespace l4 {

namespace fs = std::filesystem;

fs::path executable_path() {
  std::error_code ec;
  fs::path path = fs::read_symlink("/proc/self/exe", ec);
  if (ec) fail(ErrorKind::io, "cannot read /proc/self/exe: ", ec.message());
  return path;
}

fs::path demo_model_dir() {
  auto has_model = [](const fs::path& dir) {
    std::error_code ec;
    return fs::is_regular_file(dir / "config.json", ec);
  };
  if (const char* given = std::getenv("L4_DEMO_DIR"); given && *given) {
    if (!has_model(given)) fail(ErrorKind::usage, "L4_DEMO_DIR is ", shown(given), ", which has no config.json");
    return given;
  }
  const fs::path here = executable_path().parent_path();
  fs::path installed = (here / "../share/l4/demo").lexically_normal();
  if (has_model(installed)) return installed;
  fs::path built = here / "demo";
  if (has_model(built)) return built;
  fail(ErrorKind::io, "the demo model is neither in ", installed.string(), " nor in ", built.string(),
       "; set L4_DEMO_DIR to where it is");
}

}  // namespace l4
