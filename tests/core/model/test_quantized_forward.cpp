// The whole model on quantised weights against the same weights in float32: loading, planning and multiplying at once.
#include "support/quantized_model.h"
#include "support/test.h"

using namespace l4;
using namespace l4::test;

TEST_CASE("quantized forward: codes and scales give what their weights in float32 give") {
  for (const How how : {How::fp8_row, How::fp8_tensor, How::int4}) {
    INFO(int(how));
    const QuantizedCheckpoint made(how, false);
    const std::vector<float> want = logits_of(made.widened());
    CHECK(difference(logits_of(made), want) < kSameFloat32);
    CHECK(difference(logits_of(made, 2), want) < kSameFloat32);
  }
  // What becomes BF16 as it is loaded: all its codes times scales are exact there (4 bits of a code, 4 of a scale).
  for (const How how : {How::fp8_block, How::int4_zeros, How::int4_index}) {
    INFO(int(how));
    const QuantizedCheckpoint made(how, false);
    CHECK(difference(logits_of(made), logits_of(made.widened())) < kSameFloat32);
  }
}

TEST_CASE("quantized forward: with inputs in FP8, too, it is near") {
  // Codes are 0.026 away in the mean (2^-4 at most); eight products' inputs, each as large as what it is added to: 0.074, and
  // three times that, for what a softmax and a router make of it.
  constexpr double kNear = 0.25, kNotTheSame = 1e-3;
  for (const How how : {How::fp8_row, How::modelopt}) {
    INFO(int(how));
    const QuantizedCheckpoint made(how);
    const std::vector<float> want = logits_of(made.widened()), got = logits_of(made);
    CHECK(difference(got, want) < kNear);
    CHECK(difference(got, want) > kNotTheSame);
    // Each rank quantises its own columns, so two ranks differ from one by roundings again.
    CHECK(difference(logits_of(made, 2), want) < kNear);
  }
}

TEST_CASE("quantized forward: attention and head become FP8 as they are loaded, where they are not quantised") {
  // Row by row as pack() says, by hand: codes and scales in a checkpoint.
  QuantizedCheckpoint plain(How::int4), by_hand = plain;
  const auto quantize = [&](const std::string& name) {
    const Shape shape = plain.tensors.at(name).shape;
    const std::vector<float> values = plain.meaning.at(name);
    uint8_t* codes = by_hand.add<uint8_t>(name, DType::f8_e4m3, shape);
    float* scale = by_hand.add<float>(name + "_scale", DType::f32, {shape[0], 1});
    for (int64_t n = 0; n < shape[0]; ++n) {
      float most = 0;
      for (int64_t k = 0; k < shape[1]; ++k) most = std::max(most, std::abs(values[size_t(n * shape[1] + k)]));
      scale[n] = fp8_scale(most);
      for (int64_t k = 0; k < shape[1]; ++k)
        codes[n * shape[1] + k] = fp8_from_float(values[size_t(n * shape[1] + k)] / scale[n]);
    }
  };
  for (const ExpectedTensor& t : expected_tensors(plain.config)) {
    const bool attention = t.part == ModelPart::attention, head = t.part == ModelPart::lm_head;
    if (!attention && !head) continue;
    if (attention)
      for (const char* suffix : {"_packed", "_scale", "_shape"})
        for (QuantizedCheckpoint* c : {&plain, &by_hand}) c->tensors.erase(t.name + suffix);
    if (attention) plain.meaning.erase(t.name), plain.plain(t.name, t.shape);
    quantize(t.name);
  }
  const std::vector<float> want = logits_of(by_hand);
  CHECK(logits_of(plain, 1, {}, {.attention = true, .head = true}) == want);
  CHECK(logits_of(plain, 1, {}, {.attention = true}) != want);
  CHECK(logits_of(plain, 1, {}, {.head = true}) != want);
  // What is quantised stays as it is.
  CHECK(logits_of(by_hand, 1, {}, {.attention = true, .head = true}) == want);
}
