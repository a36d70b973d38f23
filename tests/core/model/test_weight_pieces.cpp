// Quantised checkpoints (support/quantized_checkpoint.h), each stored in another way: what the plan, the slices and the scales say, put together again, must be
// the matrices that were stored.
#include "model/weight_pieces.h"

#include <algorithm>
#include <cmath>

#include "engine/executor.h"
#include "model/check_tensors.h"
#include "model/tensor_names.h"
#include "model/weight_walk.h"
#include "quant/fp8.h"
#include "support/quantized_checkpoint.h"
#include "support/test.h"

using namespace l4;
using namespace l4::test;

namespace {

float element(const WeightSlice& s, int64_t n, int64_t k) {
  const int64_t i = n * s.n_stride + k * s.k_stride;
  switch (s.dtype) {
    case DType::f32:
      return static_cast<const float*>(s.data)[i];
    case DType::bf16:
      return to_float(static_cast<const BFloat16*>(s.data)[i]);
    case DType::f8_e4m3:
      return fp8_to_float(static_cast<const uint8_t*>(s.data)[i]);
    default:
      return float(int(static_cast<const uint32_t*>(s.data)[n * s.n_stride + k / 8] >> (k % 8 * 4) & 15) - 8);
  }
}

// The stored value of a slice's element, in the unquantised layout's numbering.
float meant(const QuantizedCheckpoint& c, const SlicePlan& s, int64_t expert, int64_t n, int64_t k, bool apart) {
  if (!s.fused_experts) return c.meaning.at(s.tensor)[size_t(n * (c.tensors.contains(s.tensor)
                                                                     ? c.tensors.at(s.tensor).shape[1]
                                                                     : c.tensors.at(s.tensor + "_packed").shape[1] * 8) + k)];
  const bool down = s.tensor.ends_with("down_proj");
  const int64_t in = down ? kQuantizedFfn : kQuantizedHidden, out = down ? kQuantizedHidden : 2 * kQuantizedFfn;
  if (!apart) return c.meaning.at(s.tensor)[size_t((expert * in + k) * out + n)];
  if (down) return c.meaning.at(expert_weight(s.tensor, expert, "down_proj"))[size_t(n * in + k)];
  return c.meaning.at(expert_weight(s.tensor, expert, n < kQuantizedFfn ? "gate_proj" : "up_proj"))[size_t(n % kQuantizedFfn * in + k)];
}

void check_linear(const QuantizedCheckpoint& c, const HfCheckpoint& files, const StoredMap& map, const LinearPlan& plan) {
  if (plan.spec.n == 0) return;
  INFO(plan.spec.name);
  const PieceReader reader(files);
  for (const SlicePlan& s : plan.weight) {
    const StoredWeight& stored = map.at(s.tensor);
    std::vector<int> seen(size_t(plan.spec.n_experts * plan.spec.n * plan.spec.k));
    for (const WeightPiece& p : pieces_of(s, plan.experts, stored, kQuantizedFfn)) {
      const WeightSlice w = reader.weight(p, stored);
      const bool codes = is_quantized(plan.spec.format) && stored.held(DType::bf16) == plan.spec.format;
      const WeightSlice scale = codes ? reader.scale(p, stored) : WeightSlice{};
      const std::vector<BFloat16> values = stored.is_quantized() ? reader.values(p, stored) : std::vector<BFloat16>{};
      int64_t wrong = 0;
      for (int64_t i = 0; i < w.n; ++i)
        for (int64_t k = 0; k < w.k; ++k) {
          const int64_t row = p.n_offset + i - s.n_offset;  // of the slice
          const float want = meant(c, s, p.expert + plan.experts.begin, s.n.begin + row, s.k.begin + k, stored.experts_apart);
          float got = element(w, i, k);
          if (codes) {
            const int64_t group = plan.spec.group ? plan.spec.group : plan.spec.k;
            got *= element(scale, i, k / group);
          }
          if (codes || !stored.is_quantized()) wrong += got != want;
          if (stored.is_quantized()) wrong += to_float(values[size_t(i * w.k + k)]) != to_float(to_bf16(want));
          ++seen[size_t((p.expert * plan.spec.n + p.n_offset + i) * plan.spec.k + k)];
        }
      CHECK(wrong == 0);
    }
    for (int64_t e = 0; e < plan.spec.n_experts; ++e)
      for (int64_t n = 0; n < plan.spec.n; ++n) {
        const bool inside = n >= s.n_offset && n < s.n_offset + s.n.size();
        const int* row = &seen[size_t((e * plan.spec.n + n) * plan.spec.k)];
        REQUIRE(std::all_of(row, row + plan.spec.k, [&](int times) { return times == int(inside); }));
      }
  }
}

struct Case {
  How how;
  WeightFormat attention, experts;
  int64_t group = 0;
  InputFormat input = InputFormat::as_is;
};

}  // namespace

