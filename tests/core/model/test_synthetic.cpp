#include "model/synthetic.h"

#include <cmath>
#include <set>

#include "engine/executor.h"
#include "engine/step_builder.h"
#include "model/tensor_names.h"
#include "support/test.h"

using namespace l4;
using l4::test::error_of;
using l4::test::shared_data;

namespace {

void check_same(const ModelConfig& a, const ModelConfig& b) {
  const TextConfig &s = a.text, &t = b.text;
  CHECK(s.vocab == t.vocab);
  CHECK(s.hidden == t.hidden);
  CHECK(s.n_layers == t.n_layers);
  CHECK(s.n_heads == t.n_heads);
  CHECK(s.n_kv_heads == t.n_kv_heads);
  CHECK(s.head_dim == t.head_dim);
  CHECK(s.ffn == t.ffn);
  CHECK(s.dense_ffn == t.dense_ffn);
  CHECK(s.n_experts == t.n_experts);
  CHECK(s.n_experts_per_token == t.n_experts_per_token);
  CHECK(s.attention_chunk == t.attention_chunk);
  CHECK(s.max_positions == t.max_positions);
  CHECK(s.rms_eps == t.rms_eps);
  CHECK(s.qk_norm == t.qk_norm);
  CHECK(s.attention_bias == t.attention_bias);
  CHECK(s.temperature_tuning == t.temperature_tuning);
  CHECK(s.floor_scale == t.floor_scale);
  CHECK(s.attn_scale == t.attn_scale);
  CHECK(s.tied_embeddings == t.tied_embeddings);
  CHECK(s.rope.theta == t.rope.theta);
  CHECK(s.rope.scaled == t.rope.scaled);
  if (s.rope.scaled) {
    CHECK(s.rope.factor == t.rope.factor);
    CHECK(s.rope.low_freq_factor == t.rope.low_freq_factor);
    CHECK(s.rope.high_freq_factor == t.rope.high_freq_factor);
    CHECK(s.rope.original_max_positions == t.rope.original_max_positions);
  }
  REQUIRE(s.layers.size() == t.layers.size());
  for (size_t l = 0; l < s.layers.size(); ++l) {
    CHECK(s.layers[l].attention == t.layers[l].attention);
    CHECK(s.layers[l].rope == t.layers[l].rope);
    CHECK(s.layers[l].moe == t.layers[l].moe);
  }
  REQUIRE(a.vision.has_value());
  REQUIRE(b.vision.has_value());
  const VisionConfig &v = *a.vision, &w = *b.vision;
  CHECK(v.hidden == w.hidden);
  CHECK(v.n_layers == w.n_layers);
  CHECK(v.n_heads == w.n_heads);
  CHECK(v.ffn == w.ffn);
  CHECK(v.image_size == w.image_size);
  CHECK(v.patch_size == w.patch_size);
  CHECK(v.n_channels == w.n_channels);
  CHECK(v.projector_in == w.projector_in);
  CHECK(v.projector_out == w.projector_out);
  CHECK(v.output == w.output);
  CHECK(v.pixel_shuffle_ratio == w.pixel_shuffle_ratio);
  CHECK(v.rope_theta == w.rope_theta);
  CHECK(a.bos_id == b.bos_id);
  CHECK(a.pad_id == b.pad_id);
  CHECK(a.eos_ids == b.eos_ids);
  CHECK(a.image_token_id == b.image_token_id);
  CHECK(a.image_start_id == b.image_start_id);
  CHECK(a.image_end_id == b.image_end_id);
  CHECK(a.weights_dtype == b.weights_dtype);
}

// Logits of ten tokens in one step.
std::vector<float> logits_of(const ModelConfig& config, uint64_t seed, Topology topology,
                             const TraceSink& trace = nullptr, bool round_robin = false,
                             const SyntheticFormat& format = {}) {
  ExecutorOptions options;
  options.topology = topology;
  options.dtype = DType::f32;
  options.cpu_threads = 2;
  options.max_step_rows = options.max_out_rows = 10;
  options.round_robin_experts = round_robin;
  for (int64_t& pages : options.kv_pages) pages = 4;
  Executor executor(config, SyntheticWeights(config, seed, format), options);
  if (trace) executor.set_trace(trace);
  KvPools pools(executor.page_tokens(), config.text.attention_chunk, {4, 4});
  Sequence sequence(pools, {7, 1, 900, 33, 4, 5, 2047, 0, 12, 13}, {});
  REQUIRE(sequence.reserve(10));
  const StepPart part{&sequence, OutRows::all};
  return executor.logits(build_step({&part, 1}, 0));
}

double difference(const std::vector<float>& a, const std::vector<float>& b) {
  REQUIRE(a.size() == b.size());
  double most = 0;
  for (size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(double(a[i]) - double(b[i])));
  return most;
}

}  // namespace

