#include "model/tensor_names.h"

#include "model/check_tensors.h"

#include <algorithm>
#include <map>

#include "support/golden_model.h"
#include "support/test.h"

using namespace l4;
using l4::test::error_of;
using l4::test::shared_data;
using l4::test::TempDir;

namespace {

constexpr const char* kScout = "config/meta-llama--Llama-4-Scout-17B-16E-Instruct";
constexpr const char* kMaverick = "config/meta-llama--Llama-4-Maverick-17B-128E-Instruct";

ModelConfig tiny(const char* extra_text = "") {
  std::string text =
      cat(R"({"model_type": "llama4", "image_token_index": 19, "boi_token_index": 18, "eoi_token_index": 17,
    "text_config": {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
      "num_key_value_heads": 1, "head_dim": 4, "intermediate_size": 6, "intermediate_size_mlp": 10, "num_local_experts": 3,
      "interleave_moe_layer_step": 2)",
          extra_text, R"(},
    "vision_config": {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
      "image_size": 8, "patch_size": 2, "projector_input_dim": 12, "projector_output_dim": 12, "vision_output_dim": 12}})");
  return parse_model_config(parse_json(text, "tiny/config.json"), "tiny/config.json");
}

// Writes a checkpoint of zeros with these tensors.
void write_checkpoint(const fs::path& path, std::vector<SafetensorsWriter::Tensor> tensors) {
  std::stable_sort(tensors.begin(), tensors.end(),
                   [](const auto& a, const auto& b) { return dtype_bytes(a.dtype) > dtype_bytes(b.dtype); });
  SafetensorsWriter out(path, tensors);
  for (const auto& t : tensors) out.write(std::vector<std::byte>(size_t(t.shape.elements()) * dtype_bytes(t.dtype)));
  out.finish();
}
std::vector<SafetensorsWriter::Tensor> tensors_of(const ModelConfig& c) {
  std::vector<SafetensorsWriter::Tensor> out;
  for (const ExpectedTensor& t : expected_tensors(c)) out.push_back({t.name, DType::bf16, t.shape});
  return out;
}

}  // namespace

