// Walks a plan and what is loaded from it, member by member: the one list of a rank's weights and their parts' names.
#pragma once

#include "model/weights.h"

namespace l4 {

// Calls visit(part, plan member, loaded member) for every weight there is, once. `Loaded` is Weights, or WeightPlan
// itself where only the plan matters.
template <class Loaded, class Visit>
void for_each_weight(const WeightPlan& p, Loaded& w, Visit visit) {
  visit("embedding", p.embedding, w.embedding);
  for (size_t l = 0; l < p.layers.size(); ++l) {
    const auto& a = p.layers[l];
    auto& b = w.layers[l];
    visit("norms", a.input_norm, b.input_norm);
    visit("attention", a.qkv, b.qkv);
    visit("attention", a.o, b.o);
    visit("norms", a.post_norm, b.post_norm);
    visit("router", a.router, b.router);
    const char* shared = a.router.spec.n ? "shared experts" : "dense MLP";
    visit(shared, a.shared_up, b.shared_up);
    visit(shared, a.shared_down, b.shared_down);
    visit("routed experts", a.experts_up, b.experts_up);
    visit("routed experts", a.experts_down, b.experts_down);
  }
  visit("norms", p.final_norm, w.final_norm);
  visit("lm_head", p.lm_head, w.lm_head);
  visit("vision", p.class_embedding, w.class_embedding);
  visit("vision", p.position_embedding, w.position_embedding);
  visit("vision", p.pre_weight, w.pre_weight);
  visit("vision", p.pre_bias, w.pre_bias);
  visit("vision", p.patch, w.patch);
  for (size_t l = 0; l < p.vision_layers.size(); ++l) {
    const auto& a = p.vision_layers[l];
    auto& b = w.vision_layers[l];
    visit("vision", a.norm1_weight, b.norm1_weight);
    visit("vision", a.norm1_bias, b.norm1_bias);
    visit("vision", a.qkv, b.qkv);
    visit("vision", a.o, b.o);
    visit("vision", a.norm2_weight, b.norm2_weight);
    visit("vision", a.norm2_bias, b.norm2_bias);
    visit("vision", a.fc1, b.fc1);
    visit("vision", a.fc2, b.fc2);
  }
  visit("vision", p.post_weight, w.post_weight);
  visit("vision", p.post_bias, w.post_bias);
  visit("vision", p.adapter1, w.adapter1);
  visit("vision", p.adapter2, w.adapter2);
  visit("vision", p.projector, w.projector);
}

// With as many layers as the plan, nothing loaded.
inline Weights empty_weights(const WeightPlan& plan) {
  Weights weights;
  weights.layers.resize(plan.layers.size());
  weights.vision_layers.resize(plan.vision_layers.size());
  return weights;
}

}  // namespace l4
