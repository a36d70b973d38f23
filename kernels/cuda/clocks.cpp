// NVML, opened at run time as everything of NVIDIA's is. Its few functions are declared here: the ABI is stable, and the
// library's header is no part of what the build needs.
#include <cuda_runtime.h>
#include <dlfcn.h>

#include "ops/ceilings.h"

namespace l4 {

namespace {

struct Nvml {
  using Device = struct nvmlDevice*;
  int (*init)() = nullptr;
  int (*shutdown)() = nullptr;
  int (*driver_version)(char*, unsigned) = nullptr;
  int (*device_by_bus)(const char*, Device*) = nullptr;
  int (*clock)(Device, int, unsigned*) = nullptr;  // 0 graphics, 1 SM, 2 memory

  bool open() {
    void* library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library) return false;
    const auto bind = [&](auto& function, const char* name) {
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
      return function != nullptr;
    };
    return bind(init, "nvmlInit_v2") && bind(shutdown, "nvmlShutdown") &&
           bind(driver_version, "nvmlSystemGetDriverVersion") &&
           bind(device_by_bus, "nvmlDeviceGetHandleByPciBusId_v2") && bind(clock, "nvmlDeviceGetClockInfo");
  }
};

}  // namespace

CudaClocks read_cuda_clocks(int device) {
  CudaClocks found;
  Nvml nvml;
  if (!nvml.open() || nvml.init() != 0) return found;
  char text[96] = {};
  if (nvml.driver_version(text, sizeof text) == 0) found.driver = text;
  char bus[32] = {};
  Nvml::Device handle = nullptr;
  if (cudaDeviceGetPCIBusId(bus, sizeof bus, device) == cudaSuccess && nvml.device_by_bus(bus, &handle) == 0) {
    unsigned mhz = 0;
    if (nvml.clock(handle, 1, &mhz) == 0) found.sm_mhz = int(mhz);
    if (nvml.clock(handle, 2, &mhz) == 0) found.memory_mhz = int(mhz);
  }
  nvml.shutdown();
  return found;
}

}  // namespace l4
