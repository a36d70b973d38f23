#include <algorithm>
#include <map>
#include <numeric>

#include "kernels/cpu/op_testing.h"
#include "ops/sampling_random.h"

using namespace l4;
using namespace l4::test;

namespace {

SamplingRow row_of(const SamplingParams& params, int64_t position = 0) {
  SamplingRow row;
  row.params = params;
  row.position = position;
  return row;
}

int32_t choose(const std::vector<float>& logits, const SamplingRow& row) {
  cpu::SampleScratch scratch;
  return cpu::sample_row(logits, row, 0, scratch).id;
}

// The documented order of operations, the slow way: everything sorted, everything in double.
struct Reference {
  std::vector<std::pair<double, int32_t>> kept;  // (z, id), sorted

  Reference(const std::vector<float>& logits, const SamplingRow& row) {
    const SamplingParams& p = row.params;
    std::vector<float> v = logits;
    for (auto [id, bias] : row.logit_bias) v[size_t(id)] += bias;
    for (int32_t id : row.forbidden) v[size_t(id)] = -INFINITY;
    for (size_t i = 0; i < v.size() && !row.mask.empty(); ++i)
      if (!(row.mask[i / 32] >> (i % 32) & 1)) v[i] = -INFINITY;
    std::map<int32_t, int> times;
    for (int32_t id : row.prompt) times[id] += 0;
    for (int32_t id : row.output) times[id] += 1;
    for (auto [id, n] : times) {
      float& x = v[size_t(id)];
      x = x > 0 ? x / p.repetition_penalty : x * p.repetition_penalty;
      x -= p.frequency_penalty * float(n);
      if (n) x -= p.presence_penalty;
    }
    const float top = *std::max_element(v.begin(), v.end());
    for (size_t i = 0; i < v.size(); ++i)
      if (v[i] > -INFINITY) kept.push_back({double((v[i] - top) / p.temperature), int32_t(i)});
    std::sort(kept.begin(), kept.end(),
              [](auto a, auto b) { return a.first > b.first || (a.first == b.first && a.second < b.second); });
    if (p.top_k > 0 && p.top_k < int(kept.size())) kept.resize(size_t(p.top_k));
    if (p.top_p < 1) {
      double total = 0, before = 0;
      for (auto [z, id] : kept) total += std::exp(z);
      size_t n = 0;
      while (n < kept.size() && (n == 0 || before < p.top_p * total)) before += std::exp(kept[n++].first);
      kept.resize(n);
    }
    while (p.min_p > 0 && std::exp(kept.back().first) < p.min_p) kept.pop_back();
  }

  int32_t draw(const SamplingRow& row) const {
    int32_t best = -1;
    float most = -INFINITY;
    for (auto [z, id] : kept) {
      float sum = float(z) + sample_gumbel(sample_key(row.params.seed, row.position), id);
      if (best < 0 || sum > most) best = id, most = sum;
    }
    return best;
  }
};

}  // namespace

TEST_CASE("cpu sample: greedy takes the lowest id among equals") {
  std::vector<float> logits = {1, 3, -2, 3, 3, 0};
  SamplingRow row;
  row.params.temperature = 0;
  CHECK(choose(logits, row) == 1);
  const int32_t forbidden[] = {1};
  row.forbidden = forbidden;
  CHECK(choose(logits, row) == 3);
  const std::pair<int32_t, float> bias[] = {{3, -0.5f}, {5, 3.25f}};
  row.logit_bias = bias;
  CHECK(choose(logits, row) == 5);
  const uint32_t mask[] = {0b000101};
  row.mask = mask;
  CHECK(choose(logits, row) == 0);
  CHECK(choose({-INFINITY, -5, -INFINITY}, row_of({.temperature = 0})) == 1);
  CHECK(choose({7}, {}) == 0);  // a vocabulary of one
}

TEST_CASE("cpu sample: penalties") {
  std::vector<float> logits = {2, -1, 1.5, 0};
  const int32_t prompt[] = {0}, output[] = {2, 2, 3};
  SamplingRow row;
  row.params.temperature = 0;
  row.prompt = prompt, row.output = output;
  auto with = [&](float repetition, float frequency, float presence) {
    row.params.repetition_penalty = repetition, row.params.frequency_penalty = frequency,
    row.params.presence_penalty = presence;
    return choose(logits, row);
  };
  CHECK(with(1, 0, 0) == 0);
  CHECK(with(2, 0, 0) == 0);      // 1, -1, 0.75, 0: prompt and output alike
  CHECK(with(3, 0, 0) == 0);      // 0.67, -1, 0.5, 0
  CHECK(with(1, -0.3f, 0) == 2);  // frequency counts the output only: 2, -1, 2.1, 0.3
  CHECK(with(1, 0, -0.4f) == 0);  // presence does not count twice: 2, -1, 1.9, 0.4
  CHECK(with(1, 0, -0.6f) == 2);
  logits = {-2, -1, -3, -4};
  CHECK(with(0.1f, 0, 0) == 0);  // negative logits are multiplied: -0.2, -1, -0.3, -0.4
}

