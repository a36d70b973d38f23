#include "model/quantization.h"

#include "support/test.h"

using namespace l4;
using l4::test::error_of;
using l4::test::shared_data;

namespace {
ModelConfig with(const std::string& quantization) {
  ModelConfig config;
  config.source = "m/config.json";
  config.quantization = parse_json(quantization, "test");
  return config;
}
std::string group(const std::string& weights, const std::string& input = "null", const std::string& format = "pack-quantized") {
  return cat(R"({"quant_method": "compressed-tensors", "format": ")", format, R"(", "config_groups": {"group_0": {"targets":
    ["Linear"], "weights": )", weights, R"(, "input_activations": )", input, "}}}");
}
constexpr const char* kFp8 = R"({"num_bits": 8, "type": "float", "strategy": "channel", "dynamic": false})";
constexpr const char* kPerToken = R"({"num_bits": 8, "type": "float", "strategy": "token", "dynamic": true})";
constexpr const char* kStatic = R"({"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": false})";
}  // namespace

TEST_CASE("quantization: what becomes of inputs") {
  CHECK_FALSE(read_quantization(ModelConfig{}));
  const std::string path = "config/RedHatAI--Llama-4-Scout-17B-16E-Instruct-FP8-dynamic";
  CHECK(read_quantization(load_model_config(shared_data(path)))->fp8_input == InputFormat::fp8_token);
  CHECK(read_quantization(with(group(kFp8, kPerToken, "float-quantized")))->fp8_input == InputFormat::fp8_token);
  CHECK(read_quantization(with(group(kFp8, kStatic, "float-quantized")))->fp8_input == InputFormat::fp8_static);
  CHECK(read_quantization(with(group(kFp8, "null", "float-quantized")))->fp8_input == InputFormat::as_is);
  CHECK(read_quantization(with(group(R"({"num_bits": 8, "type": "float", "strategy": "block"})", kPerToken,
                                     "float-quantized")))->fp8_input == InputFormat::as_is);
  CHECK(read_quantization(with(group(R"({"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128})"))));
  CHECK(read_quantization(with(R"({"quant_method": "modelopt", "quant_algo": "FP8"})"))->fp8_input == InputFormat::fp8_static);
}

TEST_CASE("quantization: how keys and values are kept") {
  auto cache = [](const std::string& json) { return *read_quantization(with(json)); };
  auto scheme = [](const std::string& method, const std::string& fields) {
    return cat(R"({"quant_method": ")", method, R"(", "quant_algo": "FP8", "config_groups": {}, )", fields, "}");
  };
  constexpr const char* kScheme = R"("kv_cache_scheme": {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": false})";
  constexpr const char* kShort = R"("kv_cache_scheme": {"num_bits": 8, "type": "float", "dynamic": false})";
  for (const std::string& json :
       {scheme("compressed-tensors", kScheme), scheme("modelopt", kShort), scheme("modelopt", R"("kv_cache_quant_algo": "FP8")")}) {
    CHECK(cache(json).fp8_cache);
    CHECK(cache(json).cache_scales);
  }
  const Quantization dynamic =
      cache(scheme("compressed-tensors", R"("kv_cache_scheme": {"num_bits": 8, "type": "float", "strategy": "token", "dynamic": true})"));
  CHECK(dynamic.fp8_cache);
  CHECK_FALSE(dynamic.cache_scales);
  for (const char* none : {R"("kv_cache_scheme": null)", R"("kv_cache_quant_algo": null)", R"("x": 1)"})
    for (const char* method : {"compressed-tensors", "modelopt"}) {
      CHECK_FALSE(cache(scheme(method, none)).fp8_cache);
      CHECK_FALSE(cache(scheme(method, none)).cache_scales);
    }
  auto check = [&](const std::string& json, const std::string& expected) {
    const std::string message = error_of([&] { cache(json); });
    CHECK_MESSAGE(message.find(expected) != std::string::npos, message);
  };
  auto of = [&](const std::string& fields) { return scheme("compressed-tensors", cat(R"("kv_cache_scheme": )", fields)); };
  check(of(R"({"num_bits": 8, "type": "int"})"), "kv_cache_scheme: keys and values of 8-bit \"int\"");
  check(of(R"({"num_bits": 4, "type": "float"})"), "kv_cache_scheme: keys and values of 4-bit \"float\"");
  check(of(R"({"strategy": "attn_head"})"), "kv_cache_scheme: scales by \"attn_head\"");
  check(of(R"({"symmetric": false})"), "kv_cache_scheme: keys and values with zero points");
  check(of("8"), "kv_cache_scheme: expected an object");
  check(of(R"({"num_bits": "8"})"), "kv_cache_scheme.num_bits: expected an integer");
  check(scheme("modelopt", R"("kv_cache_quant_algo": "NVFP4")"), "ModelOpt \"NVFP4\" for keys and values");
}

TEST_CASE("quantization: what is not loaded is refused by name, what is no scheme by its field") {
  auto check = [](const std::string& json, const std::string& expected) {
    INFO(json);
    const std::string message = error_of([&] { read_quantization(with(json)); });
    CHECK(message.find("m/config.json: quantization_config") == 0);
    CHECK_MESSAGE(message.find(expected) != std::string::npos, message);
  };
  check(group(kFp8, "null", "nvfp4-pack-quantized"), "format \"nvfp4-pack-quantized\"; this build loads");
  check(group(R"({"num_bits": 4, "type": "float", "strategy": "tensor_group"})"), "weights of 4-bit \"float\"");
  check(group(R"({"num_bits": 8, "type": "int"})"), "weights of 8-bit \"int\"");
  check(group(R"({"num_bits": 3, "type": "int"})"), "weights of 3-bit \"int\"");
  check(group(R"({"num_bits": 4, "type": "int"})", kPerToken), "4-bit weights with quantised input");
  check(group(kFp8, R"({"num_bits": 8, "type": "int"})"), "input activations of 8-bit \"int\"");
  check(group(kFp8, R"({"num_bits": 8, "type": "float", "dynamic": true, "strategy": "tensor_group"})"), "by \"tensor_group\"");
  check(group(R"({"num_bits": "8"})"), "weights.num_bits: expected an integer from 1 to 64, found \"8\"");
  check(group("null"), "weights: expected an object");
  check(R"({"quant_method": "compressed-tensors"})", "config_groups: expected an object");
  check(R"({"quant_method": "compressed-tensors", "config_groups": []})", "config_groups: expected an object");
  check(R"({"quant_method": "gptq", "bits": 4})", "weights quantised as \"gptq\"");
  check(R"({"quant_method": "modelopt", "quant_algo": "NVFP4"})", "ModelOpt \"NVFP4\"");
  check(R"({"quant_method": 4})", "quant_method: expected a string, found 4");
  check("{}", "an unnamed scheme");
  check("[1]", "expected an object, found array");
  const std::string two = cat(R"({"quant_method": "compressed-tensors", "config_groups": {"a": {"weights": )", kFp8,
                              R"(, "input_activations": )", kPerToken, R"(}, "b": {"weights": )", kFp8, "}}}");
  check(two, "differ in their input activations");
}
