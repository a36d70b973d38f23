// Weights made on the device against those made on the host and packed (ops/backend.cpp).
#include "kernels/cuda/random_weights.h"

#include "engine/executor.h"
#include "engine/step_builder.h"
#include "kernels/cuda/pack_testing.h"
#include "kernels/cuda/weight_layout.h"
#include "model/synthetic.h"

using namespace l4;
using namespace l4::test;

namespace {

constexpr RandomTensor kTensor{77, 0, 0.3f};

float as_stored(float value, DType dtype) {
  return dtype == DType::f32 ? value : round_bf16(value);
}

}  // namespace

TEST_CASE("cuda random weights: every value in its place, however the tensor is cut") {
  struct Case {
    int64_t n, k, n_experts;
    bool gated, transposed;  // transposed: [E, in, out], as fused experts are stored
  };
  for (const Case& c : {Case{5, 3, 1, false, false}, Case{32, 24, 1, true, false}, Case{6, 40, 1, true, false},
                        Case{32, 17, 3, true, true}, Case{9, 64, 2, false, true}})
    for (const WeightFormat format : {WeightFormat::f32, WeightFormat::bf16}) {
      CAPTURE(c.n);
      CAPTURE(c.k);
      GpuMachine gpu;
      const DType dtype = format == WeightFormat::f32 ? DType::f32 : DType::bf16;
      LinearSpec spec{"w", c.n, c.k, c.n_experts, c.gated, false, format};
      const PackedWeight w =
          cuda::empty_weight(spec, [](size_t bytes, const char* what) { return cuda::device_buffer(bytes, what); });
      auto index = [&](int64_t e, int64_t n, int64_t k) {
        return c.transposed ? (e * c.k + k) * c.n + n : (e * c.n + n) * c.k + k;
      };
      // In two pieces along n and two along k.
      const int64_t half_n = c.n / 2, part = c.k / 3;
      gpu.run([&](const cuda::OpContext& ctx) {
        for (int64_t e = 0; e < c.n_experts; ++e)
          for (const auto& [n0, n1] : {std::pair{int64_t(0), half_n}, std::pair{half_n, c.n}})
            for (const auto& [k0, k1] : {std::pair{int64_t(0), part}, std::pair{part, c.k}}) {
              RandomSlice s;
              s.tensor = kTensor;
              s.first = index(e, n0, k0);
              s.at.n = n1 - n0, s.at.k = k1 - k0;
              s.at.n_stride = c.transposed ? 1 : c.k, s.at.k_stride = c.transposed ? c.n : 1;
              s.at.expert = e, s.at.n_offset = n0, s.at.k_offset = k0;
              cuda::fill_random_piece(ctx.gpu.stream, s, w);
            }
      });
      const Values got = gpu.download({w.data.data(), dtype, {c.n_experts, c.n, c.k}});
      int64_t n_wrong = 0;
      for (int64_t e = 0; e < c.n_experts; ++e)
        for (int64_t n = 0; n < c.n; ++n)
          for (int64_t k = 0; k < c.k; ++k)
            n_wrong += got.at((e * c.n + cuda::packed_row(spec, n)) * c.k + k) !=
                       as_stored(random_weight(kTensor, index(e, n, k)), dtype);
      CHECK(n_wrong == 0);
    }
}

TEST_CASE("cuda random weights: views and biases") {
  GpuMachine gpu;
  const RandomTensor norm{5, 1, 0.125f};
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const View v = gpu.empty(dtype, {3, 7});
    gpu.run([&](const cuda::OpContext& ctx) { cuda::fill_random_view(ctx.gpu.stream, v, norm, 1000); });
    const Values got = gpu.download(v);
    for (int64_t i = 0; i < 21; ++i) CHECK(got.at(i) == as_stored(random_weight(norm, 1000 + i), dtype));
  }
  const PackedWeight w = cuda::empty_weight({"w", 10, 4, 1, false, true, WeightFormat::bf16},
                                            [](size_t bytes, const char* what) { return cuda::device_buffer(bytes, what); });
  gpu.run([&](const cuda::OpContext& ctx) {
    for (const int64_t first : {0, 6}) {
      RandomSlice s;
      s.tensor = {9, 0, 0.125f};
      s.first = first;
      s.at.n = first == 0 ? 6 : 4, s.at.k = 1, s.at.n_stride = 1, s.at.n_offset = first;
      cuda::fill_random_bias_piece(ctx.gpu.stream, s, w);
    }
  });
  const Values bias = gpu.download({w.bias.data(), DType::f32, {10}});
  for (int64_t i = 0; i < 10; ++i) CHECK(bias.at(i) == round_bf16(random_weight({9, 0, 0.125f}, i)));
}

