// Scales of an FP8 cache that come with a checkpoint: x is kept as the code nearest to x / s, and read as the code times s.
// One for all keys and one for all values of a layer, the same on every rank.
#pragma once

#include <string>
#include <vector>

#include "dist/shard_plan.h"
#include "formats/hf_checkpoint.h"

namespace l4 {

struct KvScales {
  float k = 0, v = 0;
};

// The names that the scale of a layer's keys (or values) may have, the usual one first: compressed-tensors', ModelOpt's, and
// that of compressed-tensors' first versions.
std::vector<std::string> kv_scale_names(int64_t layer, bool is_value);
// The first of these that is there; nullptr: none.
const TensorInfo* find_kv_scale(const HfCheckpoint& checkpoint, int64_t layer, bool is_value);
// Of layers [layers.begin, layers.end), all of which check_tensors() has found. Error{input} where a scale is no positive
// number, or out of all proportion (kLeastKvScale, kMostKvScale).
std::vector<KvScales> load_kv_scales(const HfCheckpoint& checkpoint, Range layers);
constexpr float kLeastKvScale = 0x1p-40f, kMostKvScale = 0x1p40f;  // and so far from where float32 ends

}  // namespace l4
