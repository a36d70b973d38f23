// What l4-convert learns by running a model on text, on GPUs: the inputs of every linear and the sizes of keys and
// values.
#include <algorithm>
#include <cmath>

#include "kernels/cuda/gpu_testing.h"
#include "support/quantized_model.h"
#include "tools/convert/layer_runner.h"
#include "tools/input_recorder.h"

using namespace l4;
using namespace l4::test;
using convert::Site;

namespace {

// What calibration takes from rows [n, k], which may come in any order: X^T X.
std::vector<float> gram(const std::vector<float>& rows, size_t k) {
  std::vector<float> sums(k * k);
  for (size_t t = 0; t < rows.size(); t += k)
    for (size_t i = 0; i < k; ++i)
      for (size_t j = 0; j < k; ++j) sums[i * k + j] += rows[t + i] * rows[t + j];
  return sums;
}

}  // namespace

TEST_CASE("cuda calibration: inputs layer by layer, sizes of keys and values, and logits are the CPU's") {
  skip_without_gpu();
  struct Case {
    How how;
    const char* dtype;
    double most;
  };
  // BF16: the kernels that calibration will meet, of few rows and of more, whose order of experts' rows differs.
  for (const Case& c : {Case{How::int4, "float32", kSameFloat32}, Case{How::int4, "bfloat16", 0.02},
                        Case{How::fp8_block, "bfloat16", 0.02}}) {
    CAPTURE(int(c.how));
    CAPTURE(c.dtype);
    QuantizedCheckpoint made(c.how, false);
    made.config.weights_dtype = c.dtype;
    TempDir dir;
    made.write(dir / "model.safetensors");
    const HfCheckpoint files(dir.path());
    const CheckpointWeights weights(made.config, files);
    convert::Sequences text = {{1, 5, 7, 60, 3, 3, 9, 11, 2, 8, 40}, {6}, {}};
    for (int i = 0; i < 40; ++i) text[2].push_back(i * 11 % 64);
    convert::LayerRunner cpu(made.config, Device::cpu, 2, text), gpu(made.config, Device::cuda, 2, text);
    for (int64_t l = 0; l < 2; ++l) {
      CAPTURE(l);
      Recorder expected, found;
      cpu.load(l, weights), gpu.load(l, weights);
      cpu.run(l == 0, &expected), gpu.run(l == 0, &found);
      CHECK(found.found.size() == expected.found.size());
      for (const auto& [key, rows] : expected.found) {
        CAPTURE(int(key.first));
        CAPTURE(key.second);
        REQUIRE(found.found.contains(key));
        REQUIRE(found.found[key].size() == rows.size());
        const bool down = key.first == Site::shared_down || key.first == Site::expert_down;
        const size_t k = key.first == Site::o ? 4 * 32 : !down ? kQuantizedHidden : l == 0 ? 256 : kQuantizedFfn;
        CHECK(difference(gram(found.found[key], k), gram(rows, k)) < c.most);
      }
      CHECK(found.k == doctest::Approx(expected.k).epsilon(c.most));
      CHECK(found.v == doctest::Approx(expected.v).epsilon(c.most));
    }
    std::vector<std::vector<float>> logits;
    cpu.run_to_logits([&](size_t, std::span<const float> rows) { logits.emplace_back(rows.begin(), rows.end()); });
    gpu.run_to_logits([&](size_t i, std::span<const float> rows) {
      CHECK(difference({rows.begin(), rows.end()}, logits[i]) < c.most);
    });
  }
}
