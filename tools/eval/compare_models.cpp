#include "tools/eval/compare_models.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "base/error.h"
#include "formats/npy.h"
#include "tools/common/signals.h"
#include "tools/common/terminal.h"
#include "tools/eval/logits.h"

namespace l4::eval {

using tools::LogitComparer;
using tools::LogitComparison;

namespace {

void check_finite(std::span<const float> row, const std::string& source, int64_t at) {
  if (!std::all_of(row.begin(), row.end(), [](float x) { return std::isfinite(x); }))
    fail_input(source, ": row ", at, ": logits that are not finite");
}

std::string exact(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.4g", value);
  return text;
}

// Rows of all sequences of one model, in order.
void run_model(const LoadOptions& how, const tools::Sequences& sequences, const std::string& what,
               const std::function<void(int64_t row, std::span<const float> logits)>& on_row) {
  tools::ProgressLine progress;
  LoadOptions load = how;
  load.on_progress = [&](uint64_t done, uint64_t total) { progress.bytes(cat("loading ", what), done, total); };
  if (load.max_context == 0)  // no more cache than that
    for (const auto& ids : sequences) load.max_context = std::max(load.max_context, int64_t(ids.size()));
  const std::unique_ptr<Engine> engine = Engine::load(load);
  progress.clear();
  const int64_t vocab = engine->config().text.vocab, n_tokens = tools::count_tokens(sequences);
  int64_t before = 0;
  for (const auto& ids : sequences) {
    engine->logits(engine->frontend().prompt_from_ids(ids), [&](int64_t first, std::span<const float> rows) {
      const int64_t n = int64_t(rows.size()) / vocab;
      for (int64_t i = 0; i < n; ++i) {
        const std::span<const float> row = rows.subspan(size_t(i * vocab), size_t(vocab));
        check_finite(row, how.model_dir.string(), before + first + i);
        on_row(before + first + i, row);
      }
      progress.tokens(cat("computing ", what), before + first + n, n_tokens);
    });
    before += int64_t(ids.size());
  }
}

// Removed with the object, however it ends.
class ScratchFile {
 public:
  explicit ScratchFile(const fs::path& folder) : path_(folder / cat("l4-compare-", getpid(), ".npy")) {}
  ~ScratchFile() {
    std::error_code ec;
    fs::remove(path_, ec);
  }
  ScratchFile(const ScratchFile&) = delete;
  ScratchFile& operator=(const ScratchFile&) = delete;
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

}  // namespace

LogitComparison compare_logit_files(const fs::path& first, const fs::path& second) {
  const NpyReader a(first), b(second);
  if (a.rows() != b.rows() || a.cols() != b.cols())
    fail_input(first.string(), " is ", a.rows(), " x ", a.cols(), ", ", second.string(), " ", b.rows(), " x ", b.cols(),
               ": not logits of the same tokens");
  if (a.rows() == 0 || a.cols() == 0) fail_input(first.string(), ": no logits in it");
  LogitComparer comparer;
  std::vector<float> p(size_t(a.cols())), q(p.size());
  for (int64_t row = 0; row < a.rows(); ++row) {
    a.read(row, p);
    b.read(row, q);
    check_finite(p, first.string(), row);
    check_finite(q, second.string(), row);
    comparer.add(p, q, std::nullopt);
  }
  return comparer.result();
}

void check_same_vocabulary(const LoadOptions& first, const LoadOptions& second) {
  const int64_t a = first.frontend->config().text.vocab, b = second.frontend->config().text.vocab;
  if (a != b)
    fail_input(first.model_dir.string(), " has ", a, " tokens in its vocabulary, ", second.model_dir.string(), " ", b,
               ": their logits cannot be compared");
}

LogitComparison compare_models(const ModelComparison& what) {
  const int64_t vocab = what.first.frontend->config().text.vocab;
  const ScratchFile scratch(what.scratch);
  {
    const tools::RemoveAtInterrupt remove_at_interrupt(unfinished_name(scratch.path()));
    NpyWriter writer(scratch.path(), vocab);
    run_model(what.first, what.sequences, "the first",
              [&](int64_t, std::span<const float> row) { writer.append(row); });
    writer.finish();
  }
  const tools::RemoveAtInterrupt remove_at_interrupt(scratch.path());
  const NpyReader wanted(scratch.path());
  std::vector<std::optional<int32_t>> next;
  for (const auto& ids : what.sequences)
    for (size_t t = 0; t < ids.size(); ++t)
      next.push_back(t + 1 < ids.size() ? std::optional(ids[t + 1]) : std::nullopt);
  LogitComparer comparer;
  std::vector<float> p(size_t(vocab), 0.0f);
  run_model(what.second, what.sequences, "the second", [&](int64_t row, std::span<const float> q) {
    wanted.read(row, p);
    comparer.add(p, q, next[size_t(row)]);
  });
  return comparer.result();
}

Document to_document(const LogitComparison& c, const std::string& first, const std::string& second) {
  Document d(cat("Logits: ", first, " and ", second), cat(c.n_tokens, c.n_tokens == 1 ? " token" : " tokens"));
  char same[32];
  std::snprintf(same, sizeof same, "%.2f %%", 100 * c.top1);
  std::vector<Document::Row> rows = {{"of the second from the first", "value"},
                                     {"KL divergence, mean, nats", exact(c.mean_kl)},
                                     {"KL divergence, largest, nats", exact(c.max_kl)},
                                     {"at row", cat(c.worst_row)},
                                     {"same likeliest token", same},
                                     {"largest difference of two logits", exact(c.largest_difference)}};
  if (c.source_perplexity > 0) {
    rows.push_back({"perplexity of the first", exact(c.source_perplexity)});
    rows.push_back({"perplexity of the second", exact(c.target_perplexity)});
  }
  d.table(std::move(rows));
  return d;
}

}  // namespace l4::eval
