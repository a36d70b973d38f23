#include "model/config.h"

#include <cmath>
#include <random>

#include "base/file.h"
#include "base/log.h"
#include "support/capture.h"
#include "support/test.h"

using namespace l4;
using l4::test::error_of;
using l4::test::shared_data;
using l4::test::stderr_of;
using l4::test::TempDir;

namespace {

constexpr const char* kScout = "config/meta-llama--Llama-4-Scout-17B-16E-Instruct";
constexpr const char* kMaverick = "config/meta-llama--Llama-4-Maverick-17B-128E-Instruct/config.assembled.json";

// A small model with every field stated, as transformers 4 wrote them.
const char* const kTiny = R"({
  "architectures": ["Llama4ForConditionalGeneration"], "model_type": "llama4",
  "image_token_index": 290, "boi_token_index": 291, "eoi_token_index": 292, "torch_dtype": "bfloat16",
  "text_config": {
    "model_type": "llama4_text", "vocab_size": 300, "hidden_size": 64, "num_hidden_layers": 8,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 48,
    "intermediate_size_mlp": 96, "num_local_experts": 4, "num_experts_per_tok": 2, "interleave_moe_layer_step": 2,
    "attention_chunk_size": 8, "floor_scale": 4, "attn_scale": 0.2, "max_position_embeddings": 128,
    "no_rope_layers": [], "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "rope_scaling": null, "hidden_act": "silu",
    "use_qk_norm": false, "bos_token_id": 0, "eos_token_id": [1, 2], "pad_token_id": 3},
  "vision_config": {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128, "image_size": 56,
    "patch_size": 14, "projector_input_dim": 40, "projector_output_dim": 40, "vision_output_dim": 40,
    "pixel_shuffle_ratio": 0.5, "rope_theta": 10000}})";

Json tiny() {
  return parse_json(kTiny, "tiny");
}

// The member at "text_config.hidden_size" of `document`, made where it is absent.
Json& at(Json& document, const std::string& path) {
  Json* value = &document;
  for (const std::string& key : split(path, '.')) {
    if (!value->find(key)) value->set(key, Json());
    value = const_cast<Json*>(value->find(key));
  }
  return *value;
}
void remove(Json& document, const std::string& path) {
  size_t dot = path.rfind('.');
  Json& parent = dot == std::string::npos ? document : at(document, path.substr(0, dot));
  std::string key = dot == std::string::npos ? path : path.substr(dot + 1);
  std::erase_if(parent.as_object(), [&](const Json::Member& m) { return m.first == key; });
}
ModelConfig with(const std::string& path, Json value) {
  Json document = tiny();
  at(document, path) = std::move(value);
  return parse_model_config(document, "f/config.json");
}
ModelConfig without(const std::string& path) {
  Json document = tiny();
  remove(document, path);
  return parse_model_config(document, "f/config.json");
}
Json list(std::initializer_list<int> values) {
  Json out = Json(Json::Array{});
  for (int v : values) out.push_back(v);
  return out;
}
Json names(const std::vector<std::string>& values) {
  Json out = Json(Json::Array{});
  for (const std::string& v : values) out.push_back(v);
  return out;
}

template <class Get>
std::string flags(const ModelConfig& c, Get get) {
  std::string out;
  for (const LayerConfig& layer : c.text.layers) out += get(layer) ? '1' : '0';
  return out;
}
std::string rope_flags(const ModelConfig& c) {
  return flags(c, [](const LayerConfig& l) { return l.rope; });
}
std::string chunk_flags(const ModelConfig& c) {
  return flags(c, [](const LayerConfig& l) { return l.attention == AttentionKind::chunked; });
}
std::string moe_flags(const ModelConfig& c) {
  return flags(c, [](const LayerConfig& l) { return l.moe; });
}

}  // namespace

