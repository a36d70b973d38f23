// Checkpoints of a tiny model whose linears are random codes and scales, stored in every way that is loaded, and what they mean.
#pragma once

#include <algorithm>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "formats/hf_checkpoint.h"
#include "model/kv_scales.h"
#include "model/stored_weight.h"
#include "model/tensor_names.h"
#include "quant/fp8.h"

namespace l4::test {

constexpr int64_t kQuantizedHidden = 256, kQuantizedFfn = 128;

inline ModelConfig quantized_config(const std::string& quantization, int64_t head_dim = 32) {
  return parse_model_config(
      parse_json(cat(R"({"model_type": "llama4_text", "vocab_size": 64, "hidden_size": )", kQuantizedHidden,
                     R"(, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": )",
                     head_dim, R"(, "intermediate_size": )", kQuantizedFfn, R"(, "intermediate_size_mlp": 256, "num_local_experts": 2, "interleave_moe_layer_step": 2,
      "quantization_config": )",
                     quantization, "}"),
                 "tiny/config.json"),
      "tiny/config.json");
}
// How its linears are stored.
enum class How { fp8_row, fp8_tensor, fp8_block, int4, int4_zeros, int4_index, modelopt };

struct Stored {
  DType dtype;
  Shape shape;
  std::vector<std::byte> bytes;
};

// A checkpoint of random codes and scales, and what they mean.
struct QuantizedCheckpoint {
  ModelConfig config;
  std::map<std::string, Stored> tensors;
  std::map<std::string, std::vector<float>> meaning;  // of linears [out, in], by the name of their weight
  std::mt19937 random{7};

  // quantize_inputs: of FP8, by compressed-tensors.
  explicit QuantizedCheckpoint(How how, bool quantize_inputs = true, int64_t head_dim = 32)
      : config(quantized_config(scheme(how, quantize_inputs), head_dim)) {
    for (const ExpectedTensor& t : expected_tensors(config)) {
      const bool quantized = t.part != ModelPart::embedding && t.part != ModelPart::router && t.part != ModelPart::lm_head &&
                             t.shape.rank() >= 2;
      if (!quantized) {
        plain(t.name, t.shape);
      } else if (t.shape.rank() == 2) {
        linear(t.name, t.shape[0], t.shape[1], how);
      } else if (how == How::modelopt) {
        fused(t.name, t.shape);
      } else {
        const bool down = t.name.ends_with("down_proj");
        const std::vector<const char*> projections = expert_projections(t.name);
        for (int64_t e = 0; e < t.shape[0]; ++e)
          for (const char* projection : projections)
            linear(expert_weight(t.name, e, projection), down ? t.shape[2] : t.shape[2] / 2, t.shape[1], how);
      }
    }
  }

