#include "model/vision_model.h"

#include <algorithm>
#include <cmath>

#include "model/rope.h"

namespace l4 {

namespace {
LayerNormWeights layer_norm(const Tensor& weight, const Tensor& bias, const VisionConfig& vision) {
  return {weight.view, bias.view, float(vision.norm_eps)};
}
}  // namespace

VisionModel::VisionModel(const ModelConfig& config, const Weights& weights, DType activation)
    : vision_(*config.vision), weights_(weights), activation_(activation), rope_(vision_rope_table(*config.vision)) {}

View VisionModel::rope() const {
  return {const_cast<float*>(rope_.data()), DType::f32, {vision_.patches() + 1, vision_.head_dim() / 2, 2}};
}

void VisionModel::prepare(Backend& backend) const {
  backend.keep_rope(rope());
}

void VisionModel::encode(const Rank& r, const View& pixels, const View& features) const {
  const int64_t n_tiles = pixels.shape[0], n_ranks = r.tp.size();
  if (n_ranks == 1) {
    encode_tiles(r, pixels, features);
    return;
  }
  // Every rank takes the same number of tiles, the last ones fewer real ones; what is gathered beyond the last real
  // tile is never copied out.
  const int64_t share = (n_tiles + n_ranks - 1) / n_ranks;
  const int64_t begin = std::min(n_tiles, share * r.tp.rank()), end = std::min(n_tiles, begin + share);
  const int64_t rows = share * vision_.tokens_per_tile(), hidden = features.cols();
  View part = r.work.take(activation_, {rows, hidden});
  View all = r.work.take(activation_, {n_ranks, rows, hidden});
  if (end > begin)
    encode_tiles(r, pixels.slice(begin, end - begin), part.slice(0, (end - begin) * vision_.tokens_per_tile()));
  if (r.work.measuring()) return;
  r.tp.all_gather(part, all);
  r.backend.copy(features, all.reshape({n_ranks * rows, hidden}).slice(0, features.rows()));
}

void VisionModel::encode_tiles(const Rank& r, const View& pixels, const View& out) const {
  const Weights& w = weights_;
  const int64_t n = pixels.shape[0], tokens = vision_.patches() + 1, hidden = vision_.hidden;
  const int64_t heads = vision_.n_heads, head_dim = vision_.head_dim();
  View x = r.work.take(activation_, {n, tokens, hidden});
  const View rows = x.reshape({n * tokens, hidden});

  r.backend.vision_embed({pixels, vision_.patch_size, &w.patch, w.class_embedding.view, w.position_embedding.view,
                          layer_norm(w.pre_weight, w.pre_bias, vision_), x, &r.work});
  r.note("vision.embed", rows);

  for (size_t l = 0; l < w.vision_layers.size(); ++l) {
    const auto& layer = w.vision_layers[l];
    const size_t mark = r.work.mark();
    const Shape by_head{n, tokens, heads, head_dim};
    View q = r.work.take(activation_, by_head), k = r.work.take(activation_, by_head);
    View v = r.work.take(activation_, by_head), attn = r.work.take(activation_, by_head);
    const LayerNormWeights norm1 = layer_norm(layer.norm1_weight, layer.norm1_bias, vision_);
    const LayerNormWeights norm2 = layer_norm(layer.norm2_weight, layer.norm2_bias, vision_);
    r.backend.vision_qkv({x, norm1, &layer.qkv, rope(), q, k, v, &r.work});
    r.backend.vision_attention({q, k, v, float(1.0 / std::sqrt(double(head_dim))), attn, &r.work});
    r.backend.linear({attn.reshape(rows.shape), nullptr, &layer.o, Activation::none, rows, rows, &r.work});
    r.note(cat("vision.layers.", l, ".attention"), rows);
    View mlp = r.work.take(activation_, {n * tokens, vision_.ffn});
    r.backend.linear({rows, &norm2, &layer.fc1, Activation::gelu, {}, mlp, &r.work});
    r.backend.linear({mlp, nullptr, &layer.fc2, Activation::none, rows, rows, &r.work});
    r.note(cat("vision.layers.", l, ".ffn"), rows);
    r.work.release_to(mark);
  }

  const int64_t per_tile = vision_.tokens_per_tile(), width = hidden * vision_.shuffle() * vision_.shuffle();
  View shuffled = r.work.take(activation_, {n, per_tile, width});
  r.backend.vision_shuffle(
      {x, layer_norm(w.post_weight, w.post_bias, vision_), vision_.grid(), vision_.shuffle(), shuffled, &r.work});
  View adapter1 = r.work.take(activation_, {n * per_tile, vision_.projector_in});
  View adapter2 = r.work.take(activation_, {n * per_tile, vision_.projector_out});
  const View flat = shuffled.reshape({n * per_tile, width});
  r.backend.linear({flat, nullptr, &w.adapter1, Activation::gelu, {}, adapter1, &r.work});
  r.backend.linear({adapter1, nullptr, &w.adapter2, Activation::gelu, {}, adapter2, &r.work});
  r.note("vision.adapter", adapter2);
  r.backend.linear({adapter2, nullptr, &w.projector, Activation::none, {}, out, &r.work});
  r.note("vision.projected", out);
}

}  // namespace l4
