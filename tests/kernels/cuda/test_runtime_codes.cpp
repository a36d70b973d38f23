// Quantised checkpoints through the whole engine on GPUs: loaded from files, on one and on two, prompts and recorded steps.
#include "kernels/cuda/gpu_testing.h"
#include "support/quantized_model.h"
#include "support/test.h"

using namespace l4;
using namespace l4::test;

TEST_CASE("cuda runtime: quantised checkpoints of every kind give the CPU's logits") {
  skip_without_gpu();
  // With inputs in FP8 a sum that differs in its last bit may become another code, 2^-4 away, of one of 256 inputs.
  constexpr double kCode = 0.02;
  for (const How how : {How::fp8_row, How::fp8_tensor, How::fp8_block, How::int4, How::int4_zeros, How::int4_index}) {
    CAPTURE(int(how));
    const QuantizedCheckpoint made(how, false);
    CHECK(difference(logits_of(made, 1, {0}), logits_of(made)) < kSameFloat32);
  }
  for (const How how : {How::fp8_row, How::modelopt}) {
    CAPTURE(int(how));
    const QuantizedCheckpoint made(how);
    CHECK(difference(logits_of(made, 1, {0}), logits_of(made)) < kCode);
  }
}

TEST_CASE("cuda runtime: quantised checkpoints on two GPUs") {
  skip_without_gpu(2);
  for (const How how : {How::fp8_row, How::int4}) {
    CAPTURE(int(how));
    const QuantizedCheckpoint made(how, false);
    CHECK(difference(logits_of(made, 2, {0, 1}), logits_of(made)) < kSameFloat32);
  }
}
