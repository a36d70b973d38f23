#include "kernels/cuda/gpu_testing.h"
#include "kernels/cuda/weight_layout.h"

using namespace l4;
using namespace l4::test;

namespace {
PackedWeight pack(GpuMachine& gpu, const LinearSpec& spec, std::span<const WeightSlice> weight,
                  std::span<const WeightSlice> bias = {}, std::span<const WeightSlice> scale = {}) {
  return cuda::pack_weight(gpu.gpu, spec, weight, bias, scale,
                           [](size_t bytes, const char* what) { return cuda::device_buffer(bytes, what); });
}
// What lies in the buffer, element after element.
Values contents(GpuMachine& gpu, const Buffer& buffer, DType dtype, int64_t n) {
  REQUIRE(buffer.bytes() == size_t(n) * dtype_bytes(dtype));
  return gpu.download({buffer.data(), dtype, {n}});
}
DType stored_type(const LinearSpec& spec) {
  return spec.format == WeightFormat::f32 ? DType::f32 : DType::bf16;
}
}  // namespace

TEST_CASE("cuda pack: slices with any strides and offsets and types end up in their place") {
  GpuMachine gpu;
  Numbers numbers(1);
  struct Case {
    int64_t e, n, k;
    bool gated;
  };
  for (const Case& c : {Case{1, 1, 1, false}, Case{1, 32, 128, false}, Case{2, 34, 129, true}, Case{3, 80, 40, true},
                        Case{1, 200, 3, false}})
    for (DType stored : {DType::f32, DType::bf16})
      for (WeightFormat format : {WeightFormat::f32, WeightFormat::bf16})
        for (int layout : {0, 1, 2}) {  // rows dense, columns dense, neither
          INFO(cat(c.e, " ", c.n, " ", c.k, " ", dtype_name(stored), " ", weight_format_name(format), " ", layout));
          // The checkpoint's tensor is wider than what is taken of it, as with a rank's part.
          const int64_t rows = c.n + 5, columns = c.k + 3, step = layout == 2 ? 2 : 1;
          const bool transposed = layout == 1;
          Values t = numbers.tensor(stored, {c.e, rows * columns * step});
          const int64_t n_stride = transposed ? 1 : columns * step, k_stride = transposed ? rows : step;
          auto element = [&](int64_t e, int64_t n, int64_t k) {
            return e * rows * columns * step + (n + 2) * n_stride + (k + 1) * k_stride;
          };
          std::vector<WeightSlice> slices;
          for (int64_t e = 0; e < c.e; ++e) {
            const int64_t n_cut = c.n * 2 / 3, k_cut = c.k / 3;
            for (auto [n0, n1] : {std::pair{n_cut, c.n}, std::pair{int64_t(0), n_cut}})
              for (auto [k0, k1] : {std::pair{int64_t(0), k_cut}, std::pair{k_cut, c.k}})
                slices.push_back({t.storage.data() + size_t(element(e, n0, k0)) * dtype_bytes(stored), stored, n1 - n0,
                                  k1 - k0, n_stride, k_stride, e, n0, k0});
          }
          const LinearSpec spec{.name = "w", .n = c.n, .k = c.k, .n_experts = c.e, .gated = c.gated, .format = format};
          const PackedWeight w = pack(gpu, spec, slices);
          CHECK(w.bytes() == cuda::packed_weight_bytes(spec));
          const Values got = contents(gpu, w.data, stored_type(spec), c.e * c.n * c.k);
          int64_t wrong = 0;
          for (int64_t e = 0; e < c.e; ++e)
            for (int64_t n = 0; n < c.n; ++n)
              for (int64_t k = 0; k < c.k; ++k)
                wrong += got.at((e * c.n + cuda::packed_row(spec, n)) * c.k + k) !=
                         round_as(stored_type(spec), t.at(element(e, n, k)));
          CHECK(wrong == 0);
        }
}

TEST_CASE("cuda pack: half precision becomes float32 or bfloat16, subnormals too; a bias follows its rows") {
  GpuMachine gpu;
  std::vector<uint16_t> halves;
  for (uint32_t i = 0; i < 32 * 80; ++i) halves.push_back(uint16_t((i * 25 & 0x7BFF) | (i % 2 ? 0x8000 : 0)));
  const WeightSlice slice{halves.data(), DType::f16, 32, 80, 80, 1, 0, 0, 0},
      bias{halves.data(), DType::f16, 32, 1, 1, 1, 0, 0, 0};
  for (WeightFormat format : {WeightFormat::f32, WeightFormat::bf16}) {
    const LinearSpec spec{.name = "w", .n = 32, .k = 80, .gated = true, .bias = true, .format = format};
    const PackedWeight w = pack(gpu, spec, {&slice, 1}, {&bias, 1});
    const Values got = contents(gpu, w.data, stored_type(spec), 32 * 80), b = contents(gpu, w.bias, DType::f32, 32);
    int64_t wrong = 0;
    for (int64_t n = 0; n < 32; ++n) {
      wrong += b.at(cuda::packed_row(spec, n)) != double(f16_to_float(halves[size_t(n)]));
      for (int64_t k = 0; k < 80; ++k)
        wrong += got.at(cuda::packed_row(spec, n) * 80 + k) !=
                 round_as(stored_type(spec), double(f16_to_float(halves[size_t(n * 80 + k)])));
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("cuda pack: slices that do not make up the weight are refused") {
  GpuMachine gpu;
  Numbers numbers(2);
  const Values t = numbers.tensor(DType::f32, {4, 8});
  const LinearSpec spec{.name = "layer.w", .n = 4, .k = 8, .format = WeightFormat::f32};
  WeightSlice s{t.view.data, DType::f32, 4, 8, 8, 1, 0, 0, 0};
  CHECK(error_of([&] { s.n = 3, pack(gpu, spec, {&s, 1}); }).find("layer.w") != std::string::npos);
  CHECK(error_of([&] { s.n = 4, s.k_offset = 1, pack(gpu, spec, {&s, 1}); }).find("outside") != std::string::npos);
}