TEST_CASE("cuda random weights: INT4's codes and scales, however the tensor is cut") {
  skip_without_gpu();
  struct Case {
    int64_t n, k, n_experts, group;
    bool gated, transposed;
  };
  for (const Case& c :
       {Case{32, 256, 1, 32, true, false}, Case{18, 96, 2, 32, false, true}, Case{32, 512, 3, 128, true, true}}) {
    CAPTURE(c.n);
    CAPTURE(c.k);
    const LinearSpec spec{"w", c.n, c.k, c.n_experts, c.gated, false, WeightFormat::int4, c.group};
    auto index = [&](int64_t e, int64_t n, int64_t k) {
      return c.transposed ? (e * c.k + k) * c.n + n : (e * c.n + n) * c.k + k;
    };
    std::vector<RandomSlice> slices;
    const int64_t n_cut = c.n / 2 - 1, k_cut = c.group;
    for (int64_t e = 0; e < c.n_experts; ++e)
      for (const auto& [n0, n1] : {std::pair{int64_t(0), n_cut}, std::pair{n_cut, c.n}})
        for (const auto& [k0, k1] : {std::pair{int64_t(0), k_cut}, std::pair{k_cut, c.k}}) {
          RandomSlice s{{}, index(e, n0, k0), kTensor};
          s.at.n = n1 - n0, s.at.k = k1 - k0;
          s.at.n_stride = c.transposed ? 1 : c.k, s.at.k_stride = c.transposed ? c.n : 1;
          s.at.expert = e, s.at.n_offset = n0, s.at.k_offset = k0;
          slices.push_back(s);
        }
    Packer packer;
    const PackedWeight w = packer.backend->pack_random(spec, slices, {});
    CHECK(w.bytes() == packer.backend->packed_bytes(spec));
    const std::vector<uint32_t> words = packer.contents<uint32_t>(w.data);
    const std::vector<BFloat16> scales = packer.contents<BFloat16>(w.scales);
    const int64_t groups = c.k / c.group, tile_rows = cuda::scale_tiles(c.n) * cuda::kScaleRows;
    int64_t wrong = 0, n_zero = 0;
    double most = 0;
    std::map<int, int64_t> counts;
    for (int64_t e = 0; e < c.n_experts; ++e)
      for (int64_t n = 0; n < c.n; ++n) {
        const int64_t row = cuda::packed_row(spec, n);
        for (int64_t k = 0; k < c.k; ++k) {
          const BFloat16 scale =
              scales[size_t(e * tile_rows * groups + cuda::group_scale_at(row, k / c.group, groups))];
          wrong += scale.bits != to_bf16(random_int4_scale(kTensor, index(e, n, k / c.group * c.group))).bits;
          const uint32_t word = words[size_t((e * c.n + row) * c.k / 8 + cuda::word_at(k / 8, c.k))];
          const int code = int(word >> cuda::shift_of(k % 8) & 15) - 8;
          ++counts[code];
          wrong += code != random_int4_code(kTensor, index(e, n, k), 1 / to_float(scale));
          most = std::max(
              most, std::abs(double(code) * double(to_float(scale)) - double(random_weight(kTensor, index(e, n, k)))));
        }
      }
    CHECK(wrong == 0);
    CHECK(counts.size() == 15);  // -7 .. 7
    CHECK(most < 0.3 * 0.19);    // what is beyond seven of the smallest scales
    for (const BFloat16 scale : scales) n_zero += scale.bits == 0;
    CHECK(n_zero == c.n_experts * groups * (tile_rows - c.n));
  }
}

