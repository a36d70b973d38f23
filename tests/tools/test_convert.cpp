// l4-convert: what it writes, tensor by tensor.
#include "tools/convert/convert.h"

#include <algorithm>
#include <set>

#include "quant/fp8.h"
#include "tools/common/conversion_plan.h"
#include "tools/run_tool.h"
#include "tools/tiny_source.h"

using namespace l4;
using namespace l4::test;
using convert::ConvertOptions;

namespace {

ConvertOptions options(const fs::path& source, const fs::path& target, const std::string& preset) {
  ConvertOptions o;
  o.source = source, o.target = target;
  o.recipe.preset = preset;
  o.recipe.group = 32;
  o.threads = 2;
  o.max_shard_bytes = 40'000;
  o.piece_bytes = 3000;
  return o;
}

std::vector<std::byte> bytes_of(const HfCheckpoint& checkpoint, const TensorInfo& info) {
  std::vector<std::byte> bytes(info.bytes);
  checkpoint.read(info, 0, bytes);
  return bytes;
}

template <class T>
std::vector<T> values_of(const HfCheckpoint& checkpoint, const std::string& name, DType dtype, const Shape& shape) {
  const TensorInfo* info = checkpoint.find(name);
  REQUIRE_MESSAGE(info, name);
  CHECK_MESSAGE(info->dtype == dtype, name);
  CHECK_MESSAGE(info->shape == shape, name);
  std::vector<T> values(info->bytes / sizeof(T));
  checkpoint.read(*info, 0, std::as_writable_bytes(std::span(values)));
  return values;
}

// Codes times scales of a linear [n, k], by the format's description alone; an empty list where it is not quantised.
std::vector<double> dequantized(const HfCheckpoint& c, const std::string& module, int64_t n, int64_t k, int64_t group) {
  std::vector<double> weights;
  if (c.find(module + ".weight_packed")) {
    const auto words = values_of<uint32_t>(c, module + ".weight_packed", DType::i32, {n, k / 8});
    const auto scales = values_of<BFloat16>(c, module + ".weight_scale", DType::bf16, {n, k / group});
    CHECK(values_of<int64_t>(c, module + ".weight_shape", DType::i64, {2}) == std::vector<int64_t>{n, k});
    for (int64_t i = 0; i < n * k; ++i)
      weights.push_back((int(words[size_t(i / 8)] >> (i % 8 * 4) & 15) - 8) *
                        double(to_float(scales[size_t(i / group)])));
    CHECK_FALSE(c.find(module + ".weight"));
  } else if (c.find(module + ".weight_scale")) {
    const auto codes = values_of<uint8_t>(c, module + ".weight", DType::f8_e4m3, {n, k});
    const auto scales = values_of<BFloat16>(c, module + ".weight_scale", DType::bf16, {n, 1});
    for (int64_t i = 0; i < n * k; ++i)
      weights.push_back(double(fp8_to_float(codes[size_t(i)])) * double(to_float(scales[size_t(i / k)])));
  }
  return weights;
}

// The source's linears [out, in], experts apart, by the names they get.
struct Linear {
  ModelPart part;
  int64_t n, k;
  std::vector<float> weights;
};
std::map<std::string, Linear> linears_of(const ModelConfig& config, const Tensors& tensors) {
  std::map<std::string, Linear> linears;
  for (const ExpectedTensor& t : expected_tensors(config)) {
    const std::vector<float>& from = tensors.at(t.name);
    if (t.part != ModelPart::routed_experts) {
      if (t.shape.rank() == 2 && t.name.ends_with(".weight") && t.part != ModelPart::embedding)
        linears[t.name.substr(0, t.name.size() - 7)] = {t.part, t.shape[0], t.shape[1], from};
      continue;
    }
    const bool gate_up = t.name.ends_with("gate_up_proj");
    const int64_t k = t.shape[1], width = t.shape[2], n = gate_up ? width / 2 : width;
    for (int64_t e = 0; e < t.shape[0]; ++e)
      for (int64_t c = 0; c < width; ++c) {
        const char* name = !gate_up ? "down_proj" : c < n ? "gate_proj" : "up_proj";
        Linear& linear = linears[cat(t.name.substr(0, t.name.rfind('.')), ".", e, ".", name)];
        linear.part = t.part, linear.n = n, linear.k = k;
        for (int64_t r = 0; r < k; ++r) linear.weights.push_back(from[size_t((e * k + r) * width + c)]);
      }
  }
  return linears;
}

struct Expectation {
  std::string preset;
  bool int4;
  std::set<ModelPart> parts;
};
const std::vector<Expectation>& presets() {
  using enum ModelPart;
  static const std::vector<Expectation> all = {
      {"fp8", false, {routed_experts, shared_expert, dense_ffn}},
      {"fp8-all", false, {routed_experts, shared_expert, dense_ffn, attention}},
      {"fp8-experts", false, {routed_experts}},
      {"w4a16", true, {routed_experts, shared_expert, dense_ffn}},
      {"w4a16-all", true, {routed_experts, shared_expert, dense_ffn, attention}},
  };
  return all;
}

std::string joined(const std::set<std::string>& names) {
  return join(std::vector<std::string>(names.begin(), names.end()), "\n");
}

// Every tensor of a converted checkpoint against its source.
void check_converted(const fs::path& source_dir, const Tensors& tensors, const fs::path& target_dir,
                     const Expectation& expected) {
  const ModelConfig config = load_model_config(source_dir);
  const HfCheckpoint source(source_dir), target(target_dir);
  std::set<std::string> ignored, seen;
  const auto linears = linears_of(config, tensors);
  for (const auto& [module, linear] : linears) {
    CAPTURE(module);
    const std::vector<double> found = dequantized(target, module, linear.n, linear.k, 32);
    CHECK(found.empty() == !expected.parts.contains(linear.part));
    CHECK((target.find(module + ".weight_packed") != nullptr) == (expected.int4 && !found.empty()));
    for (const char* tensor : {".weight", ".weight_scale", ".weight_packed", ".weight_shape"})
      if (target.find(module + tensor)) seen.insert(module + tensor);
    if (found.empty()) {
      ignored.insert(module + ".");
      const TensorInfo* info = target.find(module + ".weight");
      REQUIRE(info);
      CHECK(info->shape == Shape{linear.n, linear.k});
      std::vector<float> kept(linear.weights.size());
      weights_to_float(bytes_of(target, *info).data(), info->dtype, kept);
      CHECK(kept == linear.weights);
      continue;
    }
    double squared = 0, reference = 0;
    for (size_t i = 0; i < found.size(); ++i) {
      const double w = double(linear.weights[i]);
      squared += (w - found[i]) * (w - found[i]);
      reference += w * w;
    }
    const double relative = std::sqrt(squared / reference);
    CHECK(relative < (expected.int4 ? 0.12 : 0.03));
    CHECK(relative > (expected.int4 ? 0.05 : 0.02));
  }
  for (const std::string& name : source.names()) {
    if (name.ends_with(".weight") && linears.contains(name.substr(0, name.rfind('.')))) continue;
    if (name.find(".experts.") != std::string::npos) continue;
    CAPTURE(name);
    const TensorInfo *from = source.find(name), *to = target.find(name);
    REQUIRE(to);
    CHECK(to->name == from->name);
    CHECK(to->dtype == from->dtype);
    CHECK(to->shape == from->shape);
    CHECK(bytes_of(source, *from) == bytes_of(target, *to));
    seen.insert(name);
  }
  CHECK(seen.size() == target.names().size());

  Json written = parse_json(read_file(target_dir / "config.json", 1 << 20), "config.json");
  const Json before = parse_json(read_file(source_dir / "config.json", 1 << 20), "config.json");
  const Json quantization = *written.find("quantization_config");
  std::set<std::string> in_config;
  for (const Json& name : quantization.find("ignore")->as_array())  // modules; the mapping wants a tensor's name
    in_config.insert(canonical_tensor_name(name.as_string() + "."));
  CHECK(joined(in_config) == joined(ignored));
  CHECK(quantization.find("format")->as_string() == (expected.int4 ? "pack-quantized" : "float-quantized"));
  written.as_object().pop_back();
  CHECK(written == before);
  for (const char* copied : {"tokenizer.model", "generation_config.json"})
    CHECK(read_file(target_dir / copied, 1 << 20) == read_file(source_dir / copied, 1 << 20));
  for (const char* not_copied : {"model.safetensors", "pytorch_model.bin", "original", ".l4-convert"})
    CHECK_FALSE(fs::exists(target_dir / not_copied));
  CHECK(read_checkpoint_index(target_dir).total_bytes == target.total_bytes());
}

}  // namespace

