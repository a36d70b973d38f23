// A quantised checkpoint (quantized_checkpoint.h) through the whole model in float32: a prompt, then steps of one token.
#pragma once

#include <cmath>
#include <vector>

#include "support/one_sequence.h"
#include "support/quantized_checkpoint.h"
#include "support/test.h"

namespace l4::test {

constexpr double kSameFloat32 = 2e-5;  // sums in another order, as between golden models and transformers

// Logits of 20 tokens and of three more, one by one. gpus empty: on the CPU.
inline std::vector<float> logits_of(const QuantizedCheckpoint& made, int tp = 1, std::vector<int> gpus = {},
                                    QuantizeAtLoad quantize = {}, DType dtype = DType::f32,
                                    std::optional<DType> kv_dtype = {}) {
  TempDir dir;
  made.write(dir / "model.safetensors");
  const HfCheckpoint files(dir.path());
  ExecutorOptions options;
  options.dtype = dtype;
  options.kv_dtype = kv_dtype;
  options.topology.tp = tp;
  options.cpu_threads = 2;
  options.gpus = std::move(gpus);
  options.quantize = quantize;
  OneSequence model(made.config, files, options, 64);
  std::vector<int32_t> ids;
  for (int i = 0; i < 20; ++i) ids.push_back(int32_t(i * 7 % 64));
  std::vector<float> logits = model.append(ids);
  for (const int32_t next : {5, 9, 5}) {
    const std::vector<float> more = model.append(std::vector<int32_t>{next});
    logits.insert(logits.end(), more.begin(), more.end());
  }
  return logits;
}

// The length of the difference, as a share of the logits' own.
inline double difference(const std::vector<float>& a, const std::vector<float>& b) {
  REQUIRE(a.size() == b.size());
  double apart = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    REQUIRE(std::isfinite(a[i]));
    apart += (double(a[i]) - b[i]) * (double(a[i]) - b[i]);
    size += double(b[i]) * b[i];
  }
  return std::sqrt(apart / size);
}

}  // namespace l4::test