TEST_CASE("synthetic: Scout's numbers are its config.json's") {
  check_same(synthetic_config("scout"),
             load_model_config(shared_data("config/meta-llama--Llama-4-Scout-17B-16E-Instruct/config.json")));
}

TEST_CASE("synthetic: Maverick's numbers are its config.json's") {
  check_same(
      synthetic_config("maverick"),
      load_model_config(shared_data("config/meta-llama--Llama-4-Maverick-17B-128E-Instruct/config.assembled.json")));
}

TEST_CASE("synthetic: parameter counts are the published ones") {  // llama4-spec 1.3
  CHECK(parameter_count(expected_tensors(synthetic_config("scout"))) == 108641793536);
  CHECK(parameter_count(expected_tensors(synthetic_config("maverick"))) == 401583781376);
}

TEST_CASE("synthetic: fewer layers keep their kinds") {
  ModelConfig c = synthetic_config("maverick");
  keep_layers(c, 6);
  CHECK(c.n_layers_of(AttentionKind::global) == 1);
  CHECK(c.text.layers[4].moe == false);
  CHECK(c.text.layers[5].moe == true);
  CHECK(error_of([&] { keep_layers(c, 7); }) == "synthetic maverick has 1 to 6 layers, not 7");
  CHECK(error_of([&] { keep_layers(c, 0); }).find("not 0") != std::string::npos);
  CHECK(error_of([&] { synthetic_config("behemoth"); }).find("behemoth") != std::string::npos);
}

TEST_CASE("synthetic: values are uniform, centred, and of the asked spread") {
  const RandomTensor tensor{sample_mix(5), 1.0f, 0.125f};
  double sum = 0, squares = 0;
  constexpr int64_t kCount = 200000;
  std::set<float> distinct;
  for (int64_t i = 0; i < kCount; ++i) {
    const double x = double(random_weight(tensor, i)) - 1;
    CHECK(std::abs(x) <= 0.125);
    sum += x, squares += x * x;
    distinct.insert(float(x));
  }
  CHECK(std::abs(sum / kCount) < 5 * 0.0722 / std::sqrt(double(kCount)));  // five standard errors
  CHECK(squares / kCount == doctest::Approx(0.125 * 0.125 / 3).epsilon(0.01));
  CHECK(distinct.size() > kCount / 2);
}

TEST_CASE("synthetic: the model is the same however it is cut, and another with another seed") {
  const ModelConfig config = synthetic_config("tiny");
  const std::vector<float> whole = logits_of(config, 1, {});
  double squares = 0;
  for (const float x : whole) squares += double(x) * double(x);
  CHECK(squares / double(whole.size()) == doctest::Approx(1).epsilon(0.3));  // sensible: logits of size 1
  for (const Topology topology : {Topology{2, 1, 1}, Topology{2, 1, 2}, Topology{1, 2, 1}})
    CHECK(difference(logits_of(config, 1, topology), whole) < 1e-4);
  CHECK(difference(logits_of(config, 2, {}), whole) > 1);
}

