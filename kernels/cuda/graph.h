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

// Everything that `issue` starts is loaded and chosen, and nothing of it is run.
void load_kernels(cudaStream_t stream, const std::function<View()>& issue);

class StepGraphs {
 public:
  StepGraphs() = default;
  ~StepGraphs();
  StepGraphs(const StepGraphs&) = delete;
  StepGraphs& operator=(const StepGraphs&) = delete;

  bool has(const StepShape& step) const { return recordings_.contains(key(step)); }
  // Of a decode step that is not there yet. An exception of `issue` goes through, nothing is kept then.
  void record(const StepShape& step, cudaStream_t stream, const std::function<View()>& issue);
  View replay(const StepShape& step, cudaStream_t stream);  // what `issue` returned

 private:
  struct Key {
    int64_t n_rows = 0, n_out = 0;
    auto operator<=>(const Key&) const = default;
  };
  struct Recording {
    cudaGraphExec_t graph = nullptr;
    View result;
    uint64_t last_used = 0;
  };
  static Key key(const StepShape& step) { return {step.n_rows, step.n_out}; }
  void make_room();

  std::map<Key, Recording> recordings_;
  uint64_t n_runs_ = 0;
};

}  // namespace l4::cuda