TEST_CASE("config: the official Scout config") {
  ModelConfig c = load_model_config(shared_data(kScout));
  const TextConfig& t = c.text;
  CHECK(t.vocab == 202048);
  CHECK(t.hidden == 5120);
  CHECK(t.n_layers == 48);
  CHECK(t.n_heads == 40);
  CHECK(t.n_kv_heads == 8);
  CHECK(t.head_dim == 128);
  CHECK(t.ffn == 8192);
  CHECK(t.n_experts == 16);
  CHECK(t.n_experts_per_token == 1);
  CHECK(t.attention_chunk == 8192);
  CHECK(t.max_positions == 10485760);
  CHECK(t.qk_norm);
  CHECK(t.temperature_tuning);
  CHECK(t.floor_scale == 8192);
  CHECK(t.attn_scale == 0.1);
  CHECK_FALSE(t.tied_embeddings);
  CHECK(t.rope.scaled);
  CHECK(t.rope.theta == 500000);
  CHECK(t.rope.factor == 16);
  CHECK(t.rope.low_freq_factor == 1);
  CHECK(t.rope.high_freq_factor == 1);
  CHECK(t.rope.original_max_positions == 8192);
  REQUIRE(t.layers.size() == 48);
  for (size_t l = 0; l < 48; ++l) {
    CHECK(t.layers[l].moe);
    CHECK(t.layers[l].rope == (l % 4 != 3));
    CHECK((t.layers[l].attention == AttentionKind::chunked) == (l % 4 != 3));
  }
  CHECK(c.n_layers_of(AttentionKind::chunked) == 36);
  CHECK(c.n_layers_of(AttentionKind::global) == 12);
  REQUIRE(c.vision);
  CHECK(c.vision->hidden == 1408);
  CHECK(c.vision->head_dim() == 88);
  CHECK(c.vision->patches() == 576);
  CHECK(c.vision->tokens_per_tile() == 144);
  CHECK(c.vision->output == 4096);
  CHECK(c.bos_id == 200000);
  CHECK(c.pad_id == 200018);
  CHECK(c.eos_ids == std::vector<int32_t>{200001, 200007, 200008});
  CHECK(c.image_token_id == 200092);
  CHECK(c.image_start_id == 200080);
  CHECK(c.image_end_id == 200081);
  CHECK(c.weights_dtype == "bfloat16");
  CHECK(c.generation.do_sample);
  CHECK(c.generation.temperature == 0.6f);
  CHECK(c.generation.top_p == 0.9f);
  CHECK(c.generation.top_k == 0);
  CHECK(c.generation.eos_ids == c.eos_ids);
  CHECK_FALSE(c.quantization);
  CHECK_FALSE(c.quantization);
}

TEST_CASE("config: Maverick is dense on even layers, has neither QK norm nor RoPE scaling") {
  ModelConfig c = load_model_config(shared_data(kMaverick));
  CHECK(c.text.n_experts == 128);
  CHECK(c.text.max_positions == 1048576);
  CHECK_FALSE(c.text.qk_norm);
  CHECK_FALSE(c.text.rope.scaled);
  CHECK(c.text.rope.theta == 500000);
  for (size_t l = 0; l < 48; ++l) CHECK(c.text.layers[l].moe == (l % 2 == 1));
}

TEST_CASE("config: a condensed copy of Maverick's config gets transformers' defaults") {
  ModelConfig full = load_model_config(shared_data(kMaverick));
  ModelConfig c = load_model_config(
      shared_data("config/meta-llama--Llama-4-Maverick-17B-128E-Instruct/config.condensed.aiconfigurator.json"));
  CHECK(rope_flags(c) == rope_flags(full));
  CHECK(moe_flags(c) == moe_flags(full));
  CHECK(c.text.dense_ffn == full.text.dense_ffn);
  CHECK(c.bos_id == -1);
  CHECK(c.eos_ids.empty());
}

