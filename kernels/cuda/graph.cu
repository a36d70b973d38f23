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
}  // namespace

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

View StepGraphs::run(const StepPlan& step, cudaStream_t stream, const std::function<View()>& issue) {
  const Key key{step.n_rows(), step.n_out()};
  auto found = recordings_.find(key);
  if (found == recordings_.end()) {
    make_room();
    cudaGraph_t graph = nullptr;
    Recording recording;
    recording.result = record(stream, issue, graph);
    const cudaError_t status = cudaGraphInstantiate(&recording.graph, graph, 0);
    cudaGraphDestroy(graph);
    check(status, "cudaGraphInstantiate");
    found = recordings_.emplace(key, recording).first;
  }
  found->second.last_used = ++n_runs_;
  L4_CUDA(cudaGraphLaunch(found->second.graph, stream));
  return found->second.result;
}

}  // namespace l4::cuda
