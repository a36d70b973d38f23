// What K and V follow from besides the prompt: model, weights, types, layout. In a file of KV, and compared with it.
#pragma once

#include "engine/executor.h"
#include "engine/prompt_file.h"

namespace l4 {

// Reads the checkpoint's small files and a few bytes of each tensor: enough to tell checkpoints apart, not to notice a
// weight that was changed elsewhere. Error{io | input} naming the file.
KvOrigin kv_origin(const fs::path& model_dir, const ModelConfig& config, const ExecutorOptions& options);

}  // namespace l4
