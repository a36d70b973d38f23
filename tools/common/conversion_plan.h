// What a conversion does, before it does anything: every tensor of the result, where it comes from, in which file it
// goes.
#pragma once

#include <array>
#include <map>
#include <string>
#include <vector>

#include "formats/hf_checkpoint.h"
#include "model/config.h"
#include "tools/common/conversion_recipe.h"

namespace l4::convert {

// A linear of the result, or a tensor that is none and stays. Routed experts lie in the source as one tensor
// [E, in, out] of all experts, gate and up side by side; in the result each is three linears [out, in]. That holds for
// experts that stay as they are too: transformers swaps its fused module for one linear an expert whenever
// quantization_config says compressed-tensors, and vLLM reads either.
struct Item {
  std::string module;  // "...self_attn.q_proj"; a tensor that is no linear's weight: its whole name
  std::string source;  // canonical name of the tensor it comes from
  ModelPart part = ModelPart::attention;
  int layer = -1;
  bool linear = false;
  Scheme scheme = Scheme::keep;
  int64_t expert = -1;       // of a fused tensor, else -1
  int64_t first_column = 0;  // of a fused tensor: gate 0, up behind it
  int64_t n = 0, k = 0;      // the result of a linear, [n, k]

  // Filled in once the source's files are known.
  const TensorInfo* info = nullptr;
  size_t shard = 0;
  std::array<size_t, 3> tensors{};  // in the shard: weight (or the tensor), scale, shape

  bool is_transposed() const { return expert >= 0; }
};

// Every tensor that the config implies, as the source's files will be read; names without "language_model." for
// text-only checkpoints. Error{usage | unsupported} where rules match nothing, tear apart what engines multiply at
// once, or a group does not divide.
std::vector<Item> list_items(const ModelConfig& config, const Recipe& recipe, bool text_only_names);

// config.json's quantization_config, in the words of llm-compressor and compressed-tensors.
Json quantization_config(const std::vector<Item>& items, const Recipe& recipe, const ModelConfig& config);

struct OutputShard {
  std::string file_name;
  std::vector<SafetensorsWriter::Tensor> tensors;  // wide elements first
  std::vector<size_t> items;
  uint64_t bytes = 0;  // of the tensors
};

struct Plan {
  Recipe recipe;
  std::vector<Item> items;
  std::vector<OutputShard> shards;
  Json quantization;
  uint64_t source_bytes = 0, bytes = 0;  // of all tensors

  uint64_t source_bytes_of(const Item& item) const;
  uint64_t bytes_of(const Item& item) const;
};

// Error{unsupported} for a source that is quantised already.
void require_unquantized_source(const ModelConfig& config);
Plan make_plan(const HfCheckpoint& source, const ModelConfig& config, const Recipe& recipe, uint64_t max_shard_bytes);
// The same of items whose `info` is known; source_bytes stays 0.
Plan make_plan(std::vector<Item> items, const ModelConfig& config, const Recipe& recipe, uint64_t max_shard_bytes);

// model.safetensors.index.json of the plan's files and of `more` tensors, each with its file's name, of so many bytes.
Json index_json(const Plan& plan, const std::map<std::string, std::string>& more = {}, uint64_t more_bytes = 0);

}  // namespace l4::convert