  static std::string scheme(How how, bool quantize_inputs) {
    if (how == How::modelopt) return R"({"quant_method": "modelopt", "quant_algo": "FP8"})";
    if (how >= How::int4)
      return R"({"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"g": {"weights":
        {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}}}})";
    return cat(R"({"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": {"g": {"weights":
        {"num_bits": 8, "type": "float"}, "input_activations": )",
               quantize_inputs ? R"({"num_bits": 8, "type": "float", "dynamic": true, "strategy": "token"})" : "null", "}}}");
  }

  template <class T>
  T* add(const std::string& name, DType dtype, Shape shape) {
    Stored& s = tensors[name];
    s = {dtype, shape, std::vector<std::byte>(size_t(shape.elements()) * dtype_bytes(dtype))};
    return reinterpret_cast<T*>(s.bytes.data());
  }
  int below(int n) { return int(random() % unsigned(n)); }
  float some_scale() { return float(1 + below(15)) / 1024; }  // exact in BF16

  void plain(const std::string& name, Shape shape) {
    BFloat16* to = add<BFloat16>(name, DType::bf16, shape);
    std::vector<float>& want = meaning[name];
    for (int64_t i = 0; i < shape.elements(); ++i) want.push_back(float(below(255) - 127) / 128), to[i] = to_bf16(want.back());
  }
  void linear(const std::string& name, int64_t out, int64_t in, How how) {
    if (how >= How::int4 && how <= How::int4_index) return int4(name, out, in, how);
    const StoredNames names = stored_names(name, DType::f8_e4m3);
    uint8_t* codes = add<uint8_t>(name, DType::f8_e4m3, {out, in});
    std::vector<float>& want = meaning[name];
    const int64_t blocks = in / kScaleBlock;
    const Shape shape = how == How::fp8_row ? Shape{out, 1} : how == How::fp8_block ? Shape{out / kScaleBlock, blocks} : Shape{};
    std::vector<float> scales;
    if (how == How::fp8_block && out % kScaleBlock != 0) return linear(name, out, in, How::fp8_row);
    BFloat16* scale = add<BFloat16>(names.scale, DType::bf16, shape);
    for (int64_t i = 0; i < shape.elements(); ++i) scales.push_back(some_scale()), scale[i] = to_bf16(scales.back());
    if (how == How::modelopt) *add<float>(names.input_scale, DType::f32, {}) = 0.5f + float(below(8));
    for (int64_t n = 0; n < out; ++n)
      for (int64_t k = 0; k < in; ++k) {
        const uint8_t code = uint8_t(below(127) | below(2) << 7);
        codes[n * in + k] = code;
        const int64_t i = how == How::fp8_row ? n : how == How::fp8_block ? n / kScaleBlock * blocks + k / kScaleBlock : 0;
        want.push_back(fp8_to_float(code) * scales[size_t(i)]);
      }
  }
  void int4(const std::string& name, int64_t out, int64_t in, How how) {
    constexpr int64_t kGroup = 32;
    const StoredNames names = stored_names(name, DType::i32);
    const int64_t groups = in / kGroup;
    uint32_t* words = add<uint32_t>(names.weight, DType::i32, {out, in / 8});
    BFloat16* scale = add<BFloat16>(names.scale, DType::bf16, {out, groups});
    int64_t* shape = add<int64_t>(names.shape, DType::i64, {2});
    shape[0] = out, shape[1] = in;
    uint32_t* zeros = how == How::int4_zeros ? add<uint32_t>(names.zero_point, DType::i32, {out / 8, groups}) : nullptr;
    int32_t* index = how == How::int4_index ? add<int32_t>(names.group_index, DType::i32, {in}) : nullptr;
    std::vector<int> group_of;
    for (int64_t k = 0; k < in; ++k) group_of.push_back(int(k / kGroup));
    if (index) std::shuffle(group_of.begin(), group_of.end(), random);
    for (int64_t k = 0; index && k < in; ++k) index[k] = group_of[size_t(k)];
    std::vector<float>& want = meaning[name];
    for (int64_t n = 0; n < out; ++n) {
      std::vector<int> zero;
      for (int64_t g = 0; g < groups; ++g) {
        scale[n * groups + g] = to_bf16(some_scale());
        zero.push_back(zeros ? below(16) : 8);
        if (zeros) zeros[n / 8 * groups + g] |= uint32_t(zero.back()) << (n % 8 * 4);
      }
      for (int64_t k = 0; k < in; ++k) {
        const int code = below(16), g = group_of[size_t(k)];
        words[n * in / 8 + k / 8] |= uint32_t(code) << (k % 8 * 4);
        want.push_back(float(code - zero[size_t(g)]) * to_float(scale[n * groups + g]));
      }
    }
  }
  // ModelOpt: [E, in, out] codes, one scale.
  void fused(const std::string& name, Shape shape) {
    const StoredNames names = stored_names(name, DType::f8_e4m3);
    uint8_t* codes = add<uint8_t>(name, DType::f8_e4m3, shape);
    const float scale = some_scale();
    *add<float>(names.scale, DType::f32, {1}) = scale;
    *add<float>(names.input_scale, DType::f32, {1}) = 2.0f;
    std::vector<float>& want = meaning[name];
    for (int64_t i = 0; i < shape.elements(); ++i) want.push_back(fp8_to_float(codes[i] = uint8_t(below(127))) * scale);
  }

  // Says that keys and values are kept in FP8, and adds a scale for each layer's, under names of each kind.
  void add_cache_scales() {
    config.quantization->set("kv_cache_scheme",
                             parse_json(R"({"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": false})", "test"));
    for (int64_t layer = 0; layer < config.text.n_layers; ++layer)
      for (const bool is_value : {false, true})
        *add<float>(kv_scale_names(layer, is_value)[size_t(layer) % 3], DType::f32, {1}) = float(3 + layer) / (is_value ? 4 : 64);
  }

  // The same weights in the unquantised layout, in float32.
  QuantizedCheckpoint widened() const {
    QuantizedCheckpoint out = *this;
    out.tensors.clear();
    out.config.quantization.reset();
    for (const ExpectedTensor& t : expected_tensors(config)) {
      float* to = out.add<float>(t.name, DType::f32, t.shape);
      const auto whole = meaning.find(t.name);
      if (whole != meaning.end()) {
        std::copy(whole->second.begin(), whole->second.end(), to);
        continue;
      }
      const bool down = t.name.ends_with("down_proj");
      const int64_t in = t.shape[1], width = t.shape[2], f = down ? width : width / 2;
      for (int64_t e = 0; e < t.shape[0]; ++e)
        for (int64_t k = 0; k < in; ++k)
          for (int64_t n = 0; n < width; ++n)
            to[(e * in + k) * width + n] = meaning.at(expert_weight(
                t.name, e, down ? "down_proj" : n < f ? "gate_proj" : "up_proj"))[size_t(n % f * in + k)];
    }
    return out;
  }

  void write(const fs::path& path) const {
    std::vector<std::pair<std::string, const Stored*>> order;
    for (const auto& [name, stored] : tensors) order.push_back({name, &stored});
    std::stable_sort(order.begin(), order.end(),
                     [](const auto& a, const auto& b) { return dtype_bytes(a.second->dtype) > dtype_bytes(b.second->dtype); });
    std::vector<SafetensorsWriter::Tensor> list;
    for (const auto& [name, stored] : order) list.push_back({name, stored->dtype, stored->shape});
    SafetensorsWriter out(path, list);
    for (const auto& [name, stored] : order) out.write(stored->bytes);
    out.finish();
  }
};

}  // namespace l4::test
