#include "model/synthetic.h"

#include <cmath>

#include "base/strings.h"
#include "model/weight_walk.h"

namespace l4 {

// ---- configs --------------------------------------------------------------------------------------------------------

namespace {

// Every fourth layer is NoPE and sees everything; every moe_step-th layer has experts.
void lay_out(TextConfig& text, int64_t n_layers, int64_t moe_step) {
  text.n_layers = n_layers;
  for (int64_t l = 0; l < n_layers; ++l) {
    const bool global = (l + 1) % 4 == 0;
    text.layers.push_back({.attention = global ? AttentionKind::global : AttentionKind::chunked,
                           .rope = !global,
                           .moe = (l + 1) % moe_step == 0});
  }
}

// What Scout and Maverick share.
ModelConfig released() {
  ModelConfig c;
  TextConfig& t = c.text;
  t.vocab = 202048, t.hidden = 5120;
  t.n_heads = 40, t.n_kv_heads = 8, t.head_dim = 128;
  t.ffn = 8192, t.dense_ffn = 16384;
  t.attention_chunk = 8192;
  VisionConfig v;
  v.hidden = 1408, v.n_layers = 34, v.n_heads = 16, v.ffn = 5632;
  v.projector_in = v.projector_out = v.output = 4096;
  c.vision = v;
  c.bos_id = 200000, c.pad_id = 200018;
  c.eos_ids = {200001, 200007, 200008};
  c.image_token_id = 200092, c.image_start_id = 200080, c.image_end_id = 200081;
  c.weights_dtype = "bfloat16";
  return c;
}

ModelConfig scout() {
  ModelConfig c = released();
  c.text.n_experts = 16;
  c.text.max_positions = 10485760;
  c.text.qk_norm = true;
  c.text.rope.scaled = true;
  c.text.rope.factor = 16;
  lay_out(c.text, 48, 1);
  return c;
}

ModelConfig maverick() {
  ModelConfig c = released();
  c.text.n_experts = 128;
  c.text.max_positions = 1048576;
  c.text.qk_norm = false;
  lay_out(c.text, 48, 2);
  return c;
}

ModelConfig tiny() {
  ModelConfig c = scout();
  TextConfig& t = c.text;
  t.vocab = 2048, t.hidden = 256;
  t.n_heads = 4, t.n_kv_heads = 2, t.head_dim = 64;
  t.ffn = 512, t.dense_ffn = 1024;
  t.attention_chunk = 512, t.max_positions = 1 << 20;
  t.layers.clear();
  lay_out(t, 4, 1);
  c.vision.reset();
  c.bos_id = 0, c.pad_id = -1, c.eos_ids = {1};
  c.image_token_id = c.image_start_id = c.image_end_id = -1;
  return c;
}

}  // namespace

ModelConfig synthetic_config(std::string_view name) {
  ModelConfig config;
  if (name == "scout")
    config = scout();
  else if (name == "maverick")
    config = maverick();
  else if (name == "tiny")
    config = tiny();
  else
    fail(ErrorKind::usage, "a synthetic model is scout, maverick or tiny, not ", shown(name));
  config.source = cat("synthetic ", name);
  return config;
}

void keep_layers(ModelConfig& config, int64_t n_layers) {
  TextConfig& t = config.text;
  if (n_layers < 1 || n_layers > t.n_layers)
    fail(ErrorKind::usage, config.source, " has 1 to ", t.n_layers, " layers, not ", n_layers);
  t.n_layers = n_layers;
  t.layers.resize(size_t(n_layers));
}

// ---- formats --------------------------------------------------------------------------------------------------------

namespace {

struct NamedFormat {
  const char* name;
  WeightFormat attention, shared, routed, head;
};
constexpr WeightFormat kB = WeightFormat::bf16, k8 = WeightFormat::fp8, k4 = WeightFormat::int4;
constexpr NamedFormat kFormats[] = {{"bf16", kB, kB, kB, kB},    {"fp8", k8, k8, k8, kB},
                                    {"fp8-ffn", kB, k8, k8, kB}, {"fp8-experts", kB, kB, k8, kB},
                                    {"int4", k4, k4, k4, kB},    {"int4-ffn", kB, k4, k4, kB},
                                    {"int4-mix", k8, k4, k4, k8}};

}  // namespace

const std::vector<std::string>& synthetic_format_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> list;
    for (const NamedFormat& format : kFormats) list.emplace_back(format.name);
    return list;
  }();
  return names;
}

SyntheticFormat synthetic_format(std::string_view name, int64_t group) {
  for (const NamedFormat& f : kFormats)
    if (name == f.name) return {f.attention, f.shared, f.routed, f.head, group};
  fail(ErrorKind::usage, "expected ", join(synthetic_format_names(), ", "), ", found ", shown(name));
}

WeightFormat SyntheticFormat::of(ModelPart part) const {
  switch (part) {
    case ModelPart::attention:
      return attention;
    case ModelPart::shared_expert:
    case ModelPart::dense_ffn:
      return shared;
    case ModelPart::routed_experts:
      return routed;
    case ModelPart::lm_head:
      return head;
    default:
      return WeightFormat::bf16;
  }
}

// ---- weights --------------------------------------------------------------------------------------------------------

namespace {

uint64_t hash_name(std::string_view name) {  // FNV-1a
  uint64_t h = 0xCBF29CE484222325ull;
  for (const char c : name) h = (h ^ uint8_t(c)) * 0x100000001B3ull;
  return h;
}

class Maker {
 public:
  using Tensors = std::map<std::string, ExpectedTensor, std::less<>>;

