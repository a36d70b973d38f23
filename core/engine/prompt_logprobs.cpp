#include "engine/prompt_logprobs.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"

namespace l4 {

namespace {

double log_sum_exp(std::span<const float> logits) {
  const double max = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (float z : logits) sum += std::exp(double(z) - max);
  return max + std::log(sum);
}

std::vector<int32_t> best_ids(std::span<const float> logits, int32_t n) {
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  auto better = [&](int32_t a, int32_t b) {
    return logits[size_t(a)] != logits[size_t(b)] ? logits[size_t(a)] > logits[size_t(b)] : a < b;
  };
  std::partial_sort(order.begin(), order.begin() + n, order.end(), better);
  order.resize(size_t(n));
  return order;
}

}  // namespace

std::vector<TokenChoice> prompt_logprobs(std::span<const float> rows, int64_t vocab, std::span<const int32_t> ids,
                                         int64_t first, int32_t n_best) {
  std::vector<TokenChoice> result;
  const int64_t n = std::min(int64_t(rows.size()) / vocab, int64_t(ids.size()) - first - 1);
  for (int64_t i = 0; i < n; ++i) {
    const std::span<const float> logits = rows.subspan(size_t(i * vocab), size_t(vocab));
    if (std::any_of(logits.begin(), logits.end(), [](float z) { return std::isnan(z); }))
      fail(ErrorKind::internal, "the logits of prompt token ", first + i, " are not numbers (NaN)");
    const double total = log_sum_exp(logits);
    TokenChoice choice;
    choice.id = ids[size_t(first + i + 1)];
    choice.logprob = float(logits[size_t(choice.id)] - total);
    for (int32_t id : best_ids(logits, n_best)) choice.top.push_back({id, float(logits[size_t(id)] - total)});
    result.push_back(std::move(choice));
  }
  return result;
}

}  // namespace l4
