#include "tools/common/conversion_plan.h"

#include <algorithm>
#include <map>

#include "base/error.h"
#include "model/check_tensors.h"

namespace l4::convert {

namespace {

constexpr std::string_view kWeight = ".weight";

// Expands the tensors of a config; names as the checkpoint spells them.
class Lister {
 public:
  Lister(const Recipe& recipe, bool text_only) : recipe_(recipe), text_only_(text_only) {}

  void add(const ExpectedTensor& t) {
    Item item;
    item.source = t.name;
    item.part = t.part;
    item.layer = t.layer;
    if (t.part == ModelPart::routed_experts) return add_experts(t, item);
    item.module = spelled(t.name);
    item.linear = t.shape.rank() == 2 && t.name.ends_with(kWeight) && t.part != ModelPart::embedding;
    if (item.linear) {
      item.module.resize(item.module.size() - kWeight.size());
      item.n = t.shape[0], item.k = t.shape[1];
    }
    add(std::move(item));
  }
  std::vector<Item> take() { return std::move(items_); }

 private:
  std::string spelled(const std::string& canonical) const {
    constexpr std::string_view prefix = "language_model.";
    return text_only_ && canonical.starts_with(prefix) ? canonical.substr(prefix.size()) : canonical;
  }

  void add_experts(const ExpectedTensor& t, const Item& all) {
    const std::string prefix = spelled(t.name.substr(0, t.name.rfind('.') + 1));
    const std::vector<const char*> names = expert_projections(t.name);
    for (int64_t e = 0; e < t.shape[0]; ++e)
      for (size_t i = 0; i < names.size(); ++i) {
        Item item = all;
        item.module = cat(prefix, e, ".", names[i]);
        item.linear = true;
        item.expert = e;
        item.k = t.shape[1];
        item.n = t.shape[2] / int64_t(names.size());
        item.first_column = int64_t(i) * item.n;
        add(std::move(item));
      }
  }

  void add(Item item) {
    if (item.linear && may_quantize(item.part)) item.scheme = recipe_.scheme_of(item.part, item.module);
    if (item.scheme == Scheme::int4 && item.k % recipe_.group != 0)
      fail(ErrorKind::unsupported, item.module, ": ", item.k, " columns are no multiple of the group of ",
           recipe_.group, " (--group-size)");
    items_.push_back(std::move(item));
  }

