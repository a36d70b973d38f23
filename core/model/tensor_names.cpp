#include "model/tensor_names.h"

#include <array>

#include "base/error.h"

namespace l4 {

namespace {

// Collects the tensors of one stack of layers under a common prefix.
class Expected {
 public:
  void prefix(std::string value, int layer = -1) {
    prefix_ = std::move(value);
    layer_ = layer;
  }
  void add(const char* name, ModelPart part, Shape shape) {
    list_.push_back({cat(prefix_, name), shape, part, layer_});
  }
  // A linear or a norm with its bias; `shape` is the weight's, the bias has its first axis.
  void add_with_bias(const char* name, ModelPart part, Shape shape, bool bias = true) {
    list_.push_back({cat(prefix_, name, ".weight"), shape, part, layer_});
    if (bias) list_.push_back({cat(prefix_, name, ".bias"), {shape[0]}, part, layer_});
  }
  std::vector<ExpectedTensor> take() { return std::move(list_); }

 private:
  std::vector<ExpectedTensor> list_;
  std::string prefix_;
  int layer_ = -1;
};

void add_text_layer(Expected& out, const TextConfig& c, int layer) {
  const int64_t d = c.hidden, q = c.n_heads * c.head_dim, kv = c.n_kv_heads * c.head_dim, f = c.ffn, e = c.n_experts;
  out.prefix(cat("language_model.model.layers.", layer, "."), layer);
  out.add("input_layernorm.weight", ModelPart::text_norm, {d});
  out.add("post_attention_layernorm.weight", ModelPart::text_norm, {d});
  out.add_with_bias("self_attn.q_proj", ModelPart::attention, {q, d}, c.attention_bias);
  out.add_with_bias("self_attn.k_proj", ModelPart::attention, {kv, d}, c.attention_bias);
  out.add_with_bias("self_attn.v_proj", ModelPart::attention, {kv, d}, c.attention_bias);
  out.add_with_bias("self_attn.o_proj", ModelPart::attention, {d, q}, c.attention_bias);
  if (!c.layers[size_t(layer)].moe) {
    out.add("feed_forward.gate_proj.weight", ModelPart::dense_ffn, {c.dense_ffn, d});
    out.add("feed_forward.up_proj.weight", ModelPart::dense_ffn, {c.dense_ffn, d});
    out.add("feed_forward.down_proj.weight", ModelPart::dense_ffn, {d, c.dense_ffn});
    return;
  }
  out.add("feed_forward.router.weight", ModelPart::router, {e, d});
  // [E, in, out], gate in the first half of the last axis, up in the second: transposed against every other linear.
  out.add("feed_forward.experts.gate_up_proj", ModelPart::routed_experts, {e, d, 2 * f});
  out.add("feed_forward.experts.down_proj", ModelPart::routed_experts, {e, f, d});
  out.add("feed_forward.shared_expert.gate_proj.weight", ModelPart::shared_expert, {f, d});
  out.add("feed_forward.shared_expert.up_proj.weight", ModelPart::shared_expert, {f, d});
  out.add("feed_forward.shared_expert.down_proj.weight", ModelPart::shared_expert, {d, f});
}

void add_vision(Expected& out, const VisionConfig& v, int64_t text_hidden) {
  const int64_t d = v.hidden;
  out.prefix("");
  out.add("multi_modal_projector.linear_1.weight", ModelPart::projector, {text_hidden, v.output});
  out.prefix("vision_model.");
  out.add("class_embedding", ModelPart::vision, {d});
  out.add("positional_embedding_vlm", ModelPart::vision, {v.patches() + 1, d});
  out.add("patch_embedding.linear.weight", ModelPart::vision, {d, v.n_channels * v.patch_size * v.patch_size});
  out.add_with_bias("layernorm_pre", ModelPart::vision, {d});
  out.add_with_bias("layernorm_post", ModelPart::vision, {d});
  out.add("vision_adapter.mlp.fc1.weight", ModelPart::vision, {v.projector_in, v.ffn});
  out.add("vision_adapter.mlp.fc2.weight", ModelPart::vision, {v.projector_out, v.projector_out});
  for (int layer = 0; layer < v.n_layers; ++layer) {
    out.prefix(cat("vision_model.model.layers.", layer, "."), layer);
    for (const char* norm : {"input_layernorm", "post_attention_layernorm"})
      out.add_with_bias(norm, ModelPart::vision, {d});
    for (const char* linear : {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"})
      out.add_with_bias(linear, ModelPart::vision, {d, d});
    out.add_with_bias("mlp.fc1", ModelPart::vision, {v.ffn, d});
    out.add_with_bias("mlp.fc2", ModelPart::vision, {d, v.ffn});
  }
}

}  // namespace

const char* model_part_name(ModelPart part) {
  static const char* const names[] = {"embedding", "attention", "router",  "routed experts", "shared experts",
                                      "dense MLP", "norms",     "lm_head", "vision",         "projector"};
  return names[size_t(part)];
}

std::vector<ExpectedTensor> expected_tensors(const ModelConfig& config) {
  const TextConfig& c = config.text;
  Expected out;
  out.add("language_model.model.embed_tokens.weight", ModelPart::embedding, {c.vocab, c.hidden});
  for (int layer = 0; layer < c.n_layers; ++layer) add_text_layer(out, c, layer);
  out.prefix("");
  out.add("language_model.model.norm.weight", ModelPart::text_norm, {c.hidden});
  if (!c.tied_embeddings) out.add("language_model.lm_head.weight", ModelPart::lm_head, {c.vocab, c.hidden});
  if (config.vision) add_vision(out, *config.vision, c.hidden);
  return out.take();
}

int64_t parameter_count(const std::vector<ExpectedTensor>& tensors) {
  int64_t n = 0;
  for (const ExpectedTensor& t : tensors) n += t.shape.elements();
  return n;
}

bool is_harmless_extra(std::string_view name) {
  // Tables that are computed from the config; transformers does not save them, other exporters have.
  static constexpr std::array<std::string_view, 3> kSuffixes = {"rotary_emb.inv_freq", "rotary_emb.original_inv_freq",
                                                                "rotary_embedding.freqs_ci"};
  for (std::string_view suffix : kSuffixes)
    if (name.ends_with(suffix)) return true;
  return false;
}

}  // namespace l4
