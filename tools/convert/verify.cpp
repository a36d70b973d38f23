#include "tools/convert/verify.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "formats/hf_checkpoint.h"

namespace l4::convert {

Comparison compare_logits(const fs::path& source, const fs::path& target, const Sequences& sequences, Device device,
                          int threads, const std::function<void(int64_t done, int64_t total)>& on_progress) {
  std::vector<std::vector<float>> wanted(sequences.size());
  tools::LogitComparer comparer;
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
            comparer.add(std::span(wanted[i]).subspan(t * vocab, vocab), logits.subspan(t * vocab, vocab),
                         t + 1 < ids.size() ? std::optional(ids[t + 1]) : std::nullopt);
        });
      }
      if (on_progress) on_progress(++runs * n_tokens, 2 * n_layers * n_tokens);
    }
  }
  return comparer.result();
}

}  // namespace l4::convert
