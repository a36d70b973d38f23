// Decode steps as CUDA graphs: what a step of so many rows and outputs issues to the stream is recorded the first time
// and replayed from then on. A replay is one launch of about 10 us of host time instead of some 250 of 5 us.
//
// What makes a recording valid for later steps: activations lie in an arena that is reset before each step, the step's
// plan at addresses that the numbers of rows and outputs decide (step_buffer.h), grids depend on these numbers alone,
// and everything else is weights and pages, which do not move.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <functional>
#include <map>

#include "ops/step_plan.h"
#include "tensor/view.h"

namespace l4::cuda {

// What `issue` puts on the stream, recorded, and with it loaded and chosen all that it starts; nothing of it is run. An
// exception of `issue` goes through and leaves the stream as it was.
class Recording {
 public:
  Recording(cudaStream_t stream, const std::function<void()>& issue);
  ~Recording() { cudaGraphExecDestroy(graph_); }  // one that still runs is freed when it ends
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;
  void upload() const;  // to the device now, and not at the first replay
  void replay() const;

 private:
  const cudaStream_t stream_;
  cudaGraphExec_t graph_ = nullptr;
};

class StepGraphs {
 public:
  bool has(const StepShape& step) const { return steps_.contains(key(step)); }
  // Of a decode step that is not there yet. An exception of `issue` goes through, nothing is kept then.
  void record(const StepShape& step, cudaStream_t stream, const std::function<View()>& issue);
  View replay(const StepShape& step);  // what `issue` returned
  void forget(const StepShape& step) { steps_.erase(key(step)); }
  void clear() { steps_.clear(); }

 private:
  struct Key {
    int64_t n_rows = 0, n_out = 0;
    auto operator<=>(const Key&) const = default;
  };
  struct Step {
    View result;  // before the recording, which sets it
    Recording recording;
    uint64_t last_used = 0;
    Step(cudaStream_t stream, const std::function<View()>& issue) : recording(stream, [&] { result = issue(); }) {
      recording.upload();
    }
  };
  static Key key(const StepShape& step) { return {step.n_rows, step.n_out}; }
  void make_room();

  std::map<Key, Step> steps_;
  uint64_t n_runs_ = 0;
};

}  // namespace l4::cuda