TEST_CASE("config: transformers 5 style says the same as transformers 4 style") {
  ModelConfig v4 = parse_model_config(tiny(), "f");
  Json document = tiny();
  remove(document, "text_config.rope_theta");
  remove(document, "text_config.rope_scaling");
  remove(document, "text_config.interleave_moe_layer_step");
  remove(document, "torch_dtype");
  remove(document, "vision_config.rope_theta");
  at(document, "text_config.rope_parameters.rope_theta") = 10000.0;
  at(document, "text_config.rope_parameters.rope_type") = "default";
  at(document, "vision_config.rope_parameters.rope_theta") = 10000.0;
  at(document, "text_config.no_rope_layers") = list({1, 1, 1, 0, 1, 1, 1, 0});
  at(document, "text_config.moe_layers") = list({1, 3, 5, 7});
  at(document, "text_config.layer_types") =
      names({"chunked_attention", "chunked_attention", "chunked_attention", "full_attention", "chunked_attention",
             "chunked_attention", "chunked_attention", "full_attention"});
  at(document, "dtype") = "bfloat16";
  ModelConfig v5 = parse_model_config(document, "f");
  CHECK(v5.text.rope.theta == v4.text.rope.theta);
  CHECK(v5.vision->rope_theta == v4.vision->rope_theta);
  CHECK(v5.text.rope.scaled == v4.text.rope.scaled);
  CHECK(rope_flags(v5) == rope_flags(v4));
  CHECK(chunk_flags(v5) == chunk_flags(v4));
  CHECK(moe_flags(v5) == moe_flags(v4));
  CHECK(v5.weights_dtype == v4.weights_dtype);
}

TEST_CASE("config: rotation, mask and MoE are three independent lists") {
  CHECK(rope_flags(with("text_config.no_rope_layers", list({}))) == "11101110");
  CHECK(rope_flags(with("text_config.no_rope_layers", nullptr)) == "11101110");
  CHECK(rope_flags(without("text_config.no_rope_layers")) == "11101110");
  CHECK(rope_flags(with("text_config.no_rope_layer_interval", 3)) == "11011011");
  CHECK(rope_flags(with("text_config.no_rope_layer_interval", 1)) == "00000000");

  ModelConfig c = with("text_config.no_rope_layers", list({0, 1, 1, 1, 1, 1, 1, 0}));
  CHECK(rope_flags(c) == "01111110");
  CHECK(chunk_flags(c) == "01111110");  // follows the rotation where layer_types is absent
  CHECK(moe_flags(c) == "01010101");

  Json document = tiny();
  at(document, "text_config.layer_types") =
      names({"full_attention", "chunked_attention", "full_attention", "chunked_attention", "full_attention",
             "chunked_attention", "full_attention", "chunked_attention"});
  c = parse_model_config(document, "f");
  CHECK(rope_flags(c) == "11101110");
  CHECK(chunk_flags(c) == "01010101");

  CHECK(moe_flags(with("text_config.moe_layers", list({}))) == "00000000");
  CHECK(moe_flags(with("text_config.moe_layers", nullptr)) == "01010101");
  CHECK(moe_flags(with("text_config.moe_layers", list({0, 6}))) == "10000010");
  CHECK(moe_flags(with("text_config.interleave_moe_layer_step", 3)) == "00100100");
  CHECK(moe_flags(without("text_config.interleave_moe_layer_step")) == "11111111");
}

