#include "kernels/cuda/sample.h"

#include "kernels/cuda/gpu_testing.h"
#include "kernels/cuda/sort_key.h"

using namespace l4;
using namespace l4::test;

namespace {

// A request's parameters with the memory that they point into.
struct Request {
  SamplingRow row;
  std::vector<int32_t> prompt, output, forbidden;
  std::vector<std::pair<int32_t, float>> bias;
  std::vector<uint32_t> mask;

  const SamplingRow& get() {
    row.prompt = prompt, row.output = output, row.forbidden = forbidden, row.logit_bias = bias, row.mask = mask;
    return row;
  }
};

struct Both {  // choices of the two backends
  std::vector<TokenChoice> cpu, gpu;
};

Both sample(GpuMachine& gpu, cuda::Sampler& sampler, const std::vector<std::vector<float>>& logits,
            std::vector<Request>& requests) {
  const int64_t v = int64_t(logits[0].size());
  Values all(DType::f32, {int64_t(logits.size()), v});
  Both both;
  std::vector<SamplingRow> rows;
  cpu::SampleScratch scratch;
  for (size_t i = 0; i < logits.size(); ++i) {
    for (int64_t t = 0; t < v; ++t) all.set(int64_t(i) * v + t, logits[i][size_t(t)]);
    rows.push_back(requests[i].get());
    both.cpu.push_back(cpu::sample_row(logits[i], rows.back(), int64_t(i), scratch));
  }
  both.gpu = sampler.sample(gpu.upload(all), rows);
  return both;
}

// Coarse logits: ties at every cut, some forbidden from the start.
std::vector<float> coarse(Numbers& numbers, int64_t v) {
  std::vector<float> logits;
  for (int64_t i = 0; i < v; ++i)
    logits.push_back(numbers.below(9) == 0 ? -INFINITY : float(numbers.below(30)) / 4 - 3);
  logits[size_t(numbers.below(v))] = 5;
  return logits;
}
std::vector<float> smooth(Numbers& numbers, int64_t v) {
  std::vector<float> logits;
  for (int64_t i = 0; i < v; ++i) logits.push_back(float(numbers.uniform(-12, 8)));
  return logits;
}

Request any_request(Numbers& numbers, int64_t v, int64_t number) {
  Request r;
  SamplingParams& p = r.row.params;
  const float temperatures[] = {0, 0.1f, 1, 2.5f, 1e-6f, 1}, top_ps[] = {1, 0.9f, 0.5f, 0, 1e-9f, 0.999999f, 1};
  const float min_ps[] = {0, 0.05f, 0.5f, 1, 0};
  const int32_t top_ks[] = {0, 1, 2, 7, 50, 5000, 0};
  p.temperature = temperatures[numbers.below(6)];
  p.top_p = top_ps[numbers.below(7)];
  p.min_p = min_ps[numbers.below(5)];
  p.top_k = top_ks[numbers.below(7)];
  p.seed = uint64_t(number) * 77;
  p.n_logprobs = numbers.below(3) ? -1 : int32_t(numbers.below(9));
  r.row.position = numbers.below(100000);
  if (numbers.below(3) == 0) {
    p.repetition_penalty = 1.3f, p.frequency_penalty = 0.2f, p.presence_penalty = numbers.below(2) ? 0.4f : 0;
    for (int i = 0; i < 20; ++i)
      r.prompt.push_back(int32_t(numbers.below(v))), r.output.push_back(int32_t(numbers.below(v)));
  }
  if (numbers.below(4) == 0)
    for (int64_t i = numbers.below(5); i >= 0; --i) r.bias.push_back({int32_t(i * (v / 7) % v), i % 3 ? 3.5f : -2});
  const int32_t spared = int32_t(numbers.below(v));
  if (numbers.below(4) == 0)
    for (int64_t i = numbers.below(6); i > 0; --i)
      if (const int32_t id = int32_t(numbers.below(v)); id != spared) r.forbidden.push_back(id);
  if (numbers.below(4) == 0) {
    for (int64_t w = 0; w < (v + 31) / 32; ++w) r.mask.push_back(uint32_t(numbers.below(int64_t(1) << 32)));
    r.mask[size_t(spared / 32)] |= 1u << (spared % 32);
  }
  return r;
}

std::string describe(const SamplingRow& row) {
  const SamplingParams& p = row.params;
  return cat("T ", p.temperature, " top_p ", p.top_p, " top_k ", p.top_k, " min_p ", p.min_p, " logprobs ",
             p.n_logprobs, " seed ", p.seed, row.mask.empty() ? "" : " masked", row.forbidden.empty() ? "" : " forbids",
             row.logit_bias.empty() ? "" : " biased", row.prompt.empty() ? "" : " penalised");
}

}  // namespace

