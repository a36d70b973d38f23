// Weights made on the device against those made on the host and packed (ops/backend.cpp).
#include "kernels/cuda/random_weights.h"

#include "kernels/cuda/gpu_testing.h"
#include "kernels/cuda/weight_layout.h"

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
