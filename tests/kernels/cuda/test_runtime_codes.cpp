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

TEST_CASE("cuda runtime: an FP8 cache gives the CPU's logits, with scales of tokens and of the checkpoint") {
  skip_without_gpu();
  // A key or value that differs in its last bits may become another code, 2^-4 away; in bfloat16 a scale another one, too.
  constexpr double kNotTheSame = 0.04;
  struct Case {
    DType dtype;
    int64_t head_dim;  // 128 in bfloat16: decode's and prefill's own kernels
    double most;
  };
  for (const Case& c : {Case{DType::f32, 32, 2e-3}, Case{DType::bf16, 128, 0.04}})
    for (const bool fixed : {false, true}) {
      CAPTURE(c.head_dim);
      CAPTURE(fixed);
      QuantizedCheckpoint made(How::fp8_row, false, c.head_dim);
      if (fixed) made.add_cache_scales();
      const std::vector<float> plain = logits_of(made, 1, {}, {}, c.dtype), cpu = logits_of(made, 1, {}, {}, c.dtype, DType::f8_e4m3),
                               gpu = logits_of(made, 1, {0}, {}, c.dtype, DType::f8_e4m3);
      CHECK(difference(gpu, cpu) < c.most);
      CHECK(difference(cpu, plain) > kNotTheSame);
    }
}

TEST_CASE("cuda runtime: quantised checkpoints on two GPUs") {
  skip_without_gpu(2);
  for (const How how : {How::fp8_row, How::int4}) {
    CAPTURE(int(how));
    const QuantizedCheckpoint made(how, false);
    CHECK(difference(logits_of(made, 2, {0, 1}), logits_of(made)) < kSameFloat32);
  }
  // Scales of the checkpoint: the same on both.
  QuantizedCheckpoint made(How::fp8_row, false);
  made.add_cache_scales();
  CHECK(difference(logits_of(made, 2, {0, 1}, {}, DType::f32, DType::f8_e4m3), logits_of(made, 1, {}, {}, DType::f32, DType::f8_e4m3)) <
        2e-3);
}
