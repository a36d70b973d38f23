// A small checkpoint to convert: dense and MoE layers, a vision tower, random weights, files that are no weights. Its
// widths are multiples of 32.
#pragma once

#include <cmath>
#include <functional>
#include <map>
#include <random>

#include "core/l4/tiny_checkpoint.h"
#include "formats/safetensors.h"
#include "model/tensor_names.h"
#include "quant/quantize.h"

namespace l4::test {

using Tensors = std::map<std::string, std::vector<float>>;

inline ModelConfig tiny_source_config(const fs::path& dir) {
  std::string config = tiny_config(300);
  const auto replace = [&](const std::string& from, const std::string& to) {
    config.replace(config.find(from), from.size(), to);
  };
  replace("\"interleave_moe_layer_step\": 1", "\"interleave_moe_layer_step\": 2");
  replace("\"attention_chunk_size\": 16", "\"attention_chunk_size\": 16, \"my_own_field\": [1e-05, true]");
  for (const char* id : {"boi_token_index", "eoi_token_index", "image_token_index", "eos_token_id", "bos_token_id"}) {
    const size_t at = config.find(':', config.find(id)) + 1, end = config.find_first_of(",}", at);
    config.replace(at, end - at, cat(" ", 1 + config.find(id) % 200));
  }
  write_file_atomic(dir / "config.json", config);
  return parse_model_config(parse_json(config, "config.json"), "config.json");
}

// Writes it and returns what it holds, by canonical names. `change` may put other values.
inline Tensors write_tiny_source(const fs::path& dir, DType dtype = DType::bf16, bool text_only_names = false,
                                 const std::function<void(const std::string&, std::vector<float>&)>& change = {}) {
  fs::create_directories(dir);
  const ModelConfig config = tiny_source_config(dir);
  write_file_atomic(dir / "tokenizer.model", byte_tokenizer_model());
  write_file_atomic(dir / "generation_config.json", "{}\n");
  write_file_atomic(dir / "pytorch_model.bin", "old weights");
  fs::create_directories(dir / "original");

  const std::vector<ExpectedTensor> expected = expected_tensors(config);
  std::vector<SafetensorsWriter::Tensor> list;
  for (const ExpectedTensor& t : expected) {
    const std::string prefix = "language_model.";
    const bool cut = text_only_names && t.name.starts_with(prefix);
    list.push_back({cut ? t.name.substr(prefix.size()) : t.name, dtype, t.shape});
  }
  SafetensorsWriter out(dir / "model.safetensors", list);
  Tensors tensors;
  std::mt19937 random(7);
  std::normal_distribution<float> normal(0, 0.05f);
  for (const ExpectedTensor& t : expected) {
    std::vector<float> values(size_t(t.shape.elements()));
    for (float& w : values) w = round_bf16(normal(random));
    if (dtype == DType::f16)  // what both types hold
      for (float& w : values) w = std::round(w * 1024) / 1024;
    if (change) change(t.name, values);
    if (dtype == DType::f32) {
      out.write(std::as_bytes(std::span(values)));
    } else {
      std::vector<uint16_t> bits;
      for (const float w : values) {
        if (dtype == DType::bf16) {
          bits.push_back(to_bf16(w).bits);
        } else {
          const _Float16 half = _Float16(w);
          bits.push_back(std::bit_cast<uint16_t>(half));
        }
      }
      out.write(std::as_bytes(std::span(bits)));
    }
    tensors[t.name] = std::move(values);
  }
  out.finish();
  return tensors;
}

}  // namespace l4::test