TEST_CASE("convert: every preset, tensor by tensor") {
  TempDir dir;
  const Tensors tensors = write_tiny_source(dir / "source");
  for (const Expectation& e : presets()) {
    CAPTURE(e.preset);
    convert::convert(options(dir / "source", dir / e.preset, e.preset));
    check_converted(dir / "source", tensors, dir / e.preset, e);
  }
  const size_t n_shards = HfCheckpoint(dir / "fp8").n_shards();
  CHECK(n_shards > 9);
  for (const size_t s : {size_t(1), n_shards})
    CHECK(fs::exists(dir / "fp8" / cat("model-000", s < 10 ? "0" : "", s, "-of-000", n_shards, ".safetensors")));
}

TEST_CASE("convert: F32, F16 and text-only names") {
  for (const DType dtype : {DType::f32, DType::f16}) {
    TempDir dir;
    const Tensors tensors = write_tiny_source(dir / "source", dtype);
    for (const size_t p : {1, 4}) {
      const Expectation& e = presets()[p];
      convert::convert(options(dir / "source", dir / e.preset, e.preset));
      check_converted(dir / "source", tensors, dir / e.preset, e);
    }
  }
  TempDir dir;
  const Tensors tensors = write_tiny_source(dir / "source", DType::bf16, true);
  convert::convert(options(dir / "source", dir / "target", "fp8"));
  check_converted(dir / "source", tensors, dir / "target", presets()[0]);
  const std::string config = read_file(dir / "target" / "config.json", 1 << 20);
  CHECK(config.find("\"model.layers.0.self_attn.q_proj\"") != std::string::npos);
  CHECK(config.find("\"lm_head\"") != std::string::npos);
}

