// The tensors a Llama 4 checkpoint must have, as its config implies them: names and shapes of the unquantised layout
// that Meta released (fused experts [E, in, out]; every other linear [out, in]).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "model/config.h"
#include "tensor/view.h"

namespace l4 {

enum class ModelPart : uint8_t {
  embedding,
  attention,
  router,
  routed_experts,
  shared_expert,
  dense_ffn,
  text_norm,
  lm_head,
  vision,  // encoder and adapter
  projector,
};
const char* model_part_name(ModelPart part);

struct ExpectedTensor {
  std::string name;  // canonical, see formats/hf_checkpoint.h
  Shape shape;
  ModelPart part;
  int layer = -1;  // of the text or vision stack; -1 outside
};

// Tied embeddings have no lm_head; attention_bias adds biases to q, k, v, o; without vision_config no vision tensors.
std::vector<ExpectedTensor> expected_tensors(const ModelConfig& config);
// Elements of all of them.
int64_t parameter_count(const std::vector<ExpectedTensor>& tensors);

// Buffers that some exporters save and that carry no weights ("...rotary_emb.inv_freq").
bool is_harmless_extra(std::string_view canonical_name);

}  // namespace l4
