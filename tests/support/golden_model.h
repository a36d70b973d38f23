// Golden models: tiny Llama 4 checkpoints and what transformers computes from them (tests/golden/models/README.md).
//
//   GoldenModel g("scout");
//   TempDir dir;
//   fs::path checkpoint = g.checkpoint(dir.path());         // config.json + safetensors, ready to be loaded
//   ... run g.prompt, with g.pixel_values() where g.images is not empty ...
//   CHECK(g.difference("layers.3.ffn", 0, rows, 1e-4) == "");  // one activation
//   CHECK(g.logits_difference(logits, 1e-4) == "");
//   ... decode greedily: g.greedy ...
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "formats/json.h"
#include "tensor/dtype.h"

namespace l4::test {

// The stream of 64-bit words that weights and pixels are made of: splitmix64 started at the FNV-1a hash of "SEED/NAME".
uint64_t golden_word(uint64_t stream, uint64_t i);
uint64_t golden_stream(uint64_t seed, std::string_view name);
uint64_t fnv1a64(std::span<const std::byte> bytes, uint64_t hash = 0xCBF29CE484222325);

double relative_distance(std::span<const float> a, std::span<const float> b);  // |a - b| / |b|

struct GoldenMatrix {  // [rows, cols], row-major
  int64_t rows = 0, cols = 0;
  std::vector<float> values;
  std::span<const float> row(int64_t r) const { return {values.data() + r * cols, size_t(cols)}; }
};

// One tensor of a checkpoint: values bf16(float32(offset + scale * u)), u in [-1, 1) from the stream of its name.
struct GoldenTensor {
  std::string name;
  std::vector<int64_t> shape;
  double offset = 0, scale = 0;
  int64_t elements() const;
  std::vector<BFloat16> values(uint64_t seed) const;
};

struct GoldenImage {
  int64_t rows = 0, cols = 0;           // tiles; more than one adds a global tile after them
  int64_t first_tile = 0, n_tiles = 0;  // in pixels
  int64_t first_id = 0, n_ids = 0;      // in prompt
};

class GoldenModel {
 public:
  explicit GoldenModel(const std::string& name);  // tests/golden/models/NAME
  static std::vector<std::string> names();        // all cases, sorted

  std::string name, about;
  uint64_t seed = 0;
  bool stored = false;  // a checkpoint written by save_pretrained lies in the repository
  std::vector<GoldenTensor> tensors;
  Json config;  // config.json
  int64_t vocab = 0;

  std::vector<int32_t> prompt;
  std::vector<int32_t> greedy;  // the 40 tokens that follow, fp32
  std::vector<GoldenImage> images;
  std::vector<int64_t> pixel_shape;         // [N, 3, S, S]; empty without images
  std::vector<uint8_t> pixels() const;      // grey levels
  std::vector<float> pixel_values() const;  // normalised as the image processor does, exact in bf16

  std::vector<int64_t> logit_positions;  // the positions whose logits are stored
  GoldenMatrix logits;                   // [logit_positions, vocab] fp32 model
  GoldenMatrix bf16_logits;              // the same of the bf16 model; empty where the case has none
  double bf16_distance = 0;              // |bf16 - fp32| / |fp32| over all logits: the natural size of bf16 deviations

  // The checkpoint directory: the stored one, or one written into `scratch` with weights of `dtype` (f32 or bf16; the
  // values are the same, all of them are exact in bf16).
  std::filesystem::path checkpoint(const std::filesystem::path& scratch, DType dtype = DType::f32) const;

  // Activations have names (README.md lists them), rows are positions of the prompt, or tile * tokens + token for
  // "vision.*". Compares rows [first_row, first_row + n) with what is known of them: norm, a weighted sum, first and
  // last element, and some rows in full. Deviations are relative to the row's norm. Returns "" or one line naming the
  // activation, the row, expected and found.
  std::vector<std::string> activation_names() const;  // in the order in which a forward computes them
  int64_t activation_rows(const std::string& activation) const;
  std::string difference(const std::string& activation, int64_t first_row, std::span<const float> rows,
                         double tolerance) const;
  // Experts a MoE layer chose, best first: [T, k]. Empty for a dense layer.
  std::vector<int32_t> experts(int64_t layer) const;

  // `found` holds rows for positions [first_position, first_position + n), those that are stored are compared;
  // deviation relative to the norm of the expected row.
  std::string logits_difference(std::span<const float> found, double tolerance, int64_t first_position = 0) const;
  // |found - expected| / |expected| over all stored positions; `found` [T, vocab] for the whole prompt.
  double logits_distance(std::span<const float> found, const GoldenMatrix& expected) const;

  // The checksum and samples that the script wrote, for the formula's own test.
  std::string weights_checksum, pixels_checksum;
  struct Sample {
    std::string tensor;
    int64_t index;
    uint16_t bits;
  };
  std::vector<Sample> samples;

 private:
  std::filesystem::path dir_;
  std::vector<std::string> activations_;
  std::map<std::string, std::vector<int64_t>> row_positions_;
  std::map<std::string, GoldenMatrix> f32_;
  std::map<std::string, std::vector<int32_t>> i32_;
  const GoldenMatrix& f32(const std::string& tensor) const;
};

}  // namespace l4::test
