// The next token from one row of logits (ops/sampling.h). Everything is decided on the host in float32; candidates are
// ordered by (logit descending, id ascending) wherever order matters.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/cpu/ops.h"
#include "kernels/cpu/simd/kernels.h"
#include "ops/sampling_random.h"

namespace l4::cpu {

namespace {
constexpr float kForbidden = -INFINITY;

void check_row(std::span<const float> logits, int64_t row) {
  for (size_t i = 0; i < logits.size(); ++i)
    if (!(logits[i] < INFINITY))  // NaN or +infinity
      fail(ErrorKind::internal, "logits of row ", row, " hold ", std::isnan(logits[i]) ? "NaN" : "infinity", " (token ",
           i, ")");
}

void apply_bias_and_mask(const SamplingRow& row, std::span<float> values) {
  const int64_t v = int64_t(values.size());
  auto at = [&](int32_t id) -> float& {
    L4_CHECK(id >= 0 && id < v, "token ", id, " of a vocabulary of ", v);
    return values[size_t(id)];
  };
  for (const auto& [id, bias] : row.logit_bias) at(id) += bias;
  for (int32_t id : row.forbidden) at(id) = kForbidden;
  if (row.mask.empty()) return;
  L4_CHECK(int64_t(row.mask.size()) >= (v + 31) / 32);
  for (int64_t id = 0; id < v; ++id)
    if (!(row.mask[size_t(id / 32)] >> (id % 32) & 1)) values[size_t(id)] = kForbidden;
}

void apply_penalties(const SamplingRow& row, std::span<float> values, std::vector<int32_t>& counts) {
  const SamplingParams& p = row.params;
  if (p.repetition_penalty == 1 && p.frequency_penalty == 0 && p.presence_penalty == 0) return;
  counts.assign(values.size(), -1);  // -1: not seen, else times in the output
  for (int32_t id : row.prompt) {
    L4_CHECK(id >= 0 && size_t(id) < values.size());
    counts[size_t(id)] = 0;
  }
  for (int32_t id : row.output) {
    L4_CHECK(id >= 0 && size_t(id) < values.size());
    counts[size_t(id)] = std::max(counts[size_t(id)], 0) + 1;
  }
  for (size_t i = 0; i < values.size(); ++i) {
    if (counts[i] < 0) continue;
    float& v = values[i];
    v = v > 0 ? v / p.repetition_penalty : v * p.repetition_penalty;
    v -= p.frequency_penalty * float(counts[i]);
    if (counts[i] > 0) v -= p.presence_penalty;
  }
}

// The lowest id among the largest values.
int32_t best_of(std::span<const float> values) {
  return int32_t(std::max_element(values.begin(), values.end()) - values.begin());
}

// Keeps the top_k best candidates, sorted.
template <class Better>
void keep_top_k(std::vector<int32_t>& candidates, int32_t top_k, const Better& better) {
  if (top_k < int64_t(candidates.size())) {
    std::nth_element(candidates.begin(), candidates.begin() + top_k, candidates.end(), better);
    candidates.resize(size_t(top_k));
  }
  std::sort(candidates.begin(), candidates.end(), better);
}

// Keeps candidates while the probability before them, a part of the candidates' weights, is below top_p (0: none; the
// best one is in the draw whatever the filters say).
template <class Better>
void keep_top_p(std::vector<int32_t>& candidates, bool sorted, float top_p, std::span<const float> weights,
                const Better& better) {
  double total = 0;
  for (int32_t id : candidates) total += weights[size_t(id)];
  const double limit = double(top_p) * total;
  double before = 0;
  if (sorted) {
    size_t kept = 0;
    for (; kept < candidates.size() && before < limit; ++kept) before += weights[size_t(candidates[kept])];
    candidates.resize(kept);
    return;
  }
  // Usually a few tokens hold the mass: a heap sorts no more than those.
  auto worse = [&](int32_t a, int32_t b) { return better(b, a); };
  std::make_heap(candidates.begin(), candidates.end(), worse);
  auto end = candidates.end();
  for (; end != candidates.begin() && before < limit;) {
    before += weights[size_t(candidates.front())];
    std::pop_heap(candidates.begin(), end, worse);
    --end;
  }
  candidates.erase(candidates.begin(), end);
}

// Argmax of z + Gumbel noise -log(-log(1 - u)). It exceeds `best` only if u <= 1 - exp(-exp(z - best)) <= exp(z -
// best): a comparison of u with p = exp(z) spares nearly every token the logarithms. The margin covers the roundings.
struct GumbelMax {
  uint64_t key;
  int32_t id = -1;
  float best = -INFINITY, exp_best = 0;

