#include "model/text_model.h"

#include <cmath>

#include "model/rope.h"

namespace l4 {

TextModel::TextModel(const ModelConfig& config, const Weights& weights, DType activation, bool round_robin_experts)
    : text_(config.text),
      weights_(weights),
      activation_(activation),
      round_robin_experts_(round_robin_experts),
      inv_freq_(text_inv_freq(config.text)) {}

View TextModel::forward(const Rank& r, const StepPlan& step, const KvCache& kv, const View& features) const {
  View x = r.work.take(activation_, {step.n_rows(), text_.hidden});  // the residual stream [T, D]
  if (r.shard.first_stage())
    r.backend.embed({&step, weights_.embedding.view, r.shard.vocab.begin, features, x, &r.tp, &r.work});
  else
    r.recv_previous(x);
  if (r.shard.first_stage()) r.note("embed", x);

  const float eps = float(text_.rms_eps);
  const size_t before_h = r.work.mark();
  View h = r.work.take(activation_, {step.n_rows(), text_.hidden});
  if (const View weight = norm_before(r, r.shard.layers.begin, step))
    r.backend.norm({&step, false, x, weight, eps, h, &r.work});
  for (int64_t l = r.shard.layers.begin; l < r.shard.layers.end; ++l) {
    const size_t mark = r.work.mark();
    const Route route = attention_block(r, l, step, kv.layer(l), x, h);
    ffn_block(r, l, step, route, x, h);
    r.work.release_to(mark);
  }

  if (!r.shard.last_stage()) {
    r.send_next(x);
    return {};
  }
  if (!norm_before(r, r.shard.layers.end, step)) {
    r.work.release_to(before_h);
    h = r.work.take(activation_, {step.n_out(), text_.hidden});
    if (step.n_out() > 0) r.backend.norm({&step, true, x, weights_.final_norm.view, eps, h, &r.work});
  }
  View logits = r.work.take(DType::f32, {step.n_out(), text_.vocab});
  if (step.n_out() > 0) r.backend.head({h, &weights_.lm_head, logits, &r.tp, &r.work});
  return logits;
}

// The norm of all rows with which layer l begins, or the head behind the last layer. Empty where that is on another
// rank, or takes some of the rows only.
View TextModel::norm_before(const Rank& r, int64_t l, const StepPlan& step) const {
  if (l < r.shard.layers.end) return layer(r, l).input_norm.view;
  return r.shard.last_stage() && step.n_out() == step.n_rows() ? weights_.final_norm.view : View{};
}

// Q k v, rotation, cache write; attention; output projection, residual, the next norm and the routing.
Route TextModel::attention_block(const Rank& r, int64_t l, const StepPlan& step, const KvLayer& kv, const View& x,
                                 const View& h) const {
  const LayerConfig& kind = text_.layers[size_t(l)];
  const Layer& w = layer(r, l);
  const int64_t n_rows = step.n_rows(), n_heads = r.shard.heads.size(), head_dim = text_.head_dim;
  const float eps = float(text_.rms_eps);

  View q = r.work.take(activation_, {n_rows, n_heads, head_dim});
  QkvArgs qkv{};
  qkv.step = &step;
  qkv.h = h;
  qkv.w = &w.qkv;
  if (kind.rope) {
    qkv.inv_freq = {const_cast<float*>(inv_freq_.data()), DType::f32, {head_dim / 2}};
    qkv.qk_norm = text_.qk_norm;
    qkv.qk_norm_eps = eps;
  } else {
    qkv.temperature = text_.temperature_tuning;
    qkv.floor_scale = float(text_.floor_scale);
    qkv.attn_scale = float(text_.attn_scale);
  }
  qkv.kv = kv;
  qkv.q = q;
  qkv.work = &r.work;
  r.backend.qkv(qkv);

  View attn = r.work.take(activation_, {n_rows, n_heads, head_dim});
  r.backend.attention({&step, q, kv, float(1.0 / std::sqrt(double(head_dim))), attn, &r.work});

  Route route;
  if (kind.moe) {
    route.top_k = text_.n_experts_per_token;
    route.expert = r.work.take(DType::i32, {n_rows, route.top_k});
    route.score = r.work.take(DType::f32, {n_rows, route.top_k});
  }
  AttnOutArgs o{};
  o.attn = attn.reshape({n_rows, n_heads * head_dim});
  o.w = &w.o;
  o.x = x;
  o.norm_weight = w.post_norm.view;
  o.norm_eps = eps;
  o.h = h;
  o.router = kind.moe ? &w.router : nullptr;
  o.route = route;
  o.comm = &r.tp;
  o.work = &r.work;
  r.backend.attn_out(o);
  if (kind.moe && round_robin_experts_ && !r.work.measuring()) r.backend.experts_in_turn(route, text_.n_experts);
  if (kind.moe) r.note(cat("layers.", l, ".experts"), route.expert);
  r.note(cat("layers.", l, ".attention"), x);
  return route;
}

// SwiGLU of the shared expert (or of a dense layer) and of each row's routed experts; their sum, residual, the next
// norm.
void TextModel::ffn_block(const Rank& r, int64_t l, const StepPlan& step, const Route& route, const View& x,
                          const View& h) const {
  const bool moe = text_.layers[size_t(l)].moe;
  const Layer& w = layer(r, l);
  const int64_t n_rows = x.rows();
  const int64_t columns = moe ? r.shard.ffn.size() : r.shard.dense_ffn.size();

  View act_shared = r.work.take(activation_, {n_rows, columns}), act_routed;
  if (moe) act_routed = r.work.take(activation_, {n_rows * route.top_k, r.shard.expert_ffn.size()});
  const PackedWeight* experts_up = moe ? &w.experts_up : nullptr;
  const PackedWeight* experts_down = moe ? &w.experts_down : nullptr;
  const int64_t first_expert = r.shard.experts.begin;

  r.backend.ffn_up({h, &w.shared_up, experts_up, first_expert, route, act_shared, act_routed, &r.work});
  FfnDownArgs down{};
  down.act_shared = act_shared;
  down.shared = &w.shared_down;
  down.act_routed = act_routed;
  down.experts = experts_down;
  down.first_expert = first_expert;
  down.route = route;
  down.x = x;
  down.norm_weight = norm_before(r, l + 1, step);
  down.norm_eps = float(text_.rms_eps);
  down.h = h;
  down.comm = &r.tp;
  down.work = &r.work;
  r.backend.ffn_down(down);
  r.note(cat("layers.", l, ".ffn"), x);
}

}  // namespace l4