TEST_CASE("config: RoPE scaling in every spelling") {
  auto scaled = [](const char* type_key, double factor, double high) {
    Json rope;
    rope.set(type_key, "llama3");
    rope.set("factor", factor);
    rope.set("low_freq_factor", 1.0);
    rope.set("high_freq_factor", high);
    rope.set("original_max_position_embeddings", 16);
    return rope;
  };
  for (const char* type_key : {"rope_type", "type"}) {
    ModelConfig c = with("text_config.rope_scaling", scaled(type_key, 16, 1));
    CHECK(c.text.rope.scaled);
    CHECK(c.text.rope.theta == 10000);
    CHECK(c.text.rope.factor == 16);
    CHECK(c.text.rope.original_max_positions == 16);
  }
  Json v5 = scaled("rope_type", 8, 2);
  v5.set("rope_theta", 777.0);
  ModelConfig c = with("text_config.rope_parameters", v5);
  CHECK(c.text.rope.theta == 777);
  CHECK(c.text.rope.high_freq_factor == 2);
  CHECK_FALSE(with("text_config.rope_scaling", Json(Json::Object{})).text.rope.scaled);

  Json incomplete = scaled("rope_type", 8, 4);
  std::erase_if(incomplete.as_object(), [](const Json::Member& m) { return m.first == "factor"; });
  CHECK(error_of([&] { with("text_config.rope_scaling", incomplete); }) ==
        "f/config.json: text_config.rope_scaling.factor: expected a number from 1 to 1e+06, found nothing");
  CHECK(error_of([&] { with("text_config.rope_scaling", scaled("rope_type", 8, 0.5)); }) ==
        "f/config.json: text_config.rope_scaling.high_freq_factor: expected no less than low_freq_factor, found 0.5");
  Json yarn = scaled("rope_type", 8, 4);
  yarn.set("rope_type", "yarn");
  CHECK(error_of([&] { with("text_config.rope_scaling", yarn); }) ==
        "f/config.json: text_config.rope_scaling.rope_type: expected \"default\" or \"llama3\", found \"yarn\"");
}

TEST_CASE("config: values that mean something special") {
  CHECK(with("text_config.attention_chunk_size", nullptr).text.attention_chunk == 0);
  CHECK(without("text_config.attention_chunk_size").text.attention_chunk == 8192);
  CHECK(with("text_config.attn_temperature_tuning", 4).text.temperature_tuning);
  CHECK_FALSE(with("text_config.attn_temperature_tuning", 0).text.temperature_tuning);
  CHECK_FALSE(with("text_config.attn_temperature_tuning", false).text.temperature_tuning);
  CHECK(without("text_config.attn_temperature_tuning").text.temperature_tuning);
  CHECK(with("text_config.eos_token_id", 7).eos_ids == std::vector<int32_t>{7});
  CHECK(with("text_config.eos_token_id", nullptr).eos_ids.empty());
  CHECK(with("text_config.head_dim", nullptr).text.head_dim == 16);
  CHECK(without("text_config.head_dim").text.head_dim == 128);
  CHECK(with("text_config.num_key_value_heads", nullptr).text.n_kv_heads == 4);
  CHECK(with("text_config.tie_word_embeddings", true).text.tied_embeddings);
  CHECK_FALSE(with("tie_word_embeddings", true).text.tied_embeddings);
  CHECK(with("text_config.attention_bias", true).text.attention_bias);
  CHECK(with("text_config.pad_token_id", nullptr).pad_id == -1);
  CHECK(with("vision_config.image_size", list({56, 56})).vision->image_size == 56);
  CHECK(without("torch_dtype").weights_dtype == "");
}

TEST_CASE("config: text-only checkpoints have their fields at the top") {
  Json document = *tiny().find("text_config");
  document.set("architectures", names({"Llama4ForCausalLM"}));
  ModelConfig c = parse_model_config(document, "f");
  CHECK(c.text_only_names);
  CHECK_FALSE(c.vision);
  CHECK(c.text.hidden == 64);
  CHECK(c.eos_ids == std::vector<int32_t>{1, 2});
  CHECK(c.image_token_id == -1);
}

