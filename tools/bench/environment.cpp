#include "tools/bench/environment.h"

#include <chrono>
#include <ctime>
#include <fstream>

#include "base/strings.h"
#include "base/version.h"
#include "ops/ceilings.h"

namespace l4::bench {

namespace {

std::string cpu_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("model name")) {
      const size_t colon = line.find(':');
      if (colon != std::string::npos) return std::string(trim(std::string_view(line).substr(colon + 1)));
    }
  return "";
}

}  // namespace

Environment find_environment(const std::string& device, int gpu) {
  return {build_info().commit, build_info().version, cpu_name(), device, gpu < 0 ? "" : read_cuda_clocks(gpu).driver};
}

std::string utc_now() {
  const std::time_t now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  std::tm parts{};
  gmtime_r(&now, &parts);
  char text[32];
  return {text, std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts)};
}

}  // namespace l4::bench
