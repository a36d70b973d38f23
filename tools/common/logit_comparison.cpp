#include "tools/common/logit_comparison.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "base/error.h"

namespace l4::tools {

namespace {

double log_sum(std::span<const float> logits) {
  const double most = double(*std::max_element(logits.begin(), logits.end()));
  double sum = 0;
  for (const float x : logits) sum += std::exp(double(x) - most);
  return most + std::log(sum);
}

size_t likeliest(std::span<const float> logits) {
  return size_t(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.4g", value);
  return text;
}

}  // namespace

void LogitComparer::add(std::span<const float> p, std::span<const float> q, std::optional<int32_t> next) {
  L4_CHECK(!p.empty() && p.size() == q.size());
  LogitComparison& c = so_far_;
  const double p_sum = log_sum(p), q_sum = log_sum(q);
  double kl = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    const double log_p = double(p[i]) - p_sum, log_q = double(q[i]) - q_sum;
    kl += std::exp(log_p) * (log_p - log_q);
    c.largest_difference = std::max(c.largest_difference, std::fabs(double(p[i]) - double(q[i])));
  }
  kl_ += kl;
  if (kl > c.max_kl) c.max_kl = kl, c.worst_row = c.n_tokens;
  n_same_ += likeliest(p) == likeliest(q);
  if (next) {
    source_nll_ += p_sum - double(p[size_t(*next)]);
    target_nll_ += q_sum - double(q[size_t(*next)]);
    ++n_next_;
  }
  ++c.n_tokens;
}

LogitComparison LogitComparer::result() const {
  LogitComparison c = so_far_;
  if (c.n_tokens == 0) return c;
  c.mean_kl = kl_ / double(c.n_tokens);
  c.top1 = double(n_same_) / double(c.n_tokens);
  if (n_next_ > 0) {
    c.source_perplexity = std::exp(source_nll_ / double(n_next_));
    c.target_perplexity = std::exp(target_nll_ / double(n_next_));
  }
  return c;
}

std::string LogitComparison::text() const {
  char same[32];
  std::snprintf(same, sizeof same, "%.2f %%", 100 * top1);
  std::string out =
      cat("  KL divergence       mean ", number(mean_kl), ", largest ", number(max_kl), "\n", "  same likeliest      ",
          same, "\n", "  largest difference  ", number(largest_difference), " of two logits\n");
  if (source_perplexity > 0)
    out += cat("  perplexity          ", number(target_perplexity), ", the source's ", number(source_perplexity), "\n");
  return out;
}

Json LogitComparison::json() const {
  return Json::Object{{"tokens", n_tokens},
                      {"mean_kl", mean_kl},
                      {"max_kl", max_kl},
                      {"top1_agreement", top1},
                      {"largest_difference", largest_difference},
                      {"source_perplexity", source_perplexity},
                      {"target_perplexity", target_perplexity}};
}

}  // namespace l4::tools
