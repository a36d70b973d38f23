#include "kernels/cuda/graph.h"

#include <algorithm>

#include "kernels/cuda/check.h"

namespace l4::cuda {

namespace {
// A graph of Scout's decode step has some 250 to 400 nodes; the driver keeps a few MB for it, on the host mostly.
constexpr size_t kMostSteps = 64;
}  // namespace

Recording::Recording(cudaStream_t stream, const std::function<void()>& issue) : stream_(stream) {
  // Thread-local: what other threads do on their devices meanwhile (a loader's allocations) is their business.
  L4_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  cudaGraph_t graph = nullptr;
  try {
    issue();
  } catch (...) {
    if (cudaStreamEndCapture(stream, &graph) == cudaSuccess && graph) cudaGraphDestroy(graph);
    cudaGetLastError();
    throw;
  }
  L4_CUDA(cudaStreamEndCapture(stream, &graph));
  const cudaError_t status = cudaGraphInstantiate(&graph_, graph, 0);
  cudaGraphDestroy(graph);
  check(status, "cudaGraphInstantiate");
}

void Recording::upload() const {
  L4_CUDA(cudaGraphUpload(graph_, stream_));
}

void Recording::replay() const {
  L4_CUDA(cudaGraphLaunch(graph_, stream_));
}

void StepGraphs::make_room() {
  if (steps_.size() < kMostSteps) return;
  steps_.erase(std::min_element(steps_.begin(), steps_.end(), [](const auto& a, const auto& b) {
    return a.second.last_used < b.second.last_used;
  }));
}

void StepGraphs::record(const StepShape& step, cudaStream_t stream, const std::function<View()>& issue) {
  make_room();
  steps_.try_emplace(key(step), stream, issue);
}

View StepGraphs::replay(const StepShape& step) {
  Step& found = steps_.at(key(step));
  found.last_used = ++n_runs_;
  found.recording.replay();
  return found.result;
}

}  // namespace l4::cuda