TEST_CASE("convert: the same bytes whatever the threads and pieces") {
  TempDir dir;
  write_tiny_source(dir / "source");
  ConvertOptions o = options(dir / "source", dir / "a", "w4a16-all");
  convert::convert(o);
  o.target = dir / "b", o.threads = 1;
  convert::convert(o);
  o.target = dir / "c", o.threads = 5, o.piece_bytes = 1 << 20;
  convert::convert(o);
  for (const auto& entry : fs::directory_iterator(dir / "a")) {
    const std::string name = entry.path().filename().string(), bytes = read_file(entry.path(), 1 << 24);
    CHECK_MESSAGE(bytes == read_file(dir / "b" / name, 1 << 24), name);
    if (name != "quantization_report.json")  // sums of errors, by pieces
      CHECK_MESSAGE(bytes == read_file(dir / "c" / name, 1 << 24), name);
  }
}

TEST_CASE("convert: the config of Scout in FP8 is RedHat's") {
  const fs::path theirs = shared_data("config/RedHatAI--Llama-4-Scout-17B-16E-Instruct-FP8-dynamic/config.json");
  const ModelConfig config = load_model_config(shared_data("config/meta-llama--Llama-4-Scout-17B-16E-Instruct"));
  Json expected = *parse_json(read_file(theirs, 1 << 20), "theirs").find("quantization_config");
  const convert::Recipe recipe;
  Json found = convert::quantization_config(convert::list_items(config, recipe, false), recipe, config);
  const auto take_ignored = [](Json& json) {
    std::set<std::string> names;
    for (const Json& name : json.find("ignore")->as_array()) names.insert(name.as_string());
    json.set("ignore", nullptr);
    return names;
  };
  CHECK(take_ignored(found) == take_ignored(expected));
  std::string text = dump_json(expected);
  text.replace(text.find("\"mse\""), 5, "\"minmax\"");  // our scales are the largest weight's
  CHECK(dump_json(found) == text);
}

