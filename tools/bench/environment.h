// Where a measurement was made: build, machine, clocks. What cannot be found out is absent.
#pragma once

#include <optional>
#include <string>

#include "formats/json.h"

namespace l4::bench {

struct Environment {
  std::string commit, version;
  std::string cpu;     // "AMD EPYC 9654 96-Core Processor"
  std::string device;  // "CPU, 2 threads", "NVIDIA H100 80GB HBM3"
  std::string driver;  // "580.65.06"; empty where there is none
};
Environment find_environment(const std::string& device, int gpu = -1);

std::string utc_now();  // "2026-11-21T09:30:00Z"

}  // namespace l4::bench
