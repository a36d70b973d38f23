// config.json's quantization_config. Its words and their order are those of RedHat's Llama 4 checkpoints.
#include <algorithm>
#include <set>

#include "tools/common/conversion_plan.h"

namespace l4::convert {

namespace {

Json arguments(Scheme scheme, int64_t group) {
  const bool fp8 = scheme == Scheme::fp8;
  return Json::Object{{"actorder", nullptr},
                      {"block_structure", nullptr},
                      {"dynamic", false},
                      {"group_size", fp8 ? Json() : Json(group)},
                      {"num_bits", fp8 ? 8 : 4},
                      {"observer", fp8 ? "minmax" : "mse"},
                      {"observer_kwargs", Json::Object{}},
                      {"strategy", fp8 ? "channel" : "group"},
                      {"symmetric", true},
                      {"type", fp8 ? "float" : "int"}};
}

// Each token of the input gets its own scale while the model runs.
Json dynamic_inputs() {
  Json json = arguments(Scheme::fp8, 0);
  json.set("dynamic", true);
  json.set("observer", nullptr);
  json.set("strategy", "token");
  return json;
}

// One scale for all keys of a layer and one for all values, as llm-compressor writes them: X.self_attn.k_scale,
// v_scale.
Json kv_cache_scheme() {
  Json json = arguments(Scheme::fp8, 0);
  json.set("strategy", "tensor");
  return json;
}

const char* format_of(Scheme scheme) {
  return scheme == Scheme::fp8 ? "float-quantized" : "pack-quantized";
}

// Where two schemes meet every group names its modules: vLLM looks at the class "Linear" before it takes a fused
// qkv_proj apart. Experts of a layer share a scheme, so that one pattern names all of a kind.
Json::Array targets_of(const std::vector<Item>& items, Scheme scheme) {
  Json::Array targets;
  for (const Item& item : items) {
    if (!item.linear || item.scheme != scheme || item.expert > 0) continue;
    if (item.expert < 0) {
      targets.push_back(item.module);
      continue;
    }
    const size_t number = item.module.rfind(".0.");
    std::string pattern = "re:";
    for (const char c : item.module.substr(0, number)) pattern += c == '.' ? "\\." : std::string(1, c);
    targets.push_back(cat(pattern, "\\.\\d+\\.", item.module.substr(number + 3), "$"));
  }
  return targets;
}

}  // namespace

Json quantization_config(const std::vector<Item>& items, const Recipe& recipe, const ModelConfig& config) {
  std::set<Scheme> schemes;
  for (const Item& item : items)
    if (item.scheme != Scheme::keep) schemes.insert(item.scheme);
  const bool mixed = schemes.size() > 1;

  Json groups = Json::Object{};
  for (const Scheme scheme : schemes) {
    Json group = Json::Object{};
    if (mixed) group.set("format", format_of(scheme));
    group.set("input_activations", scheme == Scheme::fp8 ? dynamic_inputs() : Json());
    group.set("output_activations", nullptr);
    group.set("targets", mixed ? targets_of(items, scheme) : Json::Array{"Linear"});
    group.set("weights", arguments(scheme, recipe.group));
    groups.set(cat("group_", groups.as_object().size()), std::move(group));
  }

  // Every module of class Linear that stays, in the order in which the model has them.
  const auto place = [](const Item* item) {
    return item->part == ModelPart::vision ? 0 : item->part == ModelPart::projector ? 1 : 2;
  };
  std::vector<const Item*> kept;
  for (const Item& item : items)
    if (item.linear && item.scheme == Scheme::keep) kept.push_back(&item);
  std::stable_sort(kept.begin(), kept.end(), [&](const Item* a, const Item* b) { return place(a) < place(b); });
  Json::Array ignore;
  for (const Item* item : kept) ignore.push_back(item->module);
  if (config.text.tied_embeddings) {  // the module is there, its tensor is not
    const bool text_only = items.front().module.starts_with("model.");
    ignore.push_back(text_only ? "lm_head" : "language_model.lm_head");
  }

  return Json::Object{{"config_groups", std::move(groups)},
                      {"format", mixed ? "mixed-precision" : format_of(*schemes.begin())},
                      {"global_compression_ratio", nullptr},
                      {"ignore", std::move(ignore)},
                      {"kv_cache_scheme", recipe.kv_scales ? kv_cache_scheme() : Json()},
                      {"quant_method", "compressed-tensors"},
                      {"quantization_status", "compressed"}};
}

}  // namespace l4::convert