TEST_CASE("config: other architectures are refused by name") {
  CHECK(error_of([] { with("model_type", "llama"); }) ==
        "f/config.json: model_type: expected \"llama4\" or \"llama4_text\", found \"llama\"");
  CHECK(error_of([] { without("model_type"); }) ==
        "f/config.json: model_type: expected \"llama4\" or \"llama4_text\", found nothing");
  CHECK(error_of([] { with("architectures", names({"MistralForCausalLM"})); }).find("\"MistralForCausalLM\"") !=
        std::string::npos);
  CHECK(error_of([] { with("text_config.model_type", "llama"); }).find("text_config.model_type") != std::string::npos);
  CHECK(error_of([] { with("text_config.hidden_act", "gelu"); }) ==
        "f/config.json: text_config.hidden_act: expected \"silu\", found \"gelu\"");
  CHECK(error_of([] { without("text_config"); }) == "f/config.json: text_config: expected an object, found nothing");
  CHECK(error_of([] { without("vision_config"); }) ==
        "f/config.json: vision_config: expected an object, found nothing");
  CHECK(error_of([] { parse_model_config(Json(1), "f"); }) == "f: expected an object, found integer");
}

TEST_CASE("config: every number is checked, and named with what was found") {
  CHECK(error_of([] { with("text_config.hidden_size", -5); }) ==
        "f/config.json: text_config.hidden_size: expected an integer from 1 to 65536, found -5");
  CHECK(error_of([] { with("text_config.hidden_size", "64"); }) ==
        "f/config.json: text_config.hidden_size: expected an integer from 1 to 65536, found \"64\"");
  CHECK(error_of([] { without("text_config.hidden_size"); }) ==
        "f/config.json: text_config.hidden_size: expected an integer from 1 to 65536, found nothing");

  const std::vector<std::string> integers = {"text_config.vocab_size",
                                             "text_config.hidden_size",
                                             "text_config.num_hidden_layers",
                                             "text_config.num_attention_heads",
                                             "text_config.num_key_value_heads",
                                             "text_config.head_dim",
                                             "text_config.intermediate_size",
                                             "text_config.intermediate_size_mlp",
                                             "text_config.num_local_experts",
                                             "text_config.num_experts_per_tok",
                                             "text_config.interleave_moe_layer_step",
                                             "text_config.no_rope_layer_interval",
                                             "text_config.attention_chunk_size",
                                             "text_config.max_position_embeddings",
                                             "vision_config.hidden_size",
                                             "vision_config.num_hidden_layers",
                                             "vision_config.num_attention_heads",
                                             "vision_config.intermediate_size",
                                             "vision_config.image_size",
                                             "vision_config.patch_size",
                                             "vision_config.num_channels",
                                             "vision_config.projector_input_dim",
                                             "vision_config.projector_output_dim",
                                             "vision_config.vision_output_dim"};
  const std::vector<Json> bad_integers = {Json(0),
                                          Json(-1),
                                          Json(int64_t(1) << 40),
                                          Json(1e300),
                                          Json(3.5),
                                          Json("8"),
                                          Json(true),
                                          Json(Json::Object{}),
                                          Json(INT64_MAX),
                                          Json(INT64_MIN),
                                          parse_json("18446744073709551615", "t")};
  for (const std::string& field : integers)
    for (const Json& bad : bad_integers) {
      INFO(field << " = " << dump_json(bad));
      CHECK(error_of([&] { with(field, bad); }).rfind("f/config.json: " + field + ": expected", 0) == 0);
    }

  const std::vector<std::string> numbers = {"text_config.rms_norm_eps", "text_config.rope_theta",
                                            "text_config.floor_scale", "vision_config.rope_theta",
                                            "vision_config.pixel_shuffle_ratio"};
  for (const std::string& field : numbers)
    for (const Json& bad : {Json(0), Json(-1.0), Json(1e300), Json("1"), Json(false), Json(Json::Array{})}) {
      INFO(field << " = " << dump_json(bad));
      CHECK(error_of([&] { with(field, bad); }).rfind("f/config.json: " + field + ": expected", 0) == 0);
    }

  for (const char* field : {"text_config.use_qk_norm", "text_config.attention_bias", "text_config.tie_word_embeddings"})
    CHECK(error_of([&] { with(field, 1); }).find("expected true or false, found 1") != std::string::npos);
  for (const char* field : {"text_config.bos_token_id", "text_config.pad_token_id", "text_config.eos_token_id",
                            "image_token_index", "boi_token_index", "eoi_token_index"})
    for (const Json& bad : {Json(300), Json(-2), Json(1.5), Json("a"), list({300})})
      CHECK(error_of([&] { with(field, bad); }).find(std::string(field) + ": expected") != std::string::npos);
}

