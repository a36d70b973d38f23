// Choosing tokens on the device (ops/sampling.h): the same choice as kernels/cpu/sample.cpp for the same logits, up to
// ties of float32: exp and log of the two may differ in the last place, and sums of probabilities are whole multiples
// of 2^-44 of the best token's here, so that a token within that of a cut may fall on its other side.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "kernels/cuda/gpu.h"
#include "ops/sampling.h"

namespace l4::cuda {

struct SampleMemory;

// What a batch of rows needs, and how much of the arrays it fills.
struct SampleWork {
  int32_t n_rows = 0, n_patches = 0, n_masks = 0, n_best = 0;
  bool edits = false;     // a row has biases, penalties, forbidden tokens or a mask
  bool draws = false;     // a row has a temperature
  bool filters = false;   // a row that draws has top-k or top-p
  bool logprobs = false;  // a row wants logprobs
};

class Sampler {
 public:
  // Takes all the memory it will ever need, on the device and pinned: with Scout's vocabulary 0.22 MB a row and 4 MB of
  // either kind. Error{memory} where there is not as much. At most Gpu::kCounters / 2 rows.
  Sampler(Gpu& gpu, int64_t max_rows, int64_t vocab);
  ~Sampler();
  static size_t device_bytes(int64_t max_rows, int64_t vocab);

  // Backend::sample. Waits for the stream. More than max_rows rows go in rounds.
  std::vector<TokenChoice> sample(const View& logits, std::span<const SamplingRow> rows);

 private:
  bool add(const SamplingRow& row, SampleWork& work);
  void issue(const float* logits, const SampleWork& work);
  TokenChoice choice(const float* logits, const SamplingParams& params, int64_t i, int64_t row) const;

  Gpu& gpu_;
  int64_t max_rows_, vocab_;
  Arena device_, pinned_;  // own the memory
  std::unique_ptr<SampleMemory> memory_;
  std::vector<int32_t> patch_of_;  // of each token in the row being added, -1: none
};

}  // namespace l4::cuda
