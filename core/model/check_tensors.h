// Compares a checkpoint's tensors with what its config implies, and says how each weight is stored.
#pragma once

#include <string>
#include <unordered_map>

#include "formats/hf_checkpoint.h"
#include "model/config.h"
#include "model/stored_weight.h"

namespace l4 {

// Of each expected tensor, by its canonical name (tensor_names.h).
using StoredMap = std::unordered_map<std::string, StoredWeight>;

// Missing, unexpected, wrongly shaped and wrongly typed tensors are listed in one Error{input} (the first few of each kind, and
// how many more). Schemes that this build does not load are refused by name first, Error{unsupported}.
StoredMap check_tensors(const ModelConfig& config, const HfCheckpoint& checkpoint);
// The same for an index alone: names only, of an unquantised checkpoint.
void check_tensors(const ModelConfig& config, const CheckpointIndex& index);

}  // namespace l4
