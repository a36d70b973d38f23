// The small files of a checkpoint, made up: one token a byte and Meta's special tokens, a model of a few numbers with a
// vision tower, generation_config.json. No weights, no chat template.
#pragma once

#include <string>

#include "base/base64.h"
#include "base/file.h"
#include "base/strings.h"
#include "text/special_tokens.h"

namespace l4::test {

// tiktoken format: "base64 rank" a line; the special tokens follow by themselves, 2,304 in all.
inline std::string byte_tokenizer_model() {
  std::string lines;
  for (int byte = 0; byte < 256; ++byte) lines += cat(to_base64(std::string(1, char(byte))), " ", byte, "\n");
  return lines;
}

inline int32_t byte_token(std::string_view special_name) {
  const std::vector<std::string> names = meta_special_tokens();
  for (size_t i = 0; i < names.size(); ++i)
    if (names[i] == special_name) return int32_t(256 + i);
  return -1;
}

inline std::string tiny_config(int64_t vocab = 2304) {
  return cat(R"({"model_type": "llama4", "architectures": ["Llama4ForConditionalGeneration"], "dtype": "float32",
    "boi_token_index": )",
             byte_token(special::kImageStart), R"(, "eoi_token_index": )", byte_token(special::kImageEnd),
             R"(, "image_token_index": )", byte_token(special::kPatch), R"(,
    "text_config": {"model_type": "llama4_text", "vocab_size": )",
             vocab, R"(, "hidden_size": 64, "num_hidden_layers": 4,
      "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 32, "intermediate_size_mlp": 64,
      "num_local_experts": 4, "num_experts_per_tok": 1, "interleave_moe_layer_step": 1, "attention_chunk_size": 16,
      "max_position_embeddings": 4096, "rope_theta": 500000.0, "rms_norm_eps": 1e-05, "use_qk_norm": true,
      "eos_token_id": )",
             byte_token(special::kEot), R"(, "bos_token_id": )", byte_token(special::kBeginOfText), R"(},
    "vision_config": {"model_type": "llama4_vision_model", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
      "intermediate_size": 128, "image_size": 28, "patch_size": 7, "num_channels": 3, "projector_input_dim": 48,
      "projector_output_dim": 48, "vision_output_dim": 48, "pixel_shuffle_ratio": 0.5, "rope_theta": 10000}})");
}

inline void write_tiny_checkpoint(const fs::path& dir) {
  write_file_atomic(dir / "config.json", tiny_config());
  write_file_atomic(dir / "tokenizer.model", byte_tokenizer_model());
  write_file_atomic(
      dir / "generation_config.json",
      cat(R"({"do_sample": true, "temperature": 0.6, "top_p": 0.9, "eos_token_id": )", byte_token(special::kEot), "}"));
}

}  // namespace l4::test
