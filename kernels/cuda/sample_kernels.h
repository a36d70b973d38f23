// What sampling's host side (sample.cu) and its kernels (sample_kernels.cu) share. Everything here lies on the device.
#pragma once

#include "kernels/cuda/device/select.h"
#include "kernels/cuda/sample.h"

namespace l4::cuda::sampling {

constexpr int kMaxParts = 64, kPart = 1024;  // parts of a row, and tokens a part should have
constexpr int kListed = 8192;                // tokens of a list
constexpr int kMaxBest = 1024;               // with more logprobs than these a row is sorted on the host

struct Row {
  float temperature = 0;  // 0: greedy
  float lowest = 0;       // of (logit - highest) / temperature that min-p keeps
  float top_p = 1;
  int32_t top_k = 0;  // 0: off
  float repetition = 1, frequency = 0, presence = 0;
  int32_t n_best = -1;  // -1: no logprobs; else as SamplingParams::n_logprobs, in first_best and after
  uint64_t key = 0;     // of the random numbers
  int32_t first_patch = 0, n_patches = 0, first_best = 0;
  int32_t mask = -1;  // number of its mask
  __host__ __device__ bool edited() const { return n_patches > 0 || mask >= 0; }
  __host__ __device__ bool filters() const { return temperature > 0 && (top_k > 0 || top_p < 1); }
};
struct Patch {
  int32_t id = 0;
  float bias = 0;
  int32_t count = -1;  // times in the output; -1: neither there nor in the prompt
  int32_t forbidden = 0;
};

// A set of tokens of a row that is being cut: by probability for the draw, by logit for the best.
struct Cut {
  int32_t bucket;            // the cut is in it
  uint32_t n_through;        // tokens in the buckets up to it; this many are listed, if they fit
  uint32_t n_listed;         // so far
  int32_t top_k;             // draw: of the row, 0 if it has no more candidates than that
  unsigned long long total;  // draw: sum of all weights
};
enum Problem { kDraw, kBest, kProblems };

struct Part {  // of a row, one a block
  int32_t bad;
  float raw_highest;
  Best best;
  double exp_sum;
};

struct State {
  int32_t bad = 0;  // first token whose logit is NaN or +infinity; INT_MAX: none
  float bad_logit = 0;
  float raw_highest = 0;  // of the logits
  float highest = 0;      // after biases, penalties and masks; -infinity: nothing is allowed
  int32_t best = 0;       // the token of that
  int32_t choice = 0;
  float choice_logit = 0;
  double exp_sum = 0;  // of exp(logit - raw_highest)
  Cut cut[kProblems] = {};
  __device__ bool good() const { return bad == INT_MAX && highest > -INFINITY; }
};

// What every kernel gets.
struct Batch {
  const float* logits;  // [n, vocab]
  int vocab, n_words, n_parts;
  float one;  // fixed-point form of the weight 1
  const Row* rows;
  const Patch* patches;
  float* patched;         // new logits of the patches
  const uint32_t* masks;  // [., n_words]
  uint32_t* plain;        // [n, n_words] tokens that stand as they are, for rows that are edited
  State* states;
  Part* parts;                         // [kProblems, n, kMaxParts]
  unsigned long long* bucket_weights;  // [n, kBuckets], zero between kernels
  uint32_t* bucket_counts;             // [kProblems, n, kBuckets], zero between kernels
  uint64_t* lists;                     // [kProblems, n, kListed] sort keys
  uint64_t* best;                      // sort keys of the best tokens, at first_best of each row
  uint32_t* counters;                  // [kProblems, n], zero between kernels
  int n;
};

// Starts the kernels that the batch needs.
void issue(const Batch& batch, const SampleWork& work, cudaStream_t stream);

}  // namespace l4::cuda::sampling
