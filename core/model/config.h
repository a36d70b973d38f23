// What a Llama 4 checkpoint says it is: config.json read, defaults applied, every number checked. Nothing below this
// file sees JSON. Field meanings and defaults: Hugging Face transformers 5.17, models/llama4/configuration_llama4.py.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "formats/json.h"
#include "ops/attention_kind.h"

namespace l4 {

// What differs from layer to layer. Rotation, QK norm and temperature follow no_rope_layers; the mask follows
// layer_types; dense or MoE follows moe_layers: three independent lists, normally consistent.
struct LayerConfig {
  AttentionKind attention = AttentionKind::chunked;
  bool rope = true;  // false: NoPE, temperature tuning applies
  bool moe = true;   // false: dense SwiGLU of width dense_ffn
};

struct RopeConfig {
  double theta = 500000.0;
  bool scaled = false;  // rope_type llama3
  double factor = 1, low_freq_factor = 1, high_freq_factor = 1;
  int64_t original_max_positions = 8192;
};

struct TextConfig {
  int64_t vocab = 0, hidden = 0, n_layers = 0;
  int64_t n_heads = 0, n_kv_heads = 0, head_dim = 0;
  int64_t ffn = 0;        // each routed expert and the shared expert (intermediate_size)
  int64_t dense_ffn = 0;  // dense layers (intermediate_size_mlp)
  int64_t n_experts = 0, n_experts_per_token = 1;
  int64_t attention_chunk = 0;  // 0: no chunking, chunked layers see everything
  int64_t max_positions = 0;
  double rms_eps = 1e-5;
  bool qk_norm = true;          // RoPE layers only
  bool attention_bias = false;  // biases on q, k, v, o (never set in released models)
  bool temperature_tuning = true;
  double floor_scale = 8192, attn_scale = 0.1;
  bool tied_embeddings = false;  // text_config's tie_word_embeddings; the top level's is not read, as in transformers
  RopeConfig rope;
  std::vector<LayerConfig> layers;  // n_layers of them
};

struct VisionConfig {
  int64_t hidden = 0, n_layers = 0, n_heads = 0, ffn = 0;
  int64_t image_size = 336, patch_size = 14, n_channels = 3;
  int64_t projector_in = 0, projector_out = 0, output = 0;
  double pixel_shuffle_ratio = 0.5;
  double norm_eps = 1e-5;  // transformers ignores the config's norm_eps and uses LayerNorm's default
  double rope_theta = 10000;

  int64_t head_dim() const { return hidden / n_heads; }
  int64_t grid() const { return image_size / patch_size; }                         // patches along one side
  int64_t patches() const { return grid() * grid(); }                              // 576
  int64_t shuffle() const { return int64_t(1 / pixel_shuffle_ratio + 0.5); }       // 2: each side shrinks by this
  int64_t tokens_per_tile() const { return patches() / (shuffle() * shuffle()); }  // 144
};

struct GenerationConfig {  // generation_config.json; what is absent keeps these values
  bool do_sample = false;
  float temperature = 1.0f, top_p = 1.0f, min_p = 0.0f, repetition_penalty = 1.0f;
  int64_t top_k = 0;  // 0: off
  std::vector<int32_t> eos_ids;
};

struct ModelConfig {
  std::string source;  // the file, for messages
  TextConfig text;
  std::optional<VisionConfig> vision;  // absent in text-only checkpoints
  bool text_only_names = false;        // Llama4ForCausalLM: tensors without "language_model."
  int32_t bos_id = -1, pad_id = -1;
  std::vector<int32_t> eos_ids;
  int32_t image_token_id = -1, image_start_id = -1, image_end_id = -1;
  std::string weights_dtype;  // "bfloat16", "float32" as the file says; may be empty
  GenerationConfig generation;
  // quantization_config as it stands (or hf_quant_config.json's, which ModelOpt writes beside config.json); read by the
  // loader of quantised formats.
  std::optional<Json> quantization;

  // Kind of layer l and its index among the layers of that kind (pages of a kind hold all its layers).
  int64_t n_layers_of(AttentionKind kind) const;
};

// Reads and checks DIR/config.json, or the file itself where `path` is one, with generation_config.json and
// hf_quant_config.json beside it where present. Error{input|unsupported} naming file and field; what is odd but legal
// is logged as a warning.
ModelConfig load_model_config(const std::filesystem::path& path);
// The same from a parsed document, for tests; `source` names it in errors.
ModelConfig parse_model_config(const Json& config, const std::string& source);
// generation_config.json; its eos_token_id, where present, is the one that ends generation.
void parse_generation_config(const Json& config, const std::string& source, ModelConfig& into);

}  // namespace l4
