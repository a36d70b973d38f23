#include "kernels/cuda/graph.h"

#include <algorithm>

#include "kernels/cuda/check.h"

namespace l4::cuda {

namespace {
// A graph of Scout's decode step has some 250 to 400 nodes; the driver keeps a few MB for it, on the host mostly.
constexpr size_t kMostRecordings = 64;

// Records what `issue` issues. An exception leaves the stream as it was.
View record(cudaStream_t stream, const std::function<View()>& issue, cudaGraph_t& graph) {
  // Thread-local: what other threads do on their devices meanwhile (a loader's allocations) is their business.
  L4_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  View result;
  try {
    result = issue();
  } catch (...) {
    if (cudaStreamEndCapture(stream, &graph) == cudaSuccess && graph) cudaGraphDestroy(graph);
    cudaGetLastError();
    throw;
  }
  L4_CUDA(cudaStreamEndCapture(stream, &graph));
  return result;
}

// Takes the graph.
cudaGraphExec_t instantiate(cudaGraph_t graph) {
  cudaGraphExec_t exec = nullptr;
  const cudaError_t status = cudaGraphInstantiate(&exec, graph, 0);
  cudaGraphDestroy(graph);
  check(status, "cudaGraphInstantiate");
  return exec;
}
}  // namespace

void load_kernels(cudaStream_t stream, const std::function<View()>& issue) {
  cudaGraph_t graph = nullptr;
  cuda::record(stream, issue, graph);
  L4_CUDA(cudaGraphExecDestroy(instantiate(graph)));  // a kernel that is recorded may be loaded no sooner
}

StepGraphs::~StepGraphs() {
  for (auto& [key, recording] : recordings_) cudaGraphExecDestroy(recording.graph);
}

void StepGraphs::make_room() {
  if (recordings_.size() < kMostRecordings) return;
  const auto oldest = std::min_element(recordings_.begin(), recordings_.end(), [](const auto& a, const auto& b) {
    return a.second.last_used < b.second.last_used;
  });
  L4_CUDA(cudaGraphExecDestroy(oldest->second.graph));  // one that still runs is freed when it ends
  recordings_.erase(oldest);
}

void StepGraphs::record(const StepShape& step, cudaStream_t stream, const std::function<View()>& issue) {
  make_room();
  cudaGraph_t graph = nullptr;
  Recording recording;
  recording.result = cuda::record(stream, issue, graph);
  recording.graph = instantiate(graph);
  const cudaError_t status = cudaGraphUpload(recording.graph, stream);  // now, and not at the first launch
  if (status != cudaSuccess) cudaGraphExecDestroy(recording.graph);
  check(status, "cudaGraphUpload");
  recordings_.emplace(key(step), recording);
}

View StepGraphs::replay(const StepShape& step, cudaStream_t stream) {
  Recording& found = recordings_.at(key(step));
  found.last_used = ++n_runs_;
  L4_CUDA(cudaGraphLaunch(found.graph, stream));
  return found.result;
}

}  // namespace l4::cuda
