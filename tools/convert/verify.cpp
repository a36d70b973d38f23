#include "tools/convert/verify.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "base/error.h"
#include "formats/hf_checkpoint.h"

namespace l4::convert {

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

struct Sums {
  double kl = 0, source_nll = 0, target_nll = 0;
  int64_t n_next = 0, n_same = 0;
};

void add_row(std::span<const float> p, std::span<const float> q, std::optional<int32_t> next, Sums& sums,
             Comparison& c) {
  const double p_sum = log_sum(p), q_sum = log_sum(q);
  double kl = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    const double log_p = double(p[i]) - p_sum, log_q = double(q[i]) - q_sum;
    kl += std::exp(log_p) * (log_p - log_q);
    c.largest_difference = std::max(c.largest_difference, std::fabs(double(p[i]) - double(q[i])));
  }
  sums.kl += kl;
  c.max_kl = std::max(c.max_kl, kl);
  sums.n_same += likeliest(p) == likeliest(q);
  if (next) {
    sums.source_nll += p_sum - double(p[size_t(*next)]);
    sums.target_nll += q_sum - double(q[size_t(*next)]);
    ++sums.n_next;
  }
  ++c.n_tokens;
}

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.4g", value);
  return text;
}

}  // namespace

std::string Comparison::text() const {
  char same[32];
  std::snprintf(same, sizeof same, "%.2f %%", 100 * top1);
  return cat("\nverified on ", n_tokens, " tokens, beside the source\n", "  KL divergence       mean ", number(mean_kl),
             ", largest ", number(max_kl), "\n", "  same likeliest      ", same, "\n", "  largest difference  ",
             number(largest_difference), " of two logits\n", "  perplexity          ", number(target_perplexity),
             ", the source's ", number(source_perplexity), "\n");
}

Json Comparison::json() const {
  return Json::Object{{"tokens", n_tokens},
                      {"mean_kl", mean_kl},
                      {"max_kl", max_kl},
                      {"top1_agreement", top1},
                      {"largest_difference", largest_difference},
                      {"source_perplexity", source_perplexity},
                      {"target_perplexity", target_perplexity}};
}

Comparison compare_logits(const fs::path& source, const fs::path& target, const Sequences& sequences, Device device,
                          int threads, const std::function<void(int64_t done, int64_t total)>& on_progress) {
  std::vector<std::vector<float>> wanted(sequences.size());
  Comparison result;
  Sums sums;
  int64_t runs = 0, n_tokens = 0;
  for (const auto& ids : sequences) n_tokens += int64_t(ids.size());
  for (const fs::path& dir : {source, target}) {
    const ModelConfig config = load_model_config(dir);
    const HfCheckpoint checkpoint(dir);
    const CheckpointWeights weights(config, checkpoint);
    LayerRunner runner(config, device, threads, sequences);
    const int64_t n_layers = config.text.n_layers;
    const size_t vocab = size_t(config.text.vocab);
    for (int64_t l = 0; l < n_layers; ++l) {
      runner.load(l, weights);
      if (l + 1 < n_layers) {
        runner.run(true);
      } else {
        runner.run_to_logits([&](size_t i, std::span<const float> logits) {
          if (std::any_of(logits.begin(), logits.end(), [](float x) { return !std::isfinite(x); }))
            fail_input(dir.string(), ": gives logits that are not finite");
          if (wanted[i].empty()) {  // the first of the two
            wanted[i].assign(logits.begin(), logits.end());
            return;
          }
          const std::vector<int32_t>& ids = sequences[i];
          for (size_t t = 0; t < ids.size(); ++t)
            add_row(std::span(wanted[i]).subspan(t * vocab, vocab), logits.subspan(t * vocab, vocab),
                    t + 1 < ids.size() ? std::optional(ids[t + 1]) : std::nullopt, sums, result);
        });
      }
      if (on_progress) on_progress(++runs * n_tokens, 2 * n_layers * n_tokens);
    }
  }
  result.mean_kl = sums.kl / double(result.n_tokens);
  result.top1 = double(sums.n_same) / double(result.n_tokens);
  if (sums.n_next > 0) {
    result.source_perplexity = std::exp(sums.source_nll / double(sums.n_next));
    result.target_perplexity = std::exp(sums.target_nll / double(sums.n_next));
  }
  return result;
}

}  // namespace l4::convert
