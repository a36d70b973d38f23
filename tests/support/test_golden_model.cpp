#include "support/golden_model.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>

#include "base/file.h"
#include "formats/safetensors.h"
#include "support/test.h"

using namespace l4;
using namespace l4::test;

namespace {
std::string hex(uint64_t value) {
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(value));
  return text;
}
}  // namespace

TEST_CASE("golden_model: the formula gives the weights and pixels that the reference ran on") {
  std::vector<std::string> names = GoldenModel::names();
  REQUIRE(names.size() >= 2);
  for (const std::string& name : names) {
    CAPTURE(name);
    GoldenModel g(name);
    uint64_t checksum = fnv1a64({});
    for (const GoldenTensor& t : g.tensors) {
      std::vector<BFloat16> values = t.values(g.seed);
      checksum = fnv1a64(std::as_bytes(std::span(values)), checksum);
      for (const auto& sample : g.samples)
        if (sample.tensor == t.name) CHECK_MESSAGE(values[size_t(sample.index)].bits == sample.bits, t.name);
    }
    CHECK(!g.samples.empty());
    CHECK(hex(checksum) == g.weights_checksum);
    std::vector<uint8_t> pixels = g.pixels();
    if (!g.images.empty()) CHECK(hex(fnv1a64(std::as_bytes(std::span(pixels)))) == g.pixels_checksum);
  }
}

TEST_CASE("golden_model: every case is whole") {
  for (const std::string& name : GoldenModel::names()) {
    CAPTURE(name);
    GoldenModel g(name);
    CHECK(g.prompt.size() >= 75);
    CHECK(g.greedy.size() == 40);
    CHECK(g.logits.rows == int64_t(g.logit_positions.size()));
    CHECK(g.logits.cols == g.vocab);
    for (const std::string& activation : g.activation_names()) CHECK(g.activation_rows(activation) > 0);
    CHECK(g.activation_rows("norm") == int64_t(g.prompt.size()));
    CHECK(g.images.empty() == g.pixels().empty());
    for (const GoldenImage& image : g.images)
      CHECK(image.n_tiles == image.rows * image.cols + (image.rows * image.cols > 1));
    std::vector<float> whole(g.prompt.size() * size_t(g.vocab), NAN);  // what is not stored is not looked at
    for (int64_t k = 0; k < g.logits.rows; ++k)
      std::ranges::copy(g.logits.row(k), whole.begin() + g.logit_positions[size_t(k)] * g.vocab);
    CHECK(g.logits_difference(whole, 0) == "");
    CHECK(g.logits_distance(whole, g.logits) == 0);
    if (g.bf16_logits.rows) {
      double distance = g.logits_distance(whole, g.bf16_logits);
      CHECK(distance > 0.5 * g.bf16_distance);
      CHECK(distance < 2 * g.bf16_distance);
    }
  }
}

TEST_CASE("golden_model: a wrong activation is named") {
  GoldenModel g("scout");
  std::vector<float> row(64, 0.5f);
  CHECK(g.difference("layers.3.ffn", 9, row, 1e-3).starts_with("scout layers.3.ffn row 9: norm is 4"));
  std::vector<float> logits(g.logits.values);
  logits[size_t(g.vocab) * 7 + 3] += 1;
  CHECK(g.logits_difference(logits, 1e-3).starts_with("scout logits at position 7: relative distance 0.0"));
}

TEST_CASE("golden_model: pixels are normalised with the processor's two roundings") {
  GoldenModel g("scout");
  std::vector<uint8_t> levels = g.pixels();
  std::vector<float> values = g.pixel_values();
  REQUIRE(values.size() == levels.size());
  // Levels and values observed on the reference's image processor.
  const std::pair<int, float> known[] = {{0, -1.0f},          {1, -0.9921875f},  {56, -0.5625f}, {106, -0.16796875f},
                                         {127, -0.00390625f}, {128, 0.0078125f}, {255, 1.0f}};
  size_t seen = 0;
  for (auto [level, value] : known)
    for (size_t i = 0; i < levels.size(); ++i)
      if (levels[i] == level) {
        CHECK(values[i] == value);
        ++seen;
        break;
      }
  CHECK(seen == std::size(known));
}

TEST_CASE("golden_model: a checkpoint is written with its config and every tensor") {
  GoldenModel g("scout");
  for (DType dtype : {DType::f32, DType::bf16}) {
    TempDir dir;
    std::filesystem::path at = g.checkpoint(dir.path(), dtype);
    Json written = parse_json(read_file(at / "config.json", 1 << 20), "config.json");
    CHECK(written.find("dtype")->as_string() == (dtype == DType::f32 ? "float32" : "bfloat16"));
    SafetensorsFile file(at / "model.safetensors");
    CHECK(file.tensors().size() == g.tensors.size());
    for (const GoldenTensor& t : g.tensors) {
      const TensorInfo* info = file.find(t.name);
      REQUIRE(info);
      CHECK(info->dtype == dtype);
      std::vector<std::byte> last(dtype_bytes(dtype));
      file.read(*info, info->bytes - last.size(), last);
      BFloat16 expected = t.values(g.seed).back();
      float as_float = to_float(expected);
      CHECK(std::memcmp(last.data(), dtype == DType::f32 ? static_cast<void*>(&as_float) : &expected, last.size()) ==
            0);
    }
  }
}