TEST_CASE("cpu sample: every filter against the slow reference, for vocabularies of odd size") {
  Numbers numbers(1);
  int differ = 0, drawn = 0;
  for (int64_t v : {1, 2, 33, 257, 2048})
    for (int repeat = 0; repeat < 150; ++repeat) {
      std::vector<float> logits;
      for (int64_t i = 0; i < v; ++i)  // coarse: ties at every cut; some forbidden from the start
        logits.push_back(numbers.below(9) == 0 ? -INFINITY : float(numbers.below(30)) / 4);
      logits[size_t(numbers.below(v))] = 5;
      SamplingRow row;
      SamplingParams& p = row.params;
      const float temperatures[] = {0.1f, 1, 2.5f, 1e-6f}, top_ps[] = {1, 0.9f, 0.5f, 0, 1e-9f, 0.999999f};
      const float min_ps[] = {0, 0.05f, 0.5f, 1};
      const int32_t top_ks[] = {0, 1, 2, 7, 50, 5000};
      p.temperature = temperatures[numbers.below(4)];
      p.top_p = top_ps[numbers.below(6)];
      p.min_p = min_ps[numbers.below(4)];
      p.top_k = top_ks[numbers.below(6)];
      p.seed = uint64_t(repeat) * 77;
      row.position = numbers.below(100000);
      std::vector<int32_t> prompt, output;
      if (repeat % 3 == 0) {
        p.repetition_penalty = 1.3f, p.frequency_penalty = 0.2f, p.presence_penalty = 0.4f;
        for (int i = 0; i < 20; ++i)
          prompt.push_back(int32_t(numbers.below(v))), output.push_back(int32_t(numbers.below(v)));
      }
      row.prompt = prompt, row.output = output;
      Reference reference(logits, row);
      const int32_t got = choose(logits, row);
      INFO(cat(v, " T ", p.temperature, " top_p ", p.top_p, " top_k ", p.top_k, " min_p ", p.min_p, " id ", got));
      CHECK(std::any_of(reference.kept.begin(), reference.kept.end(), [&](auto k) { return k.second == got; }));
      differ += got != reference.draw(row);
      ++drawn;
    }
  // Sums of probabilities in another order may move a cut by one token now and then.
  CHECK(differ <= drawn / 200);
}

TEST_CASE("cpu sample: frequencies follow the probabilities, positions and seeds are independent") {
  const std::vector<float> logits = {0, std::log(2.0f), std::log(3.0f), std::log(4.0f), -INFINITY};
  const int n = 20000;
  int count[5] = {}, same_next = 0;
  int32_t previous = -1;
  for (int i = 0; i < n; ++i) {
    int32_t id = choose(logits, row_of({.seed = uint64_t(i / 100)}, i % 100));
    ++count[id];
    same_next += id == previous;
    previous = id;
  }
  for (int i = 0; i < 4; ++i) CHECK(std::abs(count[i] - n * (i + 1) / 10.0) < 4 * std::sqrt(n * 0.25));
  CHECK(count[4] == 0);
  CHECK(std::abs(same_next - n * 0.3) < 4 * std::sqrt(n * 0.25));  // 0.01 + 0.04 + 0.09 + 0.16
}

TEST_CASE("cpu sample: the same request gives the same tokens, whatever stands beside it") {
  Numbers numbers(2);
  std::vector<float> logits;
  for (int i = 0; i < 1000; ++i) logits.push_back(float(numbers.uniform(-3, 3)));
  SamplingRow row = row_of({.top_p = 0.9f, .seed = 42}, 17);
  cpu::SampleScratch fresh, used;
  std::vector<float> other(5000, 1.0f);
  const int32_t ids[] = {1, 2, 3};
  SamplingRow noise = row_of({.repetition_penalty = 2, .n_logprobs = 5});
  noise.prompt = ids;
  const int32_t id = cpu::sample_row(logits, row, 0, fresh).id;
  for (int i = 0; i < 5; ++i) {
    cpu::sample_row(other, noise, 1, used);
    CHECK(cpu::sample_row(logits, row, 3, used).id == id);
  }
}