namespace {
std::vector<float> logits_of(const ModelConfig& config, const SyntheticFormat& format, DType dtype,
                             std::vector<int> gpus) {
  ExecutorOptions options;
  options.gpus = std::move(gpus);
  options.dtype = dtype;
  options.cpu_threads = 2;
  options.max_step_rows = options.max_out_rows = 6;
  options.round_robin_experts = true;  // no near tie of the router's
  for (int64_t& pages : options.kv_pages) pages = 4;
  Executor executor(config, SyntheticWeights(config, 1, format), options);
  KvPools pools(executor.page_tokens(), config.text.attention_chunk, {4, 4});
  Sequence sequence(pools, {7, 1, 900, 33, 4, 2047}, {});
  REQUIRE(sequence.reserve(6));
  const StepPart part{&sequence, OutRows::all};
  return executor.logits(build_step({&part, 1}, 0));
}
}  // namespace

TEST_CASE("cuda random weights: models in every format give the CPU's logits") {
  skip_without_gpu();
  ModelConfig config = synthetic_config("tiny");
  keep_layers(config, 2);
  config.text.layers[0].moe = false;
  for (const std::string& name : synthetic_format_names())
    for (const DType dtype : {DType::f32, DType::bf16}) {
      CAPTURE(name);
      CAPTURE(std::string(dtype_name(dtype)));
      const SyntheticFormat format = synthetic_format(name, 64);
      const std::vector<float> ours = logits_of(config, format, dtype, {0}),
                               theirs = logits_of(config, format, dtype, {});
      REQUIRE(ours.size() == theirs.size());
      double distance = 0, size = 0;
      for (size_t i = 0; i < ours.size(); ++i) {
        distance += std::pow(double(ours[i]) - double(theirs[i]), 2);
        size += double(theirs[i]) * double(theirs[i]);
      }
      // With inputs in FP8 a sum that differs in its last bit may become another code. BF16: l4-bench op's bounds.
      const bool fp8 = format.attention == WeightFormat::fp8 || format.routed == WeightFormat::fp8;
      CHECK(std::sqrt(distance / size) < (dtype == DType::f32 ? (fp8 ? 0.02 : 1e-5) : (fp8 ? 0.08 : 0.02)));
      CHECK(size / double(ours.size()) == doctest::Approx(1).epsilon(0.5));
    }
}

TEST_CASE(
    "cuda random weights: the models that l4-bench measures whole fit their GPUs, and no generic kernel serves them") {
  struct Case {
    const char *model, *format;
    int tp;
    uint64_t gib;  // of a GPU, that a process gets
  };
  for (const Case& c : {Case{"scout", "int4-mix", 1, 78}, Case{"scout", "fp8", 1, 139}, Case{"scout", "fp8", 2, 78},
                        Case{"maverick", "int4-mix", 2, 139}}) {
    CAPTURE(std::string(c.model));
    CAPTURE(std::string(c.format));
    ModelConfig config = synthetic_config(c.model);
    config.vision.reset();
    ExecutorOptions options;
    options.topology.tp = c.tp;
    options.gpus.assign(size_t(c.tp), 0);
    options.fast_kernels_only = true;
    options.kv_dtype = DType::f8_e4m3;
    options.max_step_rows = 8192, options.max_out_rows = 64;
    for (int64_t& pages : options.kv_pages) pages = 64 * 12;  // 64 sequences of 1.5K tokens
    const SyntheticWeights weights(config, 1, synthetic_format(c.format, 128));
    for (const bool invariant : {false, true}) {
      CAPTURE(invariant);
      options.batch_invariant = invariant;
      const MemoryPlan plan = plan_memory(config, options, c.tp - 1, weights.all_stored());
      CHECK(plan.total() < c.gib << 30);
    }
  }
}