TEST_CASE("config: lists of layers must fit the layers") {
  auto message = [](const char* field, Json value) { return error_of([&] { with(field, std::move(value)); }); };
  CHECK(message("text_config.no_rope_layers", list({1, 0})) ==
        "f/config.json: text_config.no_rope_layers: expected 8 flags, one a layer, found 2");
  CHECK(message("text_config.no_rope_layers", list({1, 1, 1, 2, 1, 1, 1, 0})).find("found \"2\"") != std::string::npos);
  CHECK(message("text_config.moe_layers", list({8})).find("integers from 0 to 7, found \"8\"") != std::string::npos);
  CHECK(message("text_config.moe_layers", list({-1})).find("moe_layers") != std::string::npos);
  CHECK(message("text_config.layer_types", names({"full_attention"})) ==
        "f/config.json: text_config.layer_types: expected a list of 8 names, one a layer, found 1");
  std::vector<std::string> types(8, "full_attention");
  types[5] = "sliding_attention";
  CHECK(message("text_config.layer_types", names(types)) ==
        "f/config.json: text_config.layer_types[5]: expected \"chunked_attention\" or \"full_attention\", found "
        "\"sliding_attention\"");
  CHECK(message("text_config.num_key_value_heads", 3) ==
        "f/config.json: text_config.num_key_value_heads: expected a divisor of num_attention_heads 4, found 3");
  CHECK(message("text_config.num_experts_per_tok", 5).find("from 1 to 4, found 5") != std::string::npos);
  CHECK(message("text_config.head_dim", 15).find("even") != std::string::npos);
}

TEST_CASE("config: the vision tower's sizes must fit each other") {
  auto message = [](const char* field, Json value) { return error_of([&] { with(field, std::move(value)); }); };
  CHECK(message("vision_config.intermediate_size", 64) ==
        "f/config.json: vision_config.intermediate_size: expected hidden_size / pixel_shuffle_ratio^2 = 128, as the "
        "adapter "
        "reads shuffled patches, found 64");
  CHECK(message("vision_config.projector_input_dim", 41).find("the same as projector_output_dim 40, found 41") !=
        std::string::npos);
  CHECK(message("vision_config.vision_output_dim", 41).find("the same as projector_output_dim 40, found 41") !=
        std::string::npos);
  CHECK(message("vision_config.image_size", 42).find("a number of patches a side that is a multiple of 2") !=
        std::string::npos);
  CHECK(message("vision_config.image_size", 57).find("a multiple of patch_size 14, found 57") != std::string::npos);
  CHECK(message("vision_config.image_size", list({56, 28})).find("two equal ones") != std::string::npos);
  CHECK(message("vision_config.num_attention_heads", 3).find("a divisor of hidden_size 32") != std::string::npos);
  CHECK(message("vision_config.num_attention_heads", 16).find("a multiple of 4") != std::string::npos);
  CHECK(message("vision_config.pixel_shuffle_ratio", 0.3).find("expected 1, 0.5, 0.25 or 0.125, found 0.3") !=
        std::string::npos);
}