TEST_CASE("weight pieces: what is stored in any way is found again, on one rank and on two") {
  for (const Case& c : {Case{How::fp8_row, WeightFormat::fp8, WeightFormat::fp8, 0, InputFormat::fp8_token},
                        Case{How::fp8_tensor, WeightFormat::fp8, WeightFormat::fp8, 0, InputFormat::fp8_token},
                        Case{How::fp8_block, WeightFormat::bf16, WeightFormat::bf16},
                        Case{How::int4, WeightFormat::int4, WeightFormat::int4, 32},
                        Case{How::int4_zeros, WeightFormat::bf16, WeightFormat::bf16},
                        Case{How::int4_index, WeightFormat::bf16, WeightFormat::bf16},
                        Case{How::modelopt, WeightFormat::fp8, WeightFormat::fp8, 0, InputFormat::fp8_static}}) {
    INFO(int(c.how));
    const QuantizedCheckpoint made(c.how);
    TempDir dir;
    made.write(dir / "model.safetensors");
    const HfCheckpoint files(dir.path());
    const StoredMap map = check_tensors(made.config, files);
    const StoredWeights stored = [&](const std::string& name) { return map.at(name); };
    for (int tp : {1, 2})
      for (int rank = 0; rank < tp; ++rank) {
        const WeightPlan plan = plan_weights(made.config, shard_of(made.config, {tp, 1, 1}, rank), DType::bf16, stored);
        for (const auto& layer : plan.layers) {
          CHECK(layer.o.spec.format == c.attention);
          CHECK(layer.o.spec.group == c.group);
          CHECK(layer.o.spec.input == c.input);
          if (layer.router.spec.n) {
            CHECK(layer.experts_up.spec.format == c.experts);
            CHECK(layer.router.spec.format == WeightFormat::bf16);
          }
        }
        for_each_weight(plan, plan, [&]<class Plan>(const char*, const Plan& p, const Plan&) {
          if constexpr (std::is_same_v<Plan, LinearPlan>) check_linear(made, files, map, p);
        });
      }
  }
}

TEST_CASE("weight pieces: what is multiplied at once and not stored alike becomes BF16") {
  QuantizedCheckpoint made(How::fp8_row);
  const std::string v = "language_model.model.layers.0.self_attn.v_proj.weight";
  const Shape shape = made.tensors.at(v).shape;
  made.tensors.erase(v), made.tensors.erase(v + "_scale"), made.meaning.erase(v);
  made.plain(v, shape);
  TempDir dir;
  made.write(dir / "model.safetensors");
  const HfCheckpoint files(dir.path());
  const StoredMap map = check_tensors(made.config, files);
  const WeightPlan plan = plan_weights(made.config, shard_of(made.config, {}, 0), DType::bf16,
                                       [&](const std::string& name) { return map.at(name); });
  CHECK(plan.layers[0].qkv.spec.format == WeightFormat::bf16);
  CHECK(plan.layers[0].qkv.spec.input == InputFormat::as_is);
  CHECK(plan.layers[1].qkv.spec.format == WeightFormat::fp8);
  check_linear(made, files, map, plan.layers[0].qkv);
}

TEST_CASE("weight pieces: ranks' columns that cut a group are refused") {
  QuantizedCheckpoint made(How::int4);
  TempDir dir;
  made.write(dir / "model.safetensors");
  const HfCheckpoint files(dir.path());
  const StoredMap map = check_tensors(made.config, files);
  const std::string message = error_of([&] {
    plan_weights(made.config, shard_of(made.config, {2, 1, 1}, 1), DType::bf16, [&](const std::string& name) {
      StoredWeight w = map.at(name);
      if (w.group) w.group = 128;
      return w;
    });
  });
  CHECK_MESSAGE(message.find("columns 64 to 128 of rank 1 do not begin and end with groups of 128") != std::string::npos, message);
}