TEST_CASE("synthetic: formats store the parts that performance.md 1.2 says") {
  const ModelConfig config = synthetic_config("maverick");
  const auto formats = [&](const char* name) {
    const SyntheticWeights weights(config, 1, synthetic_format(name, 64));
    std::string all;
    for (const char* tensor : {"layers.1.self_attn.q_proj.weight", "layers.1.feed_forward.shared_expert.up_proj.weight",
                               "layers.0.feed_forward.down_proj.weight", "layers.1.feed_forward.experts.gate_up_proj",
                               "layers.1.feed_forward.router.weight", "layers.1.input_layernorm.weight"})
      all += cat(weight_format_name(weights.stored(cat("language_model.model.", tensor)).held(DType::bf16)), " ");
    const StoredWeight head = weights.stored("language_model.lm_head.weight");
    CHECK((head.input == InputFormat::fp8_token) == (head.dtype == DType::f8_e4m3));
    return all + weight_format_name(head.held(DType::bf16));
  };
  // attention, shared expert, dense MLP, routed experts, router, norm, head
  CHECK(formats("bf16") == "BF16 BF16 BF16 BF16 BF16 BF16 BF16");
  CHECK(formats("fp8") == "FP8 FP8 FP8 FP8 BF16 BF16 BF16");
  CHECK(formats("fp8-ffn") == "BF16 FP8 FP8 FP8 BF16 BF16 BF16");
  CHECK(formats("fp8-experts") == "BF16 BF16 BF16 FP8 BF16 BF16 BF16");
  CHECK(formats("int4") == "INT4 INT4 INT4 INT4 BF16 BF16 BF16");
  CHECK(formats("int4-ffn") == "BF16 INT4 INT4 INT4 BF16 BF16 BF16");
  CHECK(formats("int4-mix") == "FP8 INT4 INT4 INT4 BF16 BF16 FP8");
  CHECK(error_of([&] { synthetic_format("nvfp4", 64); }).find("found \"nvfp4\"") != std::string::npos);
  CHECK(error_of([&] {
          SyntheticWeights(config, 1, synthetic_format("int4", 96));
        }).find("no multiple of the group of 96") != std::string::npos);
}

TEST_CASE("synthetic: quantised models are the same however they are cut, and near the unquantised one") {
  const ModelConfig config = synthetic_config("tiny");
  const std::vector<float> bf16 = logits_of(config, 1, {}, nullptr, true);
  double squares = 0;
  for (const float x : bf16) squares += double(x) * double(x);
  for (const std::string& name : synthetic_format_names()) {
    CAPTURE(name);
    const SyntheticFormat format = synthetic_format(name, 64);
    const std::vector<float> whole = logits_of(config, 1, {}, nullptr, true, format);
    const std::vector<float> cut = logits_of(config, 1, {2, 1, 2}, nullptr, true, format);
    double distance = 0, between = 0;
    for (size_t i = 0; i < whole.size(); ++i) {
      distance += std::pow(double(whole[i]) - double(bf16[i]), 2);
      between += std::pow(double(whole[i]) - double(cut[i]), 2);
    }
    // Codes of 15 steps are off by 1 / 8 of the weights' size, FP8's by 1 / 40; each a few times, one after the other.
    const bool int4 = format.routed == WeightFormat::int4;
    const bool fp8 = format.attention == WeightFormat::fp8 || format.routed == WeightFormat::fp8;
    CHECK(std::sqrt(distance / squares) < (int4 ? 0.6 : 0.15));
    CHECK((distance > 0) == (name != "bf16"));
    // A rank's part of a row, of weights and of inputs, has an FP8 scale of its own: rounded otherwise, no worse.
    CHECK(std::sqrt(between / squares) < (fp8 ? 0.15 : 1e-5));
  }
}

TEST_CASE("synthetic: dense layers and QK norm off, cut in two") {
  ModelConfig config = synthetic_config("tiny");
  config.text.layers[0].moe = config.text.layers[2].moe = false;
  config.text.qk_norm = false;
  CHECK(difference(logits_of(config, 3, {2, 1, 1}), logits_of(config, 3, {})) < 1e-4);
}

TEST_CASE("synthetic: experts in turn where they are asked for, else the router's") {
  const ModelConfig config = synthetic_config("tiny");
  int n_layers = 0;
  std::vector<float> in_turn;
  for (int t = 0; t < 10; ++t) in_turn.push_back(float(t % 16));
  for (const bool round_robin : {true, false})
    logits_of(
        config, 1, {},
        [&](const std::string& name, const std::vector<float>& values, const Shape&) {
          if (!name.ends_with(".experts")) return;
          ++n_layers;
          CHECK((values == in_turn) == round_robin);
        },
        round_robin);
  CHECK(n_layers == 8);
}
