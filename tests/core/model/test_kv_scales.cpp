// Scales of an FP8 cache from checkpoints: found, checked, used.
#include "model/kv_scales.h"

#include "engine/executor.h"
#include "kernels/cpu/cpu_backend.h"
#include "l4/load_plan.h"
#include "model/kv_cache.h"
#include "support/quantized_model.h"
#include "support/test.h"

using namespace l4;
using namespace l4::test;

namespace {
constexpr const char* kAttention = "language_model.model.layers.1.self_attn.";

std::vector<KvScales> load(const QuantizedCheckpoint& made) {
  TempDir dir;
  made.write(dir / "model.safetensors");
  const HfCheckpoint files(dir.path());
  return CheckpointWeights(made.config, files).kv_scales({0, made.config.text.n_layers});
}
}  // namespace

TEST_CASE("kv_scales: every name that checkpoints give them") {
  for (const size_t kind : {0, 1, 2})
    for (const DType dtype : {DType::f32, DType::bf16}) {
      QuantizedCheckpoint made(How::fp8_row);
      made.add_cache_scales();
      for (const bool is_value : {false, true}) {
        for (const std::string& name : kv_scale_names(1, is_value)) made.tensors.erase(name);
        const std::string name = kv_scale_names(1, is_value)[kind];
        if (dtype == DType::f32)
          *made.add<float>(name, dtype, {}) = is_value ? 0.5f : 0.25f;
        else
          *made.add<BFloat16>(name, dtype, {1}) = to_bf16(is_value ? 0.5f : 0.25f);
      }
      const std::vector<KvScales> scales = load(made);
      REQUIRE(scales.size() == 2);
      CHECK(scales[0].k == 3.0f / 64);
      CHECK(scales[0].v == 3.0f / 4);
      CHECK(scales[1].k == 0.25f);
      CHECK(scales[1].v == 0.5f);
    }
}

TEST_CASE("kv_scales: hostile checkpoints") {
  auto check = [](auto change, const std::string& expected) {
    QuantizedCheckpoint made(How::fp8_row);
    made.add_cache_scales();
    change(made);
    const std::string message = error_of([&] { load(made); });
    INFO(expected);
    CHECK_MESSAGE(message.find(expected) != std::string::npos, message);
  };
  const std::string k = cat(kAttention, "k_scale"), v = cat(kAttention, "v_scale");
  auto replace = [&](QuantizedCheckpoint& c, bool is_value) {
    for (const std::string& name : kv_scale_names(1, is_value)) c.tensors.erase(name);
  };
  auto number = [&](float scale) {
    return [&, scale](QuantizedCheckpoint& c) {
      replace(c, true);
      *c.add<float>(v, DType::f32, {}) = scale;
    };
  };
  for (const float scale : {0.0f, -1.0f, INFINITY, NAN, 1e-30f, 1e30f})
    check(number(scale), cat("\"", v, "\": a scale of ", scale, " for values, expected a positive number"));
  check([&](QuantizedCheckpoint& c) { replace(c, false); }, cat("1 missing (\"", k, "\")"));
  check([&](QuantizedCheckpoint& c) { replace(c, false), c.add<float>(k, DType::f32, {2}); },
        cat("\"", k, "\" expected [] or [1] found [2]"));
  check([&](QuantizedCheckpoint& c) { replace(c, false), c.add<float>(k, DType::f32, {0}); }, "expected [] or [1] found [0]");
  check([&](QuantizedCheckpoint& c) { replace(c, false), c.add<uint8_t>(k, DType::u8, {1}); },
        cat("\"", k, "\" expected BF16, F16 or F32, found U8"));
}

TEST_CASE("kv_scales: what the config does not ask for is left alone") {
  QuantizedCheckpoint made(How::fp8_row);
  made.add_cache_scales();
  made.tensors.erase(kv_scale_names(1, false)[1]), made.tensors.erase(kv_scale_names(1, true)[1]);
  *made.add<float>(cat(kAttention, "k_scale"), DType::f32, {}) = NAN;
  made.config.quantization->set("kv_cache_scheme", Json());
  ExecutorOptions options;
  options.kv_dtype = DType::f8_e4m3;
  CHECK_FALSE(has_fixed_kv_scales(made.config, options));
  TempDir dir;
  made.write(dir / "model.safetensors");
  check_tensors(made.config, HfCheckpoint(dir.path()));
}