TEST_CASE("cuda sample: the CPU's choices and logprobs, for every mix of parameters") {
  GpuMachine gpu;
  Numbers numbers(1);
  int differ = 0, drawn = 0;
  for (int64_t v : {1, 2, 33, 257, 3001}) {
    cuda::Sampler sampler(gpu.gpu, 12, v);
    for (int round = 0; round < 3; ++round) {
      std::vector<std::vector<float>> logits;
      std::vector<Request> requests;
      for (int i = 0; i < (round == 0 ? 29 : 7); ++i) {  // 29: more than the sampler takes at once
        logits.push_back(round % 2 ? smooth(numbers, v) : coarse(numbers, v));
        requests.push_back(any_request(numbers, v, round * 100 + i));
        // An allowed token, whatever the mask: the best one is unmasked and not forbidden.
        const size_t best =
            size_t(std::max_element(logits.back().begin(), logits.back().end()) - logits.back().begin());
        if (!requests.back().mask.empty()) requests.back().mask[best / 32] |= 1u << (best % 32);
        std::erase(requests.back().forbidden, int32_t(best));
      }
      const Both both = sample(gpu, sampler, logits, requests);
      REQUIRE(both.gpu.size() == both.cpu.size());
      for (size_t i = 0; i < both.cpu.size(); ++i) {
        INFO(cat(v, " tokens, ", describe(requests[i].row), ": ", both.gpu[i].id, " for ", both.cpu[i].id));
        ++drawn;
        if (both.gpu[i].id != both.cpu[i].id) {
          ++differ;
          CHECK(requests[i].row.params.temperature > 0);
          continue;
        }
        CHECK(std::abs(both.gpu[i].logprob - both.cpu[i].logprob) < tolerance::kLogprob.f32);
        REQUIRE(both.gpu[i].top.size() == both.cpu[i].top.size());
        for (size_t k = 0; k < both.cpu[i].top.size(); ++k) {
          CHECK(both.gpu[i].top[k].id == both.cpu[i].top[k].id);
          const float a = both.gpu[i].top[k].logprob, b = both.cpu[i].top[k].logprob;
          CHECK((a == b || std::abs(a - b) < tolerance::kLogprob.f32));  // -infinity included
        }
      }
    }
  }
  CHECK(differ <= drawn / 100);  // float32 ties
}

TEST_CASE("cuda sample: penalties of greedy rows, choice by choice") {
  GpuMachine gpu;
  const int64_t v = 4;
  cuda::Sampler sampler(gpu.gpu, 200, v);
  Numbers numbers(5);
  std::vector<std::vector<float>> logits;
  std::vector<Request> requests;
  const float repetitions[] = {1, 1.5f, 0.4f}, others[] = {0, 0.5f, -0.75f};
  for (int i = 0; i < 200; ++i) {
    logits.push_back(smooth(numbers, v));
    for (float& l : logits.back()) l /= 8;
    Request r;
    r.row.params = {.temperature = 0,
                    .repetition_penalty = repetitions[numbers.below(3)],
                    .frequency_penalty = others[numbers.below(3)],
                    .presence_penalty = others[numbers.below(3)]};
    for (int64_t n = numbers.below(4); n > 0; --n) r.prompt.push_back(int32_t(numbers.below(v)));
    for (int64_t n = numbers.below(6); n > 0; --n) r.output.push_back(int32_t(numbers.below(v)));
    requests.push_back(r);
  }
  const Both both = sample(gpu, sampler, logits, requests);
  int differ = 0;
  for (size_t i = 0; i < both.cpu.size(); ++i) differ += both.gpu[i].id != both.cpu[i].id;
  CHECK(differ == 0);
}

TEST_CASE("cuda sample: more candidates than a list holds, and cuts among equals") {
  GpuMachine gpu;
  const int64_t v = 8501;
  cuda::Sampler sampler(gpu.gpu, 8, v);
  Numbers numbers(2);
  std::vector<float> equal(size_t(v), 1.25f), flat, two;
  for (int64_t i = 0; i < v; ++i) flat.push_back(float(numbers.uniform(0, 0.03))), two.push_back(i % 3 ? -1.0f : 1.0f);
  equal[0] = equal[77] = -INFINITY;
  const SamplingParams filters[] = {{.top_k = 100},       {.top_k = 8300},
                                    {.top_p = 0.5f},      {.top_k = 8200, .top_p = 0.7f, .n_logprobs = 3},
                                    {.n_logprobs = 1024}, {.n_logprobs = 1025}};
  int differ = 0;
  for (const std::vector<float>& logits : {equal, flat, two}) {
    std::vector<Request> requests;
    for (const SamplingParams& p : filters) {
      requests.emplace_back();
      requests.back().row.params = p;
      requests.back().row.params.seed = requests.size();
    }
    const Both both = sample(gpu, sampler, std::vector(requests.size(), logits), requests);
    for (size_t i = 0; i < both.cpu.size(); ++i) {
      INFO(cat(describe(requests[i].row), ": ", both.gpu[i].id, " for ", both.cpu[i].id));
      differ += both.gpu[i].id != both.cpu[i].id;
      REQUIRE(both.gpu[i].top.size() == both.cpu[i].top.size());
      int64_t others = 0;
      for (size_t k = 0; k < both.cpu[i].top.size(); ++k) others += both.gpu[i].top[k].id != both.cpu[i].top[k].id;
      CHECK(others == 0);
    }
  }
  CHECK(differ == 0);
}

