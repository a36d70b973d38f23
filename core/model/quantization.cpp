#include "model/quantization.h"

#include "base/error.h"
#include "base/strings.h"
#include "formats/json_fields.h"

namespace l4 {

namespace {

[[noreturn]] void refuse(const ModelConfig& config, const std::string& what) {
  fail(ErrorKind::unsupported, config.source, ": quantization_config: ", what,
       "; this build loads BF16, F16, F32, compressed-tensors FP8 (per tensor, channel or block) and INT4 (pack-quantized) and "
       "ModelOpt FP8");
}

constexpr int64_t kMaxGroups = 100;  // of a config

// One config group's weights: 8-bit floats or 4-bit integers.
bool is_fp8(const ModelConfig& config, const JsonFields& weights) {
  const int64_t bits = weights.integer("num_bits", 8, 1, 64);
  const std::string type = weights.text("type", "int");
  if (type == "float" && bits == 8) return true;
  if (type == "int" && bits == 4) return false;
  refuse(config, cat("weights of ", bits, "-bit ", shown(type)));
}

// The inputs of a group of FP8 weights.
InputFormat input_of(const ModelConfig& config, const JsonFields& group, bool by_block) {
  if (!group.has("input_activations")) return InputFormat::as_is;
  const JsonFields input = group.object("input_activations");
  if (input.integer("num_bits", 8, 1, 64) != 8 || input.text("type", "int") != "float")
    refuse(config, cat("input activations of ", input.integer("num_bits", 8, 1, 64), "-bit ", shown(input.text("type", "int"))));
  // Weights in blocks are held as BF16, and inputs stay what they are.
  if (by_block) return InputFormat::as_is;
  if (!input.flag("dynamic", false)) return InputFormat::fp8_static;
  if (const std::string strategy = input.text("strategy", "token"); strategy != "token" && strategy != "tensor")
    refuse(config, cat("input activations by ", shown(strategy)));
  return InputFormat::fp8_token;
}

// kv_cache_scheme, the same in both methods' files.
void read_cache_scheme(const ModelConfig& config, const JsonFields& fields, Quantization& to) {
  if (!fields.has("kv_cache_scheme")) return;
  const JsonFields scheme = fields.object("kv_cache_scheme");
  const int64_t bits = scheme.integer("num_bits", 8, 1, 64);
  const std::string type = scheme.text("type", "float"), strategy = scheme.text("strategy", "tensor");
  if (bits != 8 || type != "float") refuse(config, cat("kv_cache_scheme: keys and values of ", bits, "-bit ", shown(type)));
  to.fp8_cache = true;
  to.cache_scales = !scheme.flag("dynamic", false);
  if (to.cache_scales && strategy != "tensor") refuse(config, cat("kv_cache_scheme: scales by ", shown(strategy)));
  if (!scheme.flag("symmetric", true)) refuse(config, "kv_cache_scheme: keys and values with zero points");
}

Quantization compressed_tensors(const ModelConfig& config, const JsonFields& fields) {
  static constexpr const char* kFormats[] = {"float-quantized", "pack-quantized", "mixed-precision", "naive-quantized"};
  auto check_format = [&](const std::string& format) {
    for (const char* known : kFormats)
      if (format == known) return;
    if (!format.empty()) refuse(config, cat("compressed-tensors format ", shown(format)));
  };
  check_format(fields.text("format", ""));
  if (fields.has("sparsity_config"))
    if (const JsonFields sparsity = fields.object("sparsity_config"); sparsity.text("format", "dense") != "dense")
      refuse(config, cat("sparse weights (", shown(sparsity.text("format", "dense")), ")"));

  Quantization quantization;
  std::optional<InputFormat> fp8_input;
  const JsonFields groups = fields.object("config_groups");
  const Json& all = *fields.find("config_groups");
  if (int64_t(all.as_object().size()) > kMaxGroups) groups.wrong("", cat("at most ", kMaxGroups, " groups"));
  for (const Json::Member& member : all.as_object()) {
    const JsonFields group = groups.object(member.first);
    check_format(group.text("format", ""));
    const JsonFields weights = group.object("weights");
    if (weights.flag("dynamic", false)) refuse(config, "weights that are quantised as they are used");
    if (!is_fp8(config, weights)) {
      if (group.has("input_activations")) refuse(config, "4-bit weights with quantised input activations");
      continue;
    }
    const InputFormat input = input_of(config, group, weights.text("strategy", "tensor") == "block");
    if (fp8_input && *fp8_input != input) refuse(config, "groups of FP8 weights that differ in their input activations");
    fp8_input = input;
  }
  if (fp8_input) quantization.fp8_input = *fp8_input;
  read_cache_scheme(config, fields, quantization);
  return quantization;
}

}  // namespace

std::optional<Quantization> read_quantization(const ModelConfig& config) {
  if (!config.quantization) return std::nullopt;
  const JsonFields fields(*config.quantization, config.source, "quantization_config.");
  const std::string method = fields.text("quant_method", "");
  if (method == "compressed-tensors") return compressed_tensors(config, fields);
  if (method == "modelopt") {
    const std::string algorithm = fields.text("quant_algo", "");
    if (algorithm != "FP8") refuse(config, cat("ModelOpt ", algorithm.empty() ? "of an unnamed kind" : shown(algorithm)));
    Quantization quantization{.fp8_input = InputFormat::fp8_static};
    read_cache_scheme(config, fields, quantization);
    if (const std::string cache = fields.text("kv_cache_quant_algo", ""); cache == "FP8")
      quantization.fp8_cache = quantization.cache_scales = true;
    else if (!cache.empty())
      refuse(config, cat("ModelOpt ", shown(cache), " for keys and values"));
    return quantization;
  }
  refuse(config, cat("weights quantised as ", method.empty() ? "an unnamed scheme" : shown(method)));
}

}  // namespace l4