TEST_CASE("tensor_names: the official Scout index checks out exactly") {
  ModelConfig config = load_model_config(shared_data(kScout));
  CheckpointIndex index = read_checkpoint_index(shared_data(kScout));
  check_tensors(config, index);
  std::vector<ExpectedTensor> expected = expected_tensors(config);
  CHECK(expected.size() == index.entries.size());
  CHECK(parameter_count(expected) == 108'641'793'536);  // llama4-spec 1.3, and the hub's count
  CHECK(index.total_bytes == uint64_t(parameter_count(expected)) * 2);
}

TEST_CASE("tensor_names: every shape and size of the official Scout files") {
  ModelConfig config = load_model_config(shared_data(kScout));
  fs::path layout_file = shared_data(std::string(kScout) + "/safetensors_layout.derived.json");
  std::map<std::string, Shape> shapes;
  const Json layout = parse_json(read_file(layout_file, 1 << 24), "layout");
  for (const Json& shard : layout.as_array())
    for (const Json::Member& m : shard.find("tensors")->as_object()) {
      Shape shape;
      for (const Json& d : m.second.as_array()[0].as_array()) shape.append(d.as_integer());
      shapes.emplace(m.first, shape);
    }
  std::vector<ExpectedTensor> expected = expected_tensors(config);
  CHECK(shapes.size() == expected.size());
  for (const ExpectedTensor& t : expected) {
    INFO(t.name);
    REQUIRE(shapes.contains(t.name));
    CHECK(shapes[t.name].str() == t.shape.str());
  }
}

TEST_CASE("tensor_names: Maverick's derived index checks out exactly") {
  ModelConfig config = load_model_config(shared_data(std::string(kMaverick) + "/config.assembled.json"));
  CheckpointIndex index =
      read_checkpoint_index(shared_data(std::string(kMaverick) + "/model.safetensors.index.derived.json"));
  check_tensors(config, index);
  std::vector<ExpectedTensor> expected = expected_tensors(config);
  CHECK(expected.size() == index.entries.size());
  CHECK(parameter_count(expected) == 401'583'781'376);
  CHECK(index.total_bytes == uint64_t(parameter_count(expected)) * 2);

  std::map<ModelPart, int64_t> by_part;  // llama4-spec 1.3
  for (const ExpectedTensor& t : expected) by_part[t.part] += t.shape.elements();
  CHECK(by_part[ModelPart::routed_experts] == 386'547'056'640);
  CHECK(by_part[ModelPart::shared_expert] == 3'019'898'880);
  CHECK(by_part[ModelPart::dense_ffn] == 6'039'797'760);
  CHECK(by_part[ModelPart::attention] == 3'019'898'880);
  CHECK(by_part[ModelPart::vision] + by_part[ModelPart::projector] == 871'932'416);
  CHECK(by_part[ModelPart::router] == 24 * 655'360);
}

TEST_CASE("tensor_names: Maverick's index is not Scout's") {
  ModelConfig scout = load_model_config(shared_data(kScout));
  CheckpointIndex maverick =
      read_checkpoint_index(shared_data(std::string(kMaverick) + "/model.safetensors.index.derived.json"));
  std::string message = error_of([&] { check_tensors(scout, maverick); });
  CHECK(message.find("144 missing (\"language_model.model.layers.0.feed_forward.router.weight\"") != std::string::npos);
  CHECK(message.find("and 140 more)") != std::string::npos);
  CHECK(message.find("72 unexpected (") != std::string::npos);
  CHECK(message.size() < 1500);
}

TEST_CASE("tensor_names: what transformers saved of every golden model is what its config implies") {
  for (const std::string& name : l4::test::GoldenModel::names()) {
    INFO(name);
    l4::test::GoldenModel golden(name);
    ModelConfig config = parse_model_config(golden.config, name);
    std::map<std::string, std::string> saved, expected;
    for (const auto& t : golden.tensors) {
      Shape shape;
      for (int64_t d : t.shape) shape.append(d);
      saved.emplace(canonical_tensor_name(t.name), shape.str());
    }
    for (const ExpectedTensor& t : expected_tensors(config)) expected.emplace(t.name, t.shape.str());
    CHECK(saved == expected);
    if (!golden.stored) continue;
    fs::path dir = golden.checkpoint({});
    ModelConfig loaded = load_model_config(dir);
    HfCheckpoint checkpoint(dir);
    check_tensors(loaded, checkpoint);
    CHECK(checkpoint.names().size() == golden.tensors.size());
    CHECK(loaded.generation.eos_ids == loaded.eos_ids);
  }
}

TEST_CASE("tensor_names: biases, tied embeddings, text only") {
  auto has = [](const ModelConfig& c, const std::string& name) {
    for (const ExpectedTensor& t : expected_tensors(c))
      if (t.name == name) return true;
    return false;
  };
  const char* q_bias = "language_model.model.layers.1.self_attn.q_proj.bias";
  const char* head = "language_model.lm_head.weight";
  CHECK_FALSE(has(tiny(), q_bias));
  CHECK(has(tiny(R"(, "attention_bias": true)"), q_bias));
  CHECK(has(tiny(), head));
  CHECK_FALSE(has(tiny(R"(, "tie_word_embeddings": true)"), head));
  ModelConfig text_only = tiny();
  text_only.vision.reset();
  for (const ExpectedTensor& t : expected_tensors(text_only)) CHECK(t.name.starts_with("language_model."));
}

TEST_CASE("tensor_names: a checkpoint that is as it should be, with and without the prefix") {
  ModelConfig config = tiny();
  TempDir dir;
  write_checkpoint(dir / "model.safetensors", tensors_of(config));
  check_tensors(config, HfCheckpoint(dir.path()));

  ModelConfig text_only = config;
  text_only.vision.reset();
  std::vector<SafetensorsWriter::Tensor> tensors = tensors_of(text_only);
  for (auto& t : tensors) t.name = t.name.substr(std::string("language_model.").size());
  tensors[3].dtype = DType::f32;
  tensors[4].dtype = DType::f16;
  tensors.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", DType::f32, {2}});
  write_checkpoint(dir / "model.safetensors", tensors);
  check_tensors(text_only, HfCheckpoint(dir.path()));
}

TEST_CASE("tensor_names: all that is wrong is said in one line") {
  ModelConfig config = tiny();
  std::vector<SafetensorsWriter::Tensor> tensors = tensors_of(config);
  for (auto& t : tensors) {
    if (t.name == "language_model.model.norm.weight") t.name = "language_model.model.normal.weight";
    if (t.name.ends_with("experts.gate_up_proj")) t.shape = {3, 12, 8};
    if (t.name.ends_with("layers.0.self_attn.q_proj.weight")) t.dtype = DType::f8_e4m3;
  }
  TempDir dir;
  write_checkpoint(dir / "model.safetensors", tensors);
  HfCheckpoint checkpoint(dir.path());
  CHECK(
      error_of([&] { check_tensors(config, checkpoint); }) ==
      dir.path().string() +
          ": tensors are not those that tiny/config.json implies: 1 missing (\"language_model.model.norm.weight\"); 1 "
          "unexpected (\"language_model.model.normal.weight\"); 1 with a wrong shape "
          "(\"language_model.model.layers.1.feed_forward.experts.gate_up_proj\" expected [3, 8, 12] found [3, 12, 8]); "
          "2 of a "
          "type that is no weight's (\"language_model.model.layers.0.self_attn.q_proj.weight\" expected BF16, F16 or "
          "F32, "
          "found F8_E4M3, \"vision_model.model.layers.0.self_attn.q_proj.weight\" expected BF16, F16 or F32, found "
          "F8_E4M3)");
}