TEST_CASE("cuda sample: NaN, infinity, and nothing allowed are errors that name the row") {
  GpuMachine gpu;
  cuda::Sampler sampler(gpu.gpu, 2, 3);
  Numbers numbers(3);
  auto error = [&](std::vector<float> logits, Request request) {
    Values all(DType::f32, {3, 3});  // the third row, in the second round
    for (int64_t i = 0; i < 9; ++i) all.set(i, i < 6 ? 1.0f : logits[size_t(i - 6)]);
    std::vector<SamplingRow> rows(3);
    rows[2] = request.get();
    return error_of([&] { sampler.sample(gpu.upload(all), rows); });
  };
  for (float temperature : {0.0f, 1.0f}) {
    Request plain, masked, beyond_end, filtered;
    plain.row.params.temperature = masked.row.params.temperature = temperature;
    filtered.row.params = {.temperature = temperature, .top_k = 2, .top_p = 0.5f, .n_logprobs = 2};
    masked.mask = {0};
    beyond_end.forbidden = {3};
    for (const Request& r : {plain, filtered}) {
      CHECK(error({1, NAN, 2}, r) == "logits of row 2 hold NaN (token 1)");
      CHECK(error({1, 0, INFINITY}, r) == "logits of row 2 hold infinity (token 2)");
      CHECK(error({NAN, 0, INFINITY}, r) == "logits of row 2 hold NaN (token 0)");
      CHECK(error({-INFINITY, -INFINITY, -INFINITY}, r) == "logits of row 2: no token is allowed");
    }
    CHECK(error({1, NAN, 2}, masked) == "logits of row 2 hold NaN (token 1)");
    CHECK(error({1, 2, 3}, masked) == "logits of row 2: no token is allowed");
    CHECK(error({1, 2, 3}, beyond_end).find("token 3 of a vocabulary of 3") != std::string::npos);
    const std::vector<SamplingRow> rows(1, plain.get());  // nothing of the errors stays behind
    CHECK(sampler.sample(gpu.upload(numbers.tensor(DType::f32, {1, 3})), rows).size() == 1);
  }
}

TEST_CASE("cuda sample: rows that name more tokens than there is room for go in rounds") {
  GpuMachine gpu;
  const int64_t v = 3000;
  cuda::Sampler sampler(gpu.gpu, 2, v);  // room for 3000 named tokens
  Numbers numbers(4);
  std::vector<std::vector<float>> logits;
  std::vector<Request> requests;
  for (int i = 0; i < 4; ++i) {
    logits.push_back(smooth(numbers, v));
    requests.emplace_back();
    requests.back().row.params.temperature = 0;
    requests.back().row.params.repetition_penalty = 1.7f;
    for (int64_t t = 0; t < v; ++t)
      if (i == 0 || t % 3) requests.back().prompt.push_back(int32_t(t));
  }
  const Both both = sample(gpu, sampler, logits, requests);
  for (size_t i = 0; i < 4; ++i) CHECK(both.gpu[i].id == both.cpu[i].id);
}

TEST_CASE("cuda sample: sort keys order as the CPU orders, and give the logit back") {
  const float values[] = {INFINITY, 3, 1e-40f, 0, -1e-40f, -2.5f, -INFINITY};
  for (size_t i = 0; i < 7; ++i) {
    CHECK(cuda::key_value(cuda::sort_key(values[i], 12)) == values[i]);
    CHECK(cuda::key_id(cuda::sort_key(values[i], 12)) == 12);
    CHECK(cuda::sort_key(values[i], 12) < cuda::sort_key(values[i], 13));
    if (i) CHECK(cuda::sort_key(values[i - 1], 13) < cuda::sort_key(values[i], 12));
  }
  CHECK(cuda::sort_key(-0.0f, 1) == cuda::sort_key(0.0f, 1));
}
