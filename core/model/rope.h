// Rotation tables. Host memory: a few hundred bytes that backends copy as they like.
#pragma once

#include <vector>

#include "model/config.h"

namespace l4 {

// Inverse frequencies of the text model's rotation, head_dim / 2 of them, in fp32 with the reference's roundings:
// p = fl(theta^(2i/d)), f = fl(1/p), then llama3 scaling (transformers 5.17, modeling_rope_utils.py,
// _compute_llama3_parameters). TO CHANGE THE ROPE SCALING: here, and RopeConfig in model/config.h.
std::vector<float> text_inv_freq(const TextConfig& text);

// cos and sin of the vision tower's 2-D rotation: [S, head_dim / 2, 2] for S = patches + 1 tokens. Of a token's pairs
// the first half turns by (column + 1) * theta_j, the second by (row + 1) * theta_j, theta_j = rope_theta^(-2j / (hd /
// 2)); the class token (last) does not turn (llama4-spec 3.4).
std::vector<float> vision_rope_table(const VisionConfig& vision);

}  // namespace l4