  void consider(int32_t candidate, float z, float p) {
    if (sample_uniform(sample_bits(key, candidate)) * exp_best > p * 1.001f || z == kForbidden) return;
    const float sum = z + sample_gumbel(key, candidate);
    if (id >= 0 && (sum < best || (sum == best && candidate > id))) return;
    id = candidate;
    best = sum;
    exp_best = std::exp(sum);
  }
};

int32_t choose(const SamplingRow& row, std::span<float> values, SampleScratch& scratch) {
  const SamplingParams& p = row.params;
  const int32_t top = best_of(values);
  if (p.temperature <= 0) return top;
  const float highest = values[size_t(top)];
  for (float& v : values) v = (v - highest) / p.temperature;
  std::vector<float>& weights = scratch.weights;  // exp(z)
  weights.resize(values.size());
  simd_kernels().exp(values.data(), weights.data(), int64_t(values.size()));
  const float lowest = p.min_p > 0 ? std::log(p.min_p) : kForbidden;

  GumbelMax draw{.key = sample_key(p.seed, row.position)};
  draw.consider(top, 0, 1);
  const bool top_k = p.top_k > 0 && p.top_k < int64_t(values.size()), top_p = p.top_p < 1;
  if (!top_k && !top_p) {
    for (size_t i = 0; i < values.size(); ++i)
      if (values[i] >= lowest) draw.consider(int32_t(i), values[i], weights[i]);
    return draw.id;
  }
  std::vector<int32_t>& candidates = scratch.ids;
  candidates.clear();
  for (size_t i = 0; i < values.size(); ++i)
    if (values[i] != kForbidden) candidates.push_back(int32_t(i));
  auto better = [&](int32_t a, int32_t b) {
    float x = values[size_t(a)], y = values[size_t(b)];
    return x > y || (x == y && a < b);
  };
  if (top_k) keep_top_k(candidates, p.top_k, better);
  if (top_p) keep_top_p(candidates, top_k, p.top_p, weights, better);
  for (int32_t id : candidates)
    if (values[size_t(id)] >= lowest) draw.consider(id, values[size_t(id)], weights[size_t(id)]);
  return draw.id;
}

// Logarithm of the sum of exp(logits).
float log_sum_exp(std::span<const float> logits, std::vector<float>& work) {
  const float highest = logits[size_t(best_of(logits))];
  work.resize(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) work[i] = logits[i] - highest;
  simd_kernels().exp(work.data(), work.data(), int64_t(work.size()));
  return highest + float(std::log(std::accumulate(work.begin(), work.end(), 0.0)));
}
}  // namespace

TokenChoice sample_row(std::span<const float> logits, const SamplingRow& params, int64_t row, SampleScratch& scratch) {
  check_row(logits, row);
  scratch.values.assign(logits.begin(), logits.end());
  apply_bias_and_mask(params, scratch.values);
  apply_penalties(params, scratch.values, scratch.counts);
  if (scratch.values[size_t(best_of(scratch.values))] == kForbidden)
    fail(ErrorKind::internal, "logits of row ", row, ": no token is allowed");
  TokenChoice choice;
  choice.id = choose(params, scratch.values, scratch);

  const int64_t n_logprobs = std::min(int64_t(params.params.n_logprobs), int64_t(logits.size()));
  if (n_logprobs < 0) return choice;
  const float total = log_sum_exp(logits, scratch.values);
  choice.logprob = logits[size_t(choice.id)] - total;
  std::vector<int32_t>& ids = scratch.ids;
  ids.resize(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::partial_sort(ids.begin(), ids.begin() + n_logprobs, ids.end(), [&](int32_t a, int32_t b) {
    float x = logits[size_t(a)], y = logits[size_t(b)];
    return x > y || (x == y && a < b);
  });
  for (int64_t i = 0; i < n_logprobs; ++i) {
    const int32_t id = ids[size_t(i)];
    choice.top.push_back({id, logits[size_t(id)] - total});
  }
  return choice;
}

}  // namespace l4::cpu
