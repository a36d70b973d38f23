#include "model/stored_weight.h"

#include <utility>

#include "base/error.h"

namespace l4 {

WeightFormat StoredWeight::held(DType activation) const {
  if (dtype == DType::f8_e4m3 && (scales == Scales::tensor || scales == Scales::row)) return WeightFormat::fp8;
  if (dtype == DType::i32 && !zero_points && !group_index) return WeightFormat::int4;
  if (is_quantized()) return WeightFormat::bf16;
  if (to_fp8) return WeightFormat::fp8;
  return activation == DType::f32 && dtype != DType::bf16 ? WeightFormat::f32 : WeightFormat::bf16;
}

uint64_t StoredWeight::bytes(int64_t n, int64_t k) const {
  constexpr uint64_t kScaleBytes = 2;
  const uint64_t rows = uint64_t(n), columns = uint64_t(k);
  const uint64_t codes = dtype == DType::i32 ? rows * columns / 2 : rows * columns * dtype_bytes(dtype);
  switch (scales) {
    case Scales::none:
    case Scales::tensor:
      return codes;
    case Scales::row:
      return codes + rows * kScaleBytes;
    case Scales::group:
      return codes + rows * (columns / uint64_t(group)) * kScaleBytes;
    case Scales::block:
      return codes + rows * columns / (kScaleBlock * kScaleBlock) * kScaleBytes;
  }
  fail(ErrorKind::internal, "no such scales");
}

StoredWeights quantized_at_load(StoredWeights stored, QuantizeAtLoad what) {
  if (!what.attention && !what.head) return stored;
  return [stored = std::move(stored), what](const std::string& name) {
    StoredWeight w = stored(name);
    const bool text = name.starts_with("language_model."), attention = name.find(".self_attn.") != std::string::npos;
    // With tied embeddings the head's weight is the embedding, which itself stays what it is.
    const bool head = name.ends_with("lm_head.weight") || name.ends_with("embed_tokens.weight");
    w.to_fp8 = text && !w.is_quantized() && ((what.attention && attention) || (what.head && head));
    if (w.to_fp8) w.input = InputFormat::fp8_token;
    return w;
  };
}

StoredNames stored_names(const std::string& weight, DType stored) {
  constexpr std::string_view kSuffix = ".weight";
  // ModelOpt's fused experts: "...gate_up_proj", "...gate_up_proj_weight_scale".
  if (!weight.ends_with(kSuffix))
    return {.weight = weight,
            .scale = weight + "_weight_scale",
            .zero_point = {},
            .group_index = {},
            .shape = {},
            .input_scale = weight + "_input_scale"};
  const std::string linear = weight.substr(0, weight.size() - kSuffix.size());
  return {.weight = stored == DType::i32 ? weight + "_packed" : weight,
          .scale = weight + "_scale",
          .zero_point = weight + "_zero_point",
          .group_index = weight + "_g_idx",
          .shape = weight + "_shape",
          .input_scale = linear + ".input_scale"};
}

std::vector<const char*> expert_projections(const std::string& fused) {
  if (fused.ends_with("down_proj")) return {"down_proj"};
  return {"gate_proj", "up_proj"};
}

std::string expert_weight(const std::string& fused, int64_t expert, const char* projection) {
  const size_t dot = fused.rfind('.');
  return cat(fused.substr(0, dot), ".", expert, ".", projection, ".weight");
}

}  // namespace l4
