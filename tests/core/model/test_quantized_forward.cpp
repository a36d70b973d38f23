// The whole model on quantised weights against the same weights in float32: loading, planning and multiplying at once.
#include <cmath>

#include "support/one_sequence.h"
#include "support/quantized_checkpoint.h"
#include "support/test.h"

using namespace l4;
using namespace l4::test;

namespace {

std::vector<float> logits_of(const QuantizedCheckpoint& made, Topology topology = {}) {
  TempDir dir;
  made.write(dir / "model.safetensors");
  const HfCheckpoint files(dir.path());
  ExecutorOptions options;
  options.dtype = DType::f32;
  options.topology = topology;
  options.cpu_threads = 2;
  OneSequence model(made.config, files, options, 64);
  std::vector<int32_t> ids;
  for (int i = 0; i < 20; ++i) ids.push_back(int32_t(i * 7 % 64));
  std::vector<float> logits = model.append(ids);
  const std::vector<float> next = model.append(std::vector<int32_t>{5});  // one row
  logits.insert(logits.end(), next.begin(), next.end());
  return logits;
}

// The largest difference, as a share of the largest logit.
double distance(const std::vector<float>& a, const std::vector<float>& b) {
  REQUIRE(a.size() == b.size());
  double most = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    REQUIRE(std::isfinite(a[i]));
    most = std::max(most, double(std::abs(a[i] - b[i])));
    size = std::max(size, double(std::abs(b[i])));
  }
  return most / size;
}

}  // namespace

TEST_CASE("quantized forward: codes and scales give what their weights in float32 give") {
  constexpr double kSame = 2e-5;  // float32 sums in another order, as between golden models and transformers
  for (const How how : {How::fp8_row, How::fp8_tensor, How::int4}) {
    INFO(int(how));
    const QuantizedCheckpoint made(how, false);
    const std::vector<float> want = logits_of(made.widened());
    CHECK(distance(logits_of(made), want) < kSame);
    CHECK(distance(logits_of(made, {2, 1, 1}), want) < kSame);
  }
  // What becomes BF16 as it is loaded: all its codes times scales are exact there (4 bits of a code, 4 of a scale).
  for (const How how : {How::fp8_block, How::int4_zeros, How::int4_index}) {
    INFO(int(how));
    const QuantizedCheckpoint made(how, false);
    CHECK(distance(logits_of(made), logits_of(made.widened())) < kSame);
  }
}

TEST_CASE("quantized forward: with inputs in FP8, too, it is near") {
  // A rounding of 2^-4 at most, 2^-5.3 in the mean, of every input: the sums of random signs keep that size, layer by layer.
  constexpr double kNear = 0.25, kNotTheSame = 1e-3;
  for (const How how : {How::fp8_row, How::modelopt}) {
    INFO(int(how));
    const QuantizedCheckpoint made(how);
    const std::vector<float> want = logits_of(made.widened()), got = logits_of(made);
    CHECK(distance(got, want) < kNear);
    CHECK(distance(got, want) > kNotTheSame);
    // Each rank quantises its own columns, so two ranks differ from one by roundings again.
    CHECK(distance(logits_of(made, {2, 1, 1}), want) < kNear);
  }
}