TEST_CASE("cpu sample: logprobs are those of the raw logits") {
  Numbers numbers(3);
  for (int64_t v : {1, 5, 3001}) {
    std::vector<float> logits;
    for (int64_t i = 0; i < v; ++i) logits.push_back(float(numbers.below(40)) / 3 - 60);
    double total = 0;
    for (float l : logits) total += std::exp(double(l));
    auto logprob = [&](int32_t id) { return double(logits[size_t(id)]) - std::log(total); };
    const std::pair<int32_t, float> bias[] = {{int32_t(v - 1), 50.0f}};
    SamplingRow row = row_of({.temperature = 0.5f, .top_k = 1, .n_logprobs = 4});
    row.logit_bias = bias;
    cpu::SampleScratch scratch;
    TokenChoice choice = cpu::sample_row(logits, row, 0, scratch);
    CHECK(choice.id == v - 1);
    CHECK(std::abs(choice.logprob - logprob(choice.id)) < tolerance::kLogprob.f32);
    std::vector<int32_t> order(static_cast<size_t>(v));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int32_t a, int32_t b) { return logits[size_t(a)] > logits[size_t(b)]; });
    REQUIRE(choice.top.size() == size_t(std::min<int64_t>(4, v)));
    for (size_t i = 0; i < choice.top.size(); ++i) {
      CHECK(choice.top[i].id == order[i]);
      CHECK(std::abs(choice.top[i].logprob - logprob(order[i])) < tolerance::kLogprob.f32);
    }
    row.params.n_logprobs = 0;
    choice = cpu::sample_row(logits, row, 0, scratch);
    CHECK(choice.top.empty());
    CHECK(std::abs(choice.logprob - logprob(choice.id)) < tolerance::kLogprob.f32);
    row.params.n_logprobs = -1;
    CHECK(cpu::sample_row(logits, row, 0, scratch).logprob == 0);
  }
}

TEST_CASE("cpu sample: NaN, infinity, and nothing allowed are errors that name the row") {
  cpu::SampleScratch scratch;
  auto error = [&](std::vector<float> logits, SamplingRow row) {
    return error_of([&] { cpu::sample_row(logits, row, 5, scratch); });
  };
  CHECK(error({1, NAN, 2}, {}) == "logits of row 5 hold NaN (token 1)");
  CHECK(error({1, 0, INFINITY}, {}) == "logits of row 5 hold infinity (token 2)");
  CHECK(error({-INFINITY, -INFINITY}, {}) == "logits of row 5: no token is allowed");
  const uint32_t none[] = {0};
  SamplingRow masked, beyond_end;
  masked.mask = none;
  CHECK(error({1, 2, 3}, masked) == "logits of row 5: no token is allowed");
  const int32_t beyond[] = {3};
  beyond_end.forbidden = beyond;
  CHECK(error({1, 2, 3}, beyond_end).find("token 3 of a vocabulary of 3") != std::string::npos);
}

TEST_CASE("sampling random: the hash is fixed, uniform and bounded") {
  // SplitMix64 from 0 gives this first output (the published test vector of the generator).
  CHECK(sample_mix(kSampleGolden) == 0xE220A8397B1DCDAFull);
  CHECK(sample_mix(2 * kSampleGolden) == 0x6E789E6AA1B965F4ull);
  CHECK(sample_uniform(0) == 0x1p-33f);
  CHECK(sample_uniform(0xFFFFFFFF) < 1.0f);
  double sum = 0, square = 0, most = 0;
  const int n = 200000;
  for (int i = 0; i < n; ++i) {
    double g = sample_gumbel(sample_key(9, i / 1000), i % 1000);
    sum += g, square += g * g, most = std::max(most, g);
  }
  CHECK(std::abs(sum / n - 0.5772157) < 0.02);                         // Euler's constant
  CHECK(std::abs(square / n - sum / n * sum / n - 1.6449341) < 0.05);  // pi^2 / 6
  CHECK(most < 22.9);                                                  // 33 ln 2, at u = 2^-33
  // Seeds, positions and tokens that differ in one bit share nothing.
  CHECK(sample_key(1, 0) != sample_key(0, 1));
  CHECK(sample_key(kSampleGolden, 0) != sample_key(0, 1));  // a seed is no shift of positions
  int equal = 0;
  for (int bit = 0; bit < 31; ++bit)
    equal += __builtin_popcount(sample_bits(sample_key(0, 0), 0) ^ sample_bits(sample_key(0, 0), 1 << bit));
  CHECK(std::abs(equal - 31 * 16) < 80);
}
