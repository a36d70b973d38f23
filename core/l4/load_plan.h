// What loading a model takes: sizes chosen, memory counted, before anything is read.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "engine/executor.h"
#include "engine/limits.h"
#include "l4.h"

namespace l4 {

struct LoadPlan {
  ExecutorOptions executor;
  EngineLimits limits;
  std::vector<MemoryPlan> ranks;
  uint64_t needed_bytes() const;  // of all ranks
};

// Tiles of the largest picture that the checkpoint's preprocessor makes, the global tile included; 0 for a text-only
// model.
int64_t largest_image_tiles(const fs::path& model_dir, const ModelConfig& config);

// `free_bytes` of the device, shared by all ranks: bounds the context where the options leave it open (weights, then
// half of the rest) and where they do not. Without it only the numbers are chosen. Error{usage} naming the option,
// Error{memory} saying what is needed and how much context would fit.
LoadPlan plan_load(const LoadOptions& options, const ModelConfig& config, int64_t max_image_tiles,
                   const StoredDType& stored, std::optional<uint64_t> free_bytes);

// Largest context for which all ranks' bytes stay within `bytes`, at most `max_context`; 0 when not even the weights
// fit.
int64_t context_that_fits(const LoadOptions& options, const ModelConfig& config, int64_t max_image_tiles,
                          const StoredDType& stored, uint64_t bytes, int64_t max_context);

}  // namespace l4