  Maker(const Tensors& tensors, const SyntheticWeights& source, uint64_t seed, Backend& backend, DType activation,
        const std::function<void(uint64_t)>& on_bytes)
      : tensors_(tensors),
        source_(source),
        seed_(seed),
        backend_(backend),
        activation_(activation),
        on_bytes_(on_bytes) {}

  void operator()(const char* part, const TensorPlan& plan, Tensor& into) {
    if (plan.tensor.empty()) return;
    into.view = {nullptr, activation_, plan.shape};
    into.buffer = backend_.allocate(into.view.bytes(), plan.tensor.c_str());
    into.view.data = into.buffer.data();
    const bool is_embedding = std::string_view(part) == "embedding", is_bias = plan.tensor.ends_with(".bias");
    const RandomTensor tensor = is_embedding ? of_variance(plan.tensor, 1) : around(plan.tensor, is_bias ? 0 : 1);
    backend_.fill_random(into.view, tensor, plan.rows.begin * into.view.cols());
    on_bytes_(uint64_t(into.view.elements()) * dtype_bytes(DType::bf16));
  }

  void operator()(const char*, const LinearPlan& plan, PackedWeight& into) {
    if (plan.spec.n == 0) return;
    std::vector<RandomSlice> weight, bias;
    uint64_t bytes = 0;
    for (const SlicePlan& s : plan.weight) {
      const Shape& whole = shape(s.tensor);
      const RandomTensor tensor = of_variance(s.tensor, 1.0 / double(whole[1]));  // [out, in] and [E, in, out] alike
      const Range experts = s.fused_experts ? plan.experts : Range{0, 1};
      for (int64_t e = experts.begin; e < experts.end; ++e) {
        const int64_t n_stride = s.fused_experts ? 1 : whole[1], k_stride = s.fused_experts ? whole[2] : 1;
        const int64_t expert = s.fused_experts ? e * whole[1] * whole[2] : 0;
        weight.push_back({place(s), expert + s.n.begin * n_stride + s.k.begin * k_stride, tensor});
        WeightSlice& at = weight.back().at;
        at.n_stride = n_stride, at.k_stride = k_stride;
        at.expert = e - experts.begin;
      }
      bytes += uint64_t(experts.size()) * source_.stored(s.tensor).bytes(s.n.size(), s.k.size());
    }
    for (const SlicePlan& s : plan.bias) {
      bias.push_back({place(s), s.n.begin, around(s.tensor, 0)});
      bias.back().at.n_stride = 1;
      bytes += uint64_t(s.n.size()) * dtype_bytes(DType::bf16);
    }
    into = backend_.pack_random(plan.spec, weight, bias);
    on_bytes_(bytes);
  }

 private:
  static WeightSlice place(const SlicePlan& s) {
    return {.dtype = DType::bf16, .n = s.n.size(), .k = s.k.size(), .n_offset = s.n_offset};
  }
  const Shape& shape(const std::string& name) const {
    const auto found = tensors_.find(name);
    L4_CHECK(found != tensors_.end(), name);
    return found->second.shape;
  }
  uint64_t key(std::string_view name) const { return sample_mix(seed_ + hash_name(name)); }
  RandomTensor of_variance(std::string_view name, double variance) const {
    return {key(name), 0, float(std::sqrt(3 * variance))};
  }
  RandomTensor around(std::string_view name, float centre) const { return {key(name), centre, 0.125f}; }

  const Tensors& tensors_;
  const SyntheticWeights& source_;
  const uint64_t seed_;
  Backend& backend_;
  const DType activation_;
  const std::function<void(uint64_t)>& on_bytes_;
};

}  // namespace

SyntheticWeights::SyntheticWeights(const ModelConfig& config, uint64_t seed, const SyntheticFormat& format)
    : seed_(seed), format_(format) {
  for (const ExpectedTensor& tensor : expected_tensors(config)) {
    // [out, in], of fused experts [E, in, out]
    if (format.of(tensor.part) == WeightFormat::int4 && tensor.shape.rank() > 1 && tensor.shape[1] % format.group != 0)
      fail(ErrorKind::unsupported, config.source, ": ", tensor.name, ": ", tensor.shape[1],
           " columns are no multiple of the group of ", format.group);
    tensors_.emplace(tensor.name, tensor);
  }
}

StoredWeight SyntheticWeights::stored(const std::string& name) const {
  const auto found = tensors_.find(name);
  L4_CHECK(found != tensors_.end(), name);
  StoredWeight w;
  w.dtype = DType::bf16;
  if (found->second.shape.rank() < 2) return w;  // biases
  switch (format_.of(found->second.part)) {
    case WeightFormat::fp8:
      w.dtype = DType::f8_e4m3, w.scales = StoredWeight::Scales::row, w.input = InputFormat::fp8_token;
      break;
    case WeightFormat::int4:
      w.dtype = DType::i32, w.scales = StoredWeight::Scales::group, w.group = format_.group;
      break;
    default:
      break;
  }
  return w;
}

Weights SyntheticWeights::load(const WeightPlan& plan, Backend& backend, DType activation,
                               const std::function<void(uint64_t)>& on_bytes) const {
  Weights weights = empty_weights(plan);
  for_each_weight(plan, weights, Maker(tensors_, *this, seed_, backend, activation, on_bytes));
  return weights;
}

}  // namespace l4
