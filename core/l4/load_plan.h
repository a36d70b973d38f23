// What loading a model takes: sizes chosen, memory counted, before anything is read.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "engine/executor.h"
#include "engine/limits.h"
#include "l4.h"
#include "ops/cuda_devices.h"

namespace l4 {

// Memory that a plan has to keep within.
struct MemoryBudget {
  uint64_t bytes = 0;
  bool per_rank = false;  // each rank has as much (GPUs), or all share it (the CPU)
};

struct LoadPlan {
  ExecutorOptions executor;
  EngineLimits limits;
  std::vector<MemoryPlan> ranks;
  uint64_t needed_bytes() const;  // of all ranks on the CPU; of the rank that needs most on GPUs
  bool fits(const MemoryBudget& budget) const;
};

// The GPUs of the ranks, as device and gpus of the options ask and as they are there; none: the CPU. Error{unsupported
// | device} where what is asked for is not there.
std::vector<int> choose_gpus(const LoadOptions& options, const CudaDevices& found);

// Tiles of the largest picture that the checkpoint's preprocessor makes, the global tile included; 0 for a text-only
// model.
int64_t largest_image_tiles(const fs::path& model_dir, const ModelConfig& config);

// options.gpus decides for which backend. `free_bytes` of the host's memory, which all ranks share, or of the GPU that
// has the least: bounds the context where the options leave it open (weights, then half of the host's rest, or nearly
// all of the GPU's) and where they do not. Without it only the numbers are chosen. Error{usage} naming the option,
// Error{memory} saying what is needed and how much context would fit.
LoadPlan plan_load(const LoadOptions& options, const ModelConfig& config, int64_t max_image_tiles,
                   const StoredWeights& stored, std::optional<uint64_t> free_bytes);

// Largest context that fits, at most `max_context`; 0 when not even the weights do.
int64_t context_that_fits(const LoadOptions& options, const ModelConfig& config, int64_t max_image_tiles,
                          const StoredWeights& stored, const MemoryBudget& budget, int64_t max_context);

// Sequences of n_tokens each whose KV the limits' pages hold at once, at most max_sequences.
int64_t sequences_that_fit(const EngineLimits& limits, int64_t page_tokens, int64_t n_tokens);

}  // namespace l4