  const Recipe& recipe_;
  bool text_only_;
  std::vector<Item> items_;
};

void check_rules(const std::vector<Item>& items, const Recipe& recipe) {
  for (const Rule& rule : recipe.rules) {
    bool any = false, useful = false;
    for (const Item& item : items) {
      if (!item.linear || !rule.matches(item.module)) continue;
      any = true;
      useful = useful || may_quantize(item.part) || rule.scheme() == Scheme::keep;
    }
    if (!any) fail(ErrorKind::usage, "--rule ", shown(rule.text()), ": matches no linear of the model");
    if (!useful)
      fail(ErrorKind::usage, "--rule ", shown(rule.text()),
           ": router, vision and projector stay as they are, and the rule matches nothing else");
  }
}

// What is one product in every engine must be in one format: the experts of a layer, q, k and v, gate and up.
std::string product_of(const Item& item) {
  const std::string& m = item.module;
  if (item.part == ModelPart::routed_experts) return m.substr(0, m.find(".experts.") + 9);
  const std::string stem = m.substr(0, m.rfind('.') + 1), last = m.substr(stem.size());
  if (last == "q_proj" || last == "k_proj" || last == "v_proj") return stem + "qkv";
  if (last == "gate_proj" || last == "up_proj") return stem + "gate_up";
  return m;
}

void check_products(const std::vector<Item>& items) {
  std::map<std::string, const Item*> first;
  for (const Item& item : items) {
    if (!item.linear || !may_quantize(item.part)) continue;
    const Item& other = *first.emplace(product_of(item), &item).first->second;
    if (other.scheme != item.scheme)
      fail(ErrorKind::usage, "--rule: ", other.module, " would be ", scheme_name(other.scheme), ", ", item.module, " ",
           scheme_name(item.scheme), ": engines multiply both at once and need one format");
  }
}

}  // namespace

void require_unquantized_source(const ModelConfig& config) {
  if (!config.quantization) return;
  std::string scheme;
  for (const char* key : {"quant_method", "format", "quant_algo"})
    if (const Json* value = config.quantization->find(key); value && value->is_string())
      scheme += cat(scheme.empty() ? "" : " ", shown(value->as_string()));
  fail(ErrorKind::unsupported, config.source, ": quantization_config: quantised already, as ",
       scheme.empty() ? "an unnamed scheme" : scheme, "; l4-convert starts from BF16, F16 or F32 weights");
}

std::vector<Item> list_items(const ModelConfig& config, const Recipe& recipe, bool text_only_names) {
  Lister lister(recipe, text_only_names);
  for (const ExpectedTensor& t : expected_tensors(config)) lister.add(t);
  std::vector<Item> items = lister.take();
  check_rules(items, recipe);
  check_products(items);
  if (std::none_of(items.begin(), items.end(), [](const Item& i) { return i.scheme != Scheme::keep; }))
    fail(ErrorKind::usage, "--preset ", recipe.preset, recipe.rules.empty() ? "" : " and the rules",
         ": nothing of this model would be quantised");
  return items;
}

uint64_t Plan::source_bytes_of(const Item& item) const {
  if (!item.is_transposed()) return item.info->bytes;
  return uint64_t(item.n) * uint64_t(item.k) * dtype_bytes(item.info->dtype);
}

uint64_t Plan::bytes_of(const Item& item) const {
  const std::vector<SafetensorsWriter::Tensor>& tensors = shards[item.shard].tensors;
  const size_t n_tensors = item.scheme == Scheme::int4 ? 3 : item.scheme == Scheme::fp8 ? 2 : 1;
  uint64_t sum = 0;
  for (size_t i = 0; i < n_tensors; ++i) {
    const SafetensorsWriter::Tensor& t = tensors[item.tensors[i]];
    sum += uint64_t(t.shape.elements()) * dtype_bytes(t.dtype);
  }
  return sum;
}

namespace {

std::vector<SafetensorsWriter::Tensor> tensors_of(const Item& item, int64_t group) {
  const int64_t n = item.n, k = item.k;
  switch (item.scheme) {
    case Scheme::fp8:
      return {{item.module + ".weight", DType::f8_e4m3, {n, k}}, {item.module + ".weight_scale", DType::bf16, {n, 1}}};
    case Scheme::int4:
      return {{item.module + ".weight_packed", DType::i32, {n, k / 8}},
              {item.module + ".weight_scale", DType::bf16, {n, k / group}},
              {item.module + ".weight_shape", DType::i64, {2}}};
    case Scheme::keep:
      break;
  }
  if (!item.linear) return {{item.module, item.info->dtype, item.info->shape}};
  return {{item.module + ".weight", item.info->dtype, {n, k}}};
}

// Fills files up to their size, what belongs together into one. Wide elements come first in a file, so that each lies
// at a multiple of its size.
void fill_shards(Plan& plan, uint64_t max_shard_bytes) {
  struct Slot {
    SafetensorsWriter::Tensor tensor;
    size_t item, which;
  };
  std::vector<std::vector<Slot>> slots;
  uint64_t left = 0;
  for (size_t i = 0; i < plan.items.size(); ++i) {
    const auto tensors = tensors_of(plan.items[i], plan.recipe.group);
    uint64_t bytes = 0;
    for (const auto& t : tensors) bytes += uint64_t(t.shape.elements()) * dtype_bytes(t.dtype);
    if (plan.shards.empty() || bytes > left) {
      plan.shards.emplace_back();
      slots.emplace_back();
      left = std::max(max_shard_bytes, bytes);
    }
    left -= bytes;
    plan.shards.back().bytes += bytes;
    plan.shards.back().items.push_back(i);
    plan.items[i].shard = plan.shards.size() - 1;
    for (size_t which = 0; which < tensors.size(); ++which) slots.back().push_back({tensors[which], i, which});
  }
  for (size_t s = 0; s < plan.shards.size(); ++s) {
    std::stable_sort(slots[s].begin(), slots[s].end(), [](const Slot& a, const Slot& b) {
      return dtype_bytes(a.tensor.dtype) > dtype_bytes(b.tensor.dtype);
    });
    for (const Slot& slot : slots[s]) {
      plan.items[slot.item].tensors[slot.which] = plan.shards[s].tensors.size();
      plan.shards[s].tensors.push_back(slot.tensor);
    }
    const auto five = [](size_t n) {
      const std::string digits = cat(n);
      return std::string(digits.size() < 5 ? 5 - digits.size() : 0, '0') + digits;
    };
    plan.shards[s].file_name = cat("model-", five(s + 1), "-of-", five(plan.shards.size()), ".safetensors");
    plan.bytes += plan.shards[s].bytes;
  }
}

}  // namespace

Plan make_plan(const HfCheckpoint& source, const ModelConfig& config, const Recipe& recipe, uint64_t max_shard_bytes) {
  recipe.check();
  require_unquantized_source(config);
  check_tensors(config, source);
  const bool text_only = source.find("language_model.model.embed_tokens.weight")->name.starts_with("model.");
  std::vector<Item> items = list_items(config, recipe, text_only);
  std::map<std::string, bool> used;
  for (Item& item : items) {
    item.info = source.find(item.source);
    used[item.source] = true;
  }
  for (const std::string& name : source.names()) {  // tables that some exporters save: they stay
    if (used.contains(name)) continue;
    Item item;
    item.info = source.find(name);
    item.module = item.info->name;
    item.source = name;
    item.part = ModelPart::text_norm;
    items.push_back(std::move(item));
  }
  Plan plan = make_plan(std::move(items), config, recipe, max_shard_bytes);
  plan.source_bytes = source.total_bytes();
  return plan;
}

Plan make_plan(std::vector<Item> items, const ModelConfig& config, const Recipe& recipe, uint64_t max_shard_bytes) {
  Plan plan;
  plan.recipe = recipe;
  plan.items = std::move(items);
  plan.quantization = quantization_config(plan.items, recipe, config);
  fill_shards(plan, max_shard_bytes);
  return plan;
}

Json index_json(const Plan& plan, const std::map<std::string, std::string>& more, uint64_t more_bytes) {
  std::map<std::string, std::string> files = more;
  uint64_t bytes = more_bytes;
  for (const OutputShard& shard : plan.shards) {
    bytes += shard.bytes;
    for (const SafetensorsWriter::Tensor& tensor : shard.tensors) files.emplace(tensor.name, shard.file_name);
  }
  Json::Object map;
  for (const auto& [tensor, file] : files) map.emplace_back(tensor, file);
  return Json::Object{{"metadata", Json::Object{{"total_size", int64_t(bytes)}}}, {"weight_map", std::move(map)}};
}

}  // namespace l4::convert