TEST_CASE("convert: rules") {
  TempDir dir;
  write_tiny_source(dir / "source");
  const ModelConfig config = load_model_config(dir / "source");
  const auto recipe_of = [](const std::string& preset, const std::vector<std::string>& rules) {
    convert::Recipe recipe;
    recipe.preset = preset;
    recipe.group = 32;
    for (const std::string& rule : rules) recipe.rules.emplace_back(rule);
    return recipe;
  };
  const auto count = [&](const convert::Recipe& recipe, convert::Scheme scheme) {
    const auto items = convert::list_items(config, recipe, false);
    return std::count_if(items.begin(), items.end(), [&](const convert::Item& i) { return i.scheme == scheme; });
  };
  using convert::Scheme;
  CHECK(count(recipe_of("fp8", {}), Scheme::fp8) == 2 * 12 + 2 * 3 + 2 * 3);
  CHECK(count(recipe_of("fp8", {"*.layers.1.*=bf16"}), Scheme::fp8) == 12 + 3 + 2 * 3);
  CHECK(count(recipe_of("fp8", {"*.layers.1.*=bf16", "*.experts.*=int4"}), Scheme::int4) == 24);  // the later wins
  CHECK(count(recipe_of("none", {"re:.*\\.[qkv]_proj=fp8"}), Scheme::fp8) == 12);  // not the vision tower's
  CHECK(count(recipe_of("none", {"language_model.lm_head=fp8"}), Scheme::fp8) == 1);

  const auto error = [&](const std::string& preset, const std::vector<std::string>& rules) {
    return error_of([&] { convert::list_items(config, recipe_of(preset, rules), false); });
  };
  CHECK(error("fp8", {"*.nothing=fp8"}).find("matches no linear") != std::string::npos);
  CHECK(error("fp8", {"*.router=fp8"}).find("stay as they are") != std::string::npos);
  CHECK(error("none", {}).find("nothing of this model would be quantised") != std::string::npos);
  CHECK(error("fp8", {"*=bf16"}).find("nothing of this model") != std::string::npos);
  CHECK(error("fp8", {"*.experts.2.*=int4"}).find("need one format") != std::string::npos);
  CHECK(error("fp8", {"*.q_proj=fp8"}).find("need one format") != std::string::npos);
  CHECK(error("fp8", {"*.shared_expert.up_proj=int4"}).find("need one format") != std::string::npos);
  for (const char* bad : {"x", "=fp8", "x=fp4", "re:(=fp8", "x=FP8", ""})
    CHECK(error_of([&] { convert::Rule rule(bad); }).starts_with("expected "));
  CHECK(error_of([&] { recipe_of("gptq", {}).check(); }).find("fp8, fp8-all, fp8-experts, w4a16") != std::string::npos);

  // Two schemes: each group names its modules, experts of a layer by one pattern.
  const convert::Recipe mixed = recipe_of("w4a16", {"*.self_attn.*=fp8"});
  const Json json = convert::quantization_config(convert::list_items(config, mixed, false), mixed, config);
  CHECK(json.find("format")->as_string() == "mixed-precision");
  const Json* groups = json.find("config_groups");
  CHECK(groups->find("group_0")->find("format")->as_string() == "float-quantized");
  CHECK(groups->find("group_0")->find("targets")->as_array().size() == 16);
  CHECK(groups->find("group_1")->find("format")->as_string() == "pack-quantized");
  const std::string targets = dump_json(*groups->find("group_1")->find("targets"));
  CHECK(targets.find(R"("re:language_model\\.model\\.layers\\.1\\.feed_forward\\.experts\\.\\d+\\.up_proj$")") !=
        std::string::npos);
  CHECK(groups->find("group_1")->find("targets")->as_array().size() == 2 * 3 + 2 * 3 + 2 * 3);
}

TEST_CASE("convert: the report says what was lost") {
  TempDir dir;
  const Tensors tensors = write_tiny_source(dir / "source");
  ConvertOptions o = options(dir / "source", dir / "target", "w4a16");
  o.report = dir / "report.json";
  const std::string table = convert::convert(o);
  CHECK(table.find("routed experts") != std::string::npos);
  CHECK_FALSE(fs::exists(dir / "target" / "quantization_report.json"));
  const Json report = parse_json(read_file(o.report, 1 << 24), "report");
  const HfCheckpoint target(dir / "target");
  const auto linears = linears_of(load_model_config(dir / "source"), tensors);
  size_t n = 0;
  for (const Json& entry : report.find("tensors")->as_array()) {
    const std::string& module = entry.find("module")->as_string();
    const Linear& linear = linears.at(module);
    const std::vector<double> found = dequantized(target, module, linear.n, linear.k, 32);
    double squared = 0, largest = 0;
    for (size_t i = 0; i < found.size(); ++i) {
      const double e = std::fabs(double(linear.weights[i]) - found[i]);
      squared += e * e;
      largest = std::max(largest, e);
    }
    CHECK(entry.find("mean_squared_error")->as_number() ==
          doctest::Approx(squared / double(found.size())).epsilon(1e-4));
    CHECK(entry.find("max_error")->as_number() == doctest::Approx(largest).epsilon(1e-4));
    ++n;
  }
  CHECK(n == 36);
}
