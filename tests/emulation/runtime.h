// The emulated CUDA runtime's objects. A stream's work waits until somebody waits for the stream (or an event in it, or
// the device): what forgets to wait sees old memory. L4_EMULATION_STREAMS=eager does everything when it is issued.
//
// As on a GPU, a host that starts a kernel for the first time, or allocates, may wait for its device and keep the hosts of
// other devices from doing so meanwhile. Here it always does, and each stream starts everything for a first time. Work that
// waits for another device, whose host is kept out, waits in vain then, and says so.
#pragma once

#include <cuda_runtime.h>

#include <deque>
#include <memory>
#include <mutex>
#include <set>
#include <vector>

#include "emulation/block.h"

struct CUgraph_st {
  std::vector<l4::emulation::Step> steps;
};
struct CUgraphExec_st {
  std::shared_ptr<const std::vector<l4::emulation::Step>> steps;
};

struct CUstream_st {
  int device = 0;
  bool blocking = true;  // waits for the default stream and it for this
  std::recursive_mutex mutex;
  std::deque<l4::emulation::Step> steps;
  uint64_t n_done = 0, n_issued = 0;
  std::shared_ptr<CUgraph_st> capture;  // what this stream's work is recorded in
  std::set<const void*> loaded;         // kernels that it has started or recorded
};

struct CUevent_st {
  CUstream_st* stream = nullptr;
  uint64_t after = 0;  // steps of the stream
  std::shared_ptr<CUgraph_st> capture;
};

namespace l4::emulation {

constexpr int kDevices = 2;
constexpr int kMultiprocessors = 4;
constexpr size_t kDeviceBytes = size_t(4) << 30;

// Work of a library in a stream: done, or recorded, as a kernel of ours is.
cudaError_t issue_step(cudaStream_t stream, Step step);

}  // namespace l4::emulation
