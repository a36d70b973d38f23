// l4-bench write-checkpoint: a made-up quantised model as the files that l4-convert would write, as fast as the disk
// takes them, to measure how such a model is loaded.
#pragma once

#include "tools/bench/bench.h"

namespace l4::bench {

struct WriteOptions {
  std::string model = "scout";
  SyntheticOptions synthetic;
  fs::path dir;                              // made; Error{usage} where there is something in it
  uint64_t max_shard_bytes = 2'000'000'000;  // a thread writes a file
  std::optional<int> threads;
};
// Returns a line that says what was written. Values come from a pool of a few megabytes for each kind of tensor, from
// places that the seed decides: sizes and ranges are those of SyntheticWeights, and the model runs; its values are no
// others' ones.
std::string write_checkpoint(const WriteOptions& options);

// A config.json that parse_model_config() reads as this config.
Json config_json(const ModelConfig& config);

}  // namespace l4::bench
