#include "model/config.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "formats/json_fields.h"

namespace l4 {

namespace {

constexpr uint64_t kMaxConfigBytes = 16 << 20;

// Bounds far beyond any Llama 4, small enough that no product of them overflows: the largest, all routed experts'
// parameters, is layers * experts * hidden * 3 * ffn < 2^55.
constexpr int64_t kMaxLayers = 512, kMaxHidden = 1 << 16, kMaxFfn = 1 << 18, kMaxExperts = 1024;
constexpr int64_t kMaxVocab = 1 << 24, kMaxHeads = 1024, kMaxHeadDim = 1024;
constexpr int64_t kMaxPositions = (int64_t(1) << 31) - 1;
constexpr int64_t kMaxImageSize = 1 << 14, kMaxPatch = 1 << 10;

// Takes transformers' defaults (5.17, configuration_llama4.py) for what a file leaves out, but not for the sizes that
// every file states and that a wrong file would otherwise get from nowhere.
constexpr std::optional<int64_t> kRequired = std::nullopt;

RopeConfig parse_rope(const JsonFields& text, int64_t max_positions) {
  RopeConfig rope;
  // transformers 4: "rope_theta" and "rope_scaling" (null: none). 5: both in "rope_parameters". An empty one counts as
  // none.
  double theta = text.number("rope_theta", rope.theta, 1, 1e12);
  std::string key;
  for (const char* candidate : {"rope_scaling", "rope_parameters"})
    if (const Json* value = text.find(candidate);
        key.empty() && value && !(value->is_object() && value->as_object().empty()))
      key = candidate;
  if (key.empty()) {
    rope.theta = theta;
    return rope;
  }
  JsonFields fields = text.object(key);
  rope.theta = fields.number("rope_theta", theta, 1, 1e12);
  if (fields.has("chunked_attention") || fields.has("full_attention"))
    fail(ErrorKind::unsupported, text.where(key), ": one set of values for each kind of layer is not supported");
  if (fields.number("partial_rotary_factor", 1.0, 0, 1) != 1.0)
    fail(ErrorKind::unsupported, fields.where("partial_rotary_factor"), ": only 1 is supported");
  std::string type = fields.text("rope_type", fields.text("type", "default"));
  if (type == "default") return rope;
  if (type != "llama3")
    fail(ErrorKind::unsupported, fields.where("rope_type"), ": expected \"default\" or \"llama3\", found ",
         shown(type));
  rope.scaled = true;
  rope.factor = fields.number("factor", std::nullopt, 1, 1e6);
  rope.low_freq_factor = fields.number("low_freq_factor", std::nullopt, 1e-6, 1e6);
  rope.high_freq_factor = fields.number("high_freq_factor", std::nullopt, 1e-6, 1e6);
  if (rope.high_freq_factor < rope.low_freq_factor) fields.wrong("high_freq_factor", "no less than low_freq_factor");
  rope.original_max_positions = fields.integer("original_max_position_embeddings", max_positions, 1, kMaxPositions);
  if (rope.factor == 8 && rope.high_freq_factor == 4)
    log_warning(text.where(key),
                ": factor 8 and high_freq_factor 4 are values of an early Scout base config; Meta's code has ",
                "16 and 1. The file is obeyed");
  return rope;
}

// Rotation, mask and MoE of every layer: three lists, each with a rule of its own where it is absent.
std::vector<LayerConfig> parse_layers(const JsonFields& text, int64_t n_layers) {
  std::vector<LayerConfig> layers(static_cast<size_t>(n_layers));

  int64_t interval = text.integer("no_rope_layer_interval", 4, 1, kMaxPositions);
  std::vector<int64_t> rope_flags;
  if (text.has("no_rope_layers")) rope_flags = text.integers("no_rope_layers", 0, 1);
  if (!rope_flags.empty() &&
      int64_t(rope_flags.size()) < n_layers)  // an empty list means the rule, as in released files
    fail_input(text.where("no_rope_layers"), ": expected ", n_layers, " flags, one a layer, found ", rope_flags.size());
  for (int64_t l = 0; l < n_layers; ++l)
    layers[size_t(l)].rope = rope_flags.empty() ? (l + 1) % interval != 0 : rope_flags[size_t(l)] == 1;

  for (LayerConfig& layer : layers) layer.attention = layer.rope ? AttentionKind::chunked : AttentionKind::global;
  if (const Json* types = text.find("layer_types")) {
    if (!types->is_array() || int64_t(types->as_array().size()) != n_layers)
      fail_input(text.where("layer_types"), ": expected a list of ", n_layers, " names, one a layer, found ",
                 types->is_array() ? cat(types->as_array().size()) : std::string(types->kind_name()));
    for (int64_t l = 0; l < n_layers; ++l) {
      const Json& type = types->as_array()[size_t(l)];
      std::string name = type.is_string() ? type.as_string() : type.kind_name();
      if (name != "chunked_attention" && name != "full_attention")
        fail_input(text.where("layer_types"), "[", l, "]: expected \"chunked_attention\" or \"full_attention\", found ",
                   shown(name));
      layers[size_t(l)].attention = name == "chunked_attention" ? AttentionKind::chunked : AttentionKind::global;
    }
  }

  int64_t step = text.integer("interleave_moe_layer_step", 1, 1, kMaxPositions);
  for (int64_t l = 0; l < n_layers; ++l) layers[size_t(l)].moe = (l + 1) % step == 0;
  if (text.has("moe_layers")) {  // an empty list means no MoE anywhere
    for (LayerConfig& layer : layers) layer.moe = false;
    for (int64_t l : text.integers("moe_layers", 0, n_layers - 1)) layers[size_t(l)].moe = true;
  }
  return layers;
}

TextConfig parse_text(const JsonFields& text) {
  TextConfig c;
  if (std::string type = text.text("model_type", "llama4_text"); type != "llama4_text")
    fail(ErrorKind::unsupported, text.where("model_type"), ": expected \"llama4_text\", found ", shown(type));
  c.vocab = text.integer("vocab_size", kRequired, 1, kMaxVocab);
  c.hidden = text.integer("hidden_size", kRequired, 1, kMaxHidden);
  c.n_layers = text.integer("num_hidden_layers", kRequired, 1, kMaxLayers);
  c.n_heads = text.integer("num_attention_heads", kRequired, 1, kMaxHeads);
  // Absent: transformers' default. null: derived from the others.
  c.n_kv_heads = text.integer("num_key_value_heads", text.is_null("num_key_value_heads") ? c.n_heads : 8, 1, kMaxHeads);
  if (c.n_heads % c.n_kv_heads != 0)
    text.wrong("num_key_value_heads", cat("a divisor of num_attention_heads ", c.n_heads));
  if (text.is_null("head_dim") && c.hidden % c.n_heads != 0)
    text.wrong("head_dim",
               cat("an integer, as hidden_size ", c.hidden, " is no multiple of num_attention_heads ", c.n_heads));
  c.head_dim = text.integer("head_dim", text.is_null("head_dim") ? c.hidden / c.n_heads : 128, 1, kMaxHeadDim);
  if (c.head_dim % 2 != 0) text.wrong("head_dim", "an even number, as RoPE turns pairs");
  c.ffn = text.integer("intermediate_size", kRequired, 1, kMaxFfn);
  c.dense_ffn = text.integer("intermediate_size_mlp", 16384, 1, kMaxFfn);
  c.layers = parse_layers(text, c.n_layers);

  bool any_moe = std::any_of(c.layers.begin(), c.layers.end(), [](const LayerConfig& l) { return l.moe; });
  c.n_experts = text.integer("num_local_experts", any_moe ? kRequired : std::optional<int64_t>(1), 1, kMaxExperts);
  c.n_experts_per_token = text.integer("num_experts_per_tok", 1, 1, c.n_experts);

  // null: no chunking (Llama-Guard-4). Absent: transformers' default.
  bool chunk_is_null = text.is_null("attention_chunk_size");
  c.attention_chunk = chunk_is_null ? 0 : text.integer("attention_chunk_size", 8192, 1, kMaxPositions);
  c.max_positions = text.integer("max_position_embeddings", 131072, 1, kMaxPositions);
  c.rms_eps = text.number("rms_norm_eps", 1e-5, 1e-20, 1);
  if (std::string act = text.text("hidden_act", "silu"); act != "silu")
    fail(ErrorKind::unsupported, text.where("hidden_act"), ": expected \"silu\", found ", shown(act));
  c.qk_norm = text.flag("use_qk_norm", true);
  c.attention_bias = text.flag("attention_bias", false);
  // transformers 4.51 wrote an integer here.
  const Json* tuning = text.find("attn_temperature_tuning");
  c.temperature_tuning =
      tuning && tuning->is_integer() ? tuning->as_integer() != 0 : text.flag("attn_temperature_tuning", true);
  c.floor_scale = text.number("floor_scale", 8192, 1, 1e12);
  c.attn_scale = text.number("attn_scale", 0.1, 0, 1e6);
  c.tied_embeddings = text.flag("tie_word_embeddings", false);
  c.rope = parse_rope(text, c.max_positions);
  return c;
}

// A size that transformers lets be a number or a pair; only squares are used.
int64_t parse_square(const JsonFields& fields, const char* key, std::optional<int64_t> otherwise, int64_t high) {
  if (!fields.has(key)) return fields.integer(key, otherwise, 1, high);
  std::vector<int64_t> sides = fields.integers(key, 1, high);
  if (sides.empty() || sides.size() > 2 || sides.front() != sides.back())
    fields.wrong(key, "one number or two equal ones");
  return sides[0];
}

VisionConfig parse_vision(const JsonFields& vision) {
  VisionConfig c;
  c.hidden = vision.integer("hidden_size", kRequired, 1, kMaxHidden);
  c.n_layers = vision.integer("num_hidden_layers", 34, 1, kMaxLayers);
  c.n_heads = vision.integer("num_attention_heads", 16, 1, kMaxHeads);
  c.ffn = vision.integer("intermediate_size", 5632, 1, kMaxFfn);
  c.image_size = parse_square(vision, "image_size", 448, kMaxImageSize);
  c.patch_size = parse_square(vision, "patch_size", 14, kMaxPatch);
  c.n_channels = vision.integer("num_channels", 3, 3, 3);
  c.projector_in = vision.integer("projector_input_dim", 4096, 1, kMaxHidden);
  c.projector_out = vision.integer("projector_output_dim", 4096, 1, kMaxHidden);
  c.output = vision.integer("vision_output_dim", 7680, 1, kMaxHidden);
  c.pixel_shuffle_ratio = vision.number("pixel_shuffle_ratio", 0.5, 0.125, 1);
  // norm_eps, hidden_act and multi_modal_projector_bias are read by nobody: transformers has LayerNorm's own eps, exact
  // GELU and no bias whatever they say.
  c.rope_theta = vision.number("rope_theta", 10000, 1, 1e12);
  if (vision.has("rope_parameters"))
    c.rope_theta = vision.object("rope_parameters").number("rope_theta", c.rope_theta, 1, 1e12);

  if (c.hidden % c.n_heads != 0) vision.wrong("num_attention_heads", cat("a divisor of hidden_size ", c.hidden));
  if (c.head_dim() % 4 != 0)
    vision.wrong("num_attention_heads",
                 cat("heads whose size is a multiple of 4, as 2-D RoPE needs (hidden_size is ", c.hidden, ")"));
  if (c.image_size % c.patch_size != 0) vision.wrong("image_size", cat("a multiple of patch_size ", c.patch_size));
  if (double(c.shuffle()) * c.pixel_shuffle_ratio != 1.0) vision.wrong("pixel_shuffle_ratio", "1, 0.5, 0.25 or 0.125");
  if (c.grid() % c.shuffle() != 0)
    vision.wrong("image_size",
                 cat("a number of patches a side that is a multiple of ", c.shuffle(), ", as pixel_shuffle_ratio ",
                     c.pixel_shuffle_ratio, " and patch_size ", c.patch_size, " ask"));
  if (c.ffn != c.hidden * c.shuffle() * c.shuffle())
    vision.wrong("intermediate_size",
                 cat("hidden_size / pixel_shuffle_ratio^2 = ", c.hidden * c.shuffle() * c.shuffle(),
                     ", as the adapter reads shuffled patches"));
  if (c.projector_in != c.projector_out)
    vision.wrong("projector_input_dim", cat("the same as projector_output_dim ", c.projector_out));
  if (c.output != c.projector_out)
    vision.wrong("vision_output_dim", cat("the same as projector_output_dim ", c.projector_out));
  return c;
}

// bos, pad: null, absent or -1 mean none.
int32_t parse_token(const JsonFields& fields, const char* key, int64_t vocab) {
  return int32_t(fields.integer(key, -1, -1, vocab - 1));
}

std::vector<int32_t> parse_eos(const JsonFields& fields, int64_t vocab) {
  std::vector<int32_t> ids;
  if (fields.has("eos_token_id"))
    for (int64_t id : fields.integers("eos_token_id", 0, vocab - 1)) ids.push_back(int32_t(id));
  return ids;
}

void check_architecture(const JsonFields& top, const std::string& model_type) {
  if (model_type != "llama4" && model_type != "llama4_text")
    fail(ErrorKind::unsupported, top.where("model_type"), ": expected \"llama4\" or \"llama4_text\", found ",
         model_type.empty() ? "nothing" : shown(model_type));
  const Json* architectures = top.find("architectures");
  if (!architectures) return;
  if (!architectures->is_array()) top.wrong("architectures", "a list of names");
  for (const Json& name : architectures->as_array()) {
    if (!name.is_string()) top.wrong("architectures", "a list of names");
    if (name.as_string() != "Llama4ForConditionalGeneration" && name.as_string() != "Llama4ForCausalLM")
      fail(ErrorKind::unsupported, top.where("architectures"),
           ": expected \"Llama4ForConditionalGeneration\" or \"Llama4ForCausalLM\", found ", shown(name.as_string()));
  }
}

}  // namespace

int64_t ModelConfig::n_layers_of(AttentionKind kind) const {
  return std::count_if(text.layers.begin(), text.layers.end(),
                       [&](const LayerConfig& l) { return l.attention == kind; });
}

ModelConfig parse_model_config(const Json& document, const std::string& source) {
  JsonFields top(document, source);
  std::string model_type = top.text("model_type", "");
  check_architecture(top, model_type);

  ModelConfig c;
  c.source = source;
  c.text_only_names = model_type == "llama4_text";
  JsonFields text = c.text_only_names ? top : top.object("text_config");
  c.text = parse_text(text);
  c.bos_id = parse_token(text, "bos_token_id", c.text.vocab);
  c.pad_id = parse_token(text, "pad_token_id", c.text.vocab);
  c.eos_ids = parse_eos(text, c.text.vocab);
  c.generation.eos_ids = c.eos_ids;
  if (!c.text_only_names) {
    c.vision = parse_vision(top.object("vision_config"));
    c.image_token_id = int32_t(top.integer("image_token_index", 200092, 0, c.text.vocab - 1));
    c.image_start_id = int32_t(top.integer("boi_token_index", 200080, 0, c.text.vocab - 1));
    c.image_end_id = int32_t(top.integer("eoi_token_index", 200081, 0, c.text.vocab - 1));
  }
  for (const JsonFields* fields : {&top, &text})
    for (const char* key : {"dtype", "torch_dtype"})  // transformers 5 and 4
      if (c.weights_dtype.empty()) c.weights_dtype = fields->text(key, "");
  for (const JsonFields* fields : {&top, &text})
    for (const char* key : {"quantization_config", "compression_config"})
      if (const Json* value = fields->find(key); value && !c.quantization) c.quantization = *value;
  return c;
}

void parse_generation_config(const Json& document, const std::string& source, ModelConfig& into) {
  JsonFields fields(document, source);
  GenerationConfig& g = into.generation;
  g.do_sample = fields.flag("do_sample", g.do_sample);
  g.temperature = float(fields.number("temperature", g.temperature, 0, 100));
  g.top_p = float(fields.number("top_p", g.top_p, 0, 1));
  g.min_p = float(fields.number("min_p", g.min_p, 0, 1));
  g.repetition_penalty = float(fields.number("repetition_penalty", g.repetition_penalty, 0.01, 100));
  g.top_k = fields.integer("top_k", g.top_k, 0, kMaxVocab);
  if (fields.has("eos_token_id")) g.eos_ids = parse_eos(fields, into.text.vocab);
}

ModelConfig load_model_config(const fs::path& path) {
  std::error_code ec;
  fs::path file = fs::is_directory(path, ec) ? path / "config.json" : path;
  auto parse_file = [](const fs::path& p) { return parse_json(read_file(p, kMaxConfigBytes), p.string()); };
  ModelConfig c = parse_model_config(parse_file(file), file.string());
  if (fs::path p = file.parent_path() / "generation_config.json"; fs::exists(p, ec))
    parse_generation_config(parse_file(p), p.string(), c);
  if (fs::path p = file.parent_path() / "hf_quant_config.json"; !c.quantization && fs::exists(p, ec)) {
    Json document = parse_file(p);
    const Json* scheme = document.find("quantization");
    if (!scheme || !scheme->is_object()) fail_input(p.string(), ": quantization: expected an object");
    c.quantization = *scheme;
    c.quantization->set("quant_method", "modelopt");
  }
  return c;
}

}  // namespace l4
