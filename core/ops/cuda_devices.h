// What CUDA devices this machine has, for --list-devices and for messages. Safe to call anywhere: a build without CUDA,
// a machine without a driver or without a GPU are answers, not errors. Starts no work on any device and takes none of
// their memory.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace l4 {

struct CudaDevice {
  int index = 0;
  std::string name;  // "NVIDIA H100 80GB HBM3"
  uint64_t total_bytes = 0;
  int major = 0, minor = 0;  // compute capability
  int n_multiprocessors = 0;
  bool usable() const { return major == 9 && minor == 0; }  // our kernels are compiled for sm_90a alone
};

struct CudaDevices {
  bool built = false;       // this program has the CUDA backend
  int driver_version = 0;   // newest CUDA the installed driver serves, as 13000 for 13.0; 0: no driver
  int runtime_version = 0;  // CUDA of this build
  std::string problem;      // why there are no devices, in a few words; empty where there are some
  std::vector<CudaDevice> devices;
};

CudaDevices list_cuda_devices();

}  // namespace l4