TEST_CASE("weight pieces: hostile quantised checkpoints") {
  const std::string layer = "language_model.model.layers.1.", q = layer + "self_attn.q_proj.weight";
  auto read = [](How how, auto change) {
    QuantizedCheckpoint made(how);
    change(made);
    TempDir dir;
    made.write(dir / "model.safetensors");
    const HfCheckpoint files(dir.path());
    const StoredMap map = check_tensors(made.config, files);
    const PieceReader reader(files);
    for (const auto& [name, stored] : map) {
      if (!stored.is_quantized()) continue;
      const SlicePlan slice{name, {0, 8}, {0, 32}, 0, stored.experts_apart};
      for (const WeightPiece& p : pieces_of(slice, {0, 2}, stored, kQuantizedFfn)) {
        reader.check_shape(p, stored);
        reader.values(p, stored);
        if (stored.input_scale) reader.input_scale(p, stored);
      }
    }
  };
  auto check = [&](How how, auto change, const std::string& expected) {
    const std::string message = error_of([&] { read(how, change); });
    INFO(expected);
    CHECK_MESSAGE(message.find(expected) != std::string::npos, message);
  };
  read(How::int4, [](QuantizedCheckpoint&) {});
  check(How::fp8_row, [&](QuantizedCheckpoint& c) { c.tensors.erase(q + "_scale"); }, "1 missing (\"" + q + "_scale\")");
  check(How::fp8_row, [&](QuantizedCheckpoint& c) { c.tensors.at(q + "_scale").shape = {64, 2}; },
        "\"" + q + "_scale\" expected [] or [1] or [128] or [128, 1] or [1, 2] found [64, 2]");
  check(How::fp8_row, [&](QuantizedCheckpoint& c) { c.add<float>(q + "_scale", DType::f32, {128, 1})[3] = NAN; }, "row 0: a scale of 0");
  check(How::int4, [&](QuantizedCheckpoint& c) { c.tensors.at(q + "_packed").shape = {256, 16}; }, "expected [128, 32] found [256, 16]");
  check(How::int4, [&](QuantizedCheckpoint& c) { c.tensors.at(q + "_scale").shape = {256, 4}; },
        "expected [128, groups of a multiple of 8 that divide 256] found [256, 4]");
  check(How::int4, [&](QuantizedCheckpoint& c) { c.add<BFloat16>(q + "_scale", DType::bf16, {128, 3}); }, "divide 256] found [128, 3]");
  check(How::int4, [&](QuantizedCheckpoint& c) { c.add<uint8_t>(q + "_packed", DType::u8, {128, 32}); }, "expected I32, found U8");
  check(How::int4, [&](QuantizedCheckpoint& c) { reinterpret_cast<int64_t*>(c.tensors.at(q + "_shape").bytes.data())[1] = 512; },
        "says [128, 512], and \"" + q + "_packed\" has [128, 256]");
  check(How::int4, [&](QuantizedCheckpoint& c) { c.tensors[q + "_zap"] = c.tensors.at(q + "_shape"); }, "1 unexpected (\"" + q + "_zap\")");
  check(How::int4, [&](QuantizedCheckpoint& c) { c.tensors.erase(layer + "feed_forward.experts.1.up_proj.weight_packed"); },
        "1 missing (\"" + layer + "feed_forward.experts.1.up_proj.weight\")");
  check(How::int4_index,
        [&](QuantizedCheckpoint& c) { reinterpret_cast<int32_t*>(c.tensors.at(q + "_g_idx").bytes.data())[5] = -1; },
        "column 5 belongs to group -1 of 8");
  check(How::modelopt,
        [&](QuantizedCheckpoint& c) { c.tensors.erase(layer + "feed_forward.experts.down_proj_input_scale"); },
        "1 missing (\"" + layer + "feed_forward.experts.down_proj_input_scale\")");
  check(How::modelopt, [&](QuantizedCheckpoint& c) { *c.add<float>(layer + "self_attn.q_proj.input_scale", DType::f32, {}) = -1; },
        "an input scale of -1");
  // Without a quantization_config codes are no weights.
  check(How::fp8_row, [&](QuantizedCheckpoint& c) { c.config.quantization.reset(); }, "of a type that is no weight's");
}
