// A checkpoint directory as the Hugging Face hub lays it out: model.safetensors, or model-0000i-of-0000N.safetensors
// with model.safetensors.index.json {"metadata": {"total_size"}, "weight_map": {tensor name: file name}}.
//
// Where both a single file and an index are there, the single file is taken, as transformers does.
// The index decides: a tensor that it names must be in the shard it names (Error), a tensor of a shard that it does not
// name is left out with a warning. (transformers reads such a tensor too; a loader that then misses it says so by
// name.) File names in the index must be plain names in the same directory; symbolic links, as the hub's cache makes
// them, are followed.
//
// Names: the model knows the names of the released image-and-text checkpoints ("language_model.model.layers.0..."); the
// names of text-only ones ("model.layers.0...", "lm_head.weight") are mapped to those. All lookups take canonical
// names.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "formats/safetensors.h"

namespace l4 {

// "model.X" -> "language_model.model.X", "lm_head.X" -> "language_model.lm_head.X", everything else unchanged.
std::string canonical_tensor_name(std::string_view name);

// The index alone, no weights needed: what a dry run plans with.
struct CheckpointIndex {
  struct Entry {
    std::string name;  // canonical
    std::string file_name;
  };
  std::string source;                   // the index file, for messages
  std::vector<Entry> entries;           // in the order of the file
  std::vector<std::string> file_names;  // distinct, sorted
  std::optional<uint64_t> total_bytes;  // metadata.total_size

  const Entry* find(std::string_view canonical_name) const;

 private:
  friend CheckpointIndex read_checkpoint_index(const fs::path&);
  std::unordered_map<std::string, size_t> by_name_;
};

// `path`: a checkpoint directory, or an index file itself. Error{io|input} naming the file and the entry.
CheckpointIndex read_checkpoint_index(const fs::path& path);

class HfCheckpoint {
 public:
  // Opens and checks every shard. Error{io|input} naming the shard, tensor or entry.
  explicit HfCheckpoint(const fs::path& dir);

  const fs::path& dir() const { return dir_; }
  const std::vector<std::string>& names() const { return names_; }  // canonical, in the order of shards and their bytes
  const TensorInfo* find(std::string_view canonical_name) const;    // nullptr when there is none
  size_t n_shards() const { return shards_.size(); }
  const SafetensorsFile& shard(const TensorInfo& info) const { return shards_[info.file]; }
  uint64_t total_bytes() const { return total_bytes_; }  // of all tensors in names()

  // As SafetensorsFile's; `info` comes from find().
  View data(const TensorInfo& info) const { return shard(info).data(info); }
  void read(const TensorInfo& info, uint64_t offset, std::span<std::byte> out) const {
    shard(info).read(info, offset, out);
  }

 private:
  void add(const std::string& name, const TensorInfo& info);

  fs::path dir_;
  std::vector<SafetensorsFile> shards_;
  std::vector<std::string> names_;
  std::unordered_map<std::string, const TensorInfo*> by_name_;
  uint64_t total_bytes_ = 0;
};

}  // namespace l4