TEST_CASE("kv_scales: a cache with fixed scales has them in its layers and none in its pages") {
  QuantizedCheckpoint made(How::fp8_row);
  made.add_cache_scales();
  const auto backend = make_cpu_backend(1);
  for (const Topology topology : {Topology{1, 1, 1}, Topology{2, 1, 1}, Topology{1, 2, 1}})
    for (int rank = 0; rank < topology.world(); ++rank) {
      const ShardPlan shard = shard_of(made.config, topology, rank);
      std::vector<KvScales> scales;
      for (int64_t l = shard.layers.begin; l < shard.layers.end; ++l) scales.push_back({0.5f + float(l), 2.5f + float(l)});
      const KvCache cache(*backend, made.config.text, shard, DType::f8_e4m3, {3, 2}, scales);
      uint64_t bytes = 0;
      for (AttentionKind kind : {AttentionKind::chunked, AttentionKind::global})
        bytes += uint64_t(kind == AttentionKind::chunked ? 3 : 2) *
                 kv_page_bytes(made.config.text, shard, DType::f8_e4m3, kind, true);
      CHECK(cache.bytes() == bytes);
      for (int64_t l = shard.layers.begin; l < shard.layers.end; ++l) {
        const KvLayer layer = cache.layer(l);
        CHECK(layer.k_scale == 0.5f + float(l));
        CHECK(layer.v_scale == 2.5f + float(l));
        CHECK(layer.layout.k_scale_offset == -1);
        CHECK(layer.layout.v_scale_offset == -1);
      }
    }
}

TEST_CASE("kv_scales: auto keeps keys and values as the config asks") {
  QuantizedCheckpoint made(How::fp8_row);
  const StoredWeights bf16 = [](const std::string&) { return DType::bf16; };
  LoadOptions options{.max_context = 256};
  auto plan = [&] { return plan_load(options, made.config, 0, bf16, std::nullopt); };
  const LoadPlan plain = plan();
  CHECK(plain.executor.kv_type() == DType::bf16);
  made.add_cache_scales();
  const LoadPlan asked = plan();
  CHECK(asked.executor.kv_type() == DType::f8_e4m3);
  CHECK(has_fixed_kv_scales(made.config, asked.executor));
  CHECK(asked.ranks[0].kv_bytes * 2 == plain.ranks[0].kv_bytes);
  options.kv_dtype = DType::bf16;
  CHECK(plan().executor.kv_type() == DType::bf16);
  CHECK_FALSE(has_fixed_kv_scales(made.config, plan().executor));
  // Quantised as tokens come: FP8, but with scales of their own.
  options.kv_dtype = {};
  made.config.quantization->set("kv_cache_scheme", parse_json(R"({"num_bits": 8, "type": "float", "dynamic": true})", "test"));
  CHECK(plan().executor.kv_type() == DType::f8_e4m3);
  CHECK_FALSE(has_fixed_kv_scales(made.config, plan().executor));
}

TEST_CASE("kv_scales: the model's logits with the checkpoint's scales") {
  QuantizedCheckpoint made(How::fp8_row, false);
  const std::vector<float> plain = logits_of(made);
  made.add_cache_scales();
  CHECK(logits_of(made) == plain);  // not in FP8: not used
  auto fp8 = [&](int tp = 1) { return logits_of(made, tp, {}, {}, DType::f32, DType::f8_e4m3); };
  const std::vector<float> fixed = fp8();
  CHECK(difference(fixed, plain) > 0.01);
  CHECK(difference(fixed, plain) < 0.25);
  CHECK(difference(fp8(2), fixed) < 0.02);  // a sum in another order: here and there the next code
  // Scales so small that everything is cut off at 448 times them.
  for (auto& [name, stored] : made.tensors)
    if (name.ends_with("k_scale") || name.ends_with("v_scale"))
      *reinterpret_cast<float*>(stored.bytes.data()) = 1e-6f;
  CHECK(difference(fp8(), plain) > 0.3);
}