TEST_CASE("config: generation_config.json overrides the end ids and keeps defaults for the rest") {
  TempDir dir;
  write_file_atomic(dir / "config.json", kTiny);
  ModelConfig c = load_model_config(dir.path());
  CHECK_FALSE(c.generation.do_sample);
  CHECK(c.generation.eos_ids == std::vector<int32_t>{1, 2});
  write_file_atomic(dir / "generation_config.json",
                    R"({"eos_token_id": 9, "do_sample": true, "temperature": 0.5, "top_k": 20, "top_p": null})");
  c = load_model_config(dir.path());
  CHECK(c.generation.do_sample);
  CHECK(c.generation.temperature == 0.5f);
  CHECK(c.generation.top_p == 1.0f);
  CHECK(c.generation.top_k == 20);
  CHECK(c.generation.eos_ids == std::vector<int32_t>{9});
  CHECK(c.eos_ids == std::vector<int32_t>{1, 2});
  for (const char* bad : {R"({"temperature": -1})", R"({"top_p": 2})", R"({"top_k": -1})", R"({"eos_token_id": 300})",
                          R"({"do_sample": 1})", R"({"repetition_penalty": 0})", R"({"temperature": NaN})", "[]", ""}) {
    write_file_atomic(dir / "generation_config.json", bad);
    INFO(bad);
    CHECK(error_of([&] { load_model_config(dir.path()); }).rfind((dir / "generation_config.json").string() + ": ", 0) ==
          0);
  }
}

TEST_CASE("config: a missing or unreadable file is named") {
  TempDir dir;
  CHECK(error_of([&] { load_model_config(dir.path()); }) ==
        (dir / "config.json").string() + ": cannot open: No such file or directory");
  write_file_atomic(dir / "config.json", R"({"model_type": NaN})");
  CHECK(error_of([&] {
          load_model_config(dir.path());
        }).rfind((dir / "config.json").string() + ": not valid JSON", 0) == 0);
}

TEST_CASE("config: what is odd but legal is warned about and obeyed") {
  Json rope = parse_json(R"({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                             "original_max_position_embeddings": 64})",
                         "t");
  ModelConfig c;
  std::string warning = stderr_of([&] { c = with("text_config.rope_scaling", rope); });
  CHECK(warning.find("f/config.json: text_config.rope_scaling: factor 8 and high_freq_factor 4") != std::string::npos);
  CHECK(c.text.rope.factor == 8);
  CHECK(c.text.rope.high_freq_factor == 4);
  rope.set("factor", 16.0);
  rope.set("high_freq_factor", 1.0);
  CHECK(stderr_of([&] { with("text_config.rope_scaling", rope); }) == "");
}

// Whatever happens to the bytes of a config, reading it ends in a checked config or in one line.
TEST_CASE("config: thousands of random mutations never crash") {
  std::mt19937 random(20250405);
  const std::string original = kTiny;
  const std::vector<std::string> tokens = {"0",     "-1",  "1e308", "9223372036854775807", "null", "true", "[]", "{}",
                                           "\"x\"", "0.5", ""};
  auto pick = [&](size_t n) { return size_t(random() % n); };
  int refused = 0, accepted = 0;
  for (int i = 0; i < 4000; ++i) {
    std::string text = original;
    if (i % 2 == 0) {  // replace one value by another token
      size_t colon = text.find(':', pick(text.size() - 20));
      if (colon == std::string::npos) continue;
      size_t end = text.find_first_of(",}", colon);
      text.replace(colon + 1, end - colon - 1, tokens[pick(tokens.size())]);
    } else {
      for (size_t n = 1 + pick(3); n-- > 0;)
        text[pick(text.size())] = char(pick(3) == 0 ? random() : "0123456789.-e[]{},:\""[pick(20)]);
    }
    try {
      ModelConfig c = parse_model_config(parse_json(text, "f"), "f");
      CHECK(int64_t(c.text.layers.size()) == c.text.n_layers);
      ++accepted;
    } catch (const Error& e) {
      CHECK(e.kind() != ErrorKind::internal);
      CHECK(e.message().find('\n') == std::string::npos);
      ++refused;
    }
  }
  CHECK(refused > 1000);
  CHECK(accepted > 100);
}
