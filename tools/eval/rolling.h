// Perplexity's arithmetic: a document's tokens cut into windows, and the sums over what comes back.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

namespace l4::eval {

struct Window {
  std::vector<int32_t> ids;
  int64_t n_scored = 0;  // the last of them; those before are their context
};

// Every token is scored exactly once, as lm-eval's loglikelihood_rolling does: the first window is `prefix_id` and
// `window` tokens, all scored; each further one has window + 1 tokens, of which the last `stride` are new, and the last
// one fewer new ones and more context. With stride = window (lm-eval's) a window sees one token of the one before.
class RollingWindows {
 public:
  using Emit = std::function<void(Window)>;
  RollingWindows(int32_t prefix_id, int64_t window, int64_t stride);  // 1 <= stride <= window

  void add(std::span<const int32_t> ids, const Emit& emit);
  void finish(const Emit& emit);  // the end of the document; then ready for another

 private:
  void cut(size_t n, const Emit& emit);

  const int32_t prefix_id_;
  const size_t window_, stride_;
  std::vector<int32_t> ids_;  // what is not scored yet, and the context before it
  size_t scored_ = 0;         // of ids_
  bool first_ = true;
};

// Pieces that Python's re.split(r"\s+", text) gives: lm-eval's count of words. `utf8` is valid.
int64_t count_words(std::string_view utf8);

struct Estimate {
  double value = 0;
  std::optional<double> error;  // standard error; none for a single unit
};

// Negative log-likelihoods in nats, added up over tokens, words and bytes.
class RollingScore {
 public:
  void add_token(double logprob);
  void end_document(int64_t n_words, int64_t n_bytes);  // of the text that counts

  int64_t n_documents() const { return n_documents_; }
  int64_t n_tokens() const { return n_tokens_; }
  int64_t n_words() const { return n_words_; }
  int64_t n_bytes() const { return n_bytes_; }
  double loglikelihood() const { return -nll_; }
  // exp(nll / n). The error takes documents as independent, of a single one its tokens, which is too small where
  // neighbours are alike (llama.cpp's is of this kind); of the exponential by its slope.
  Estimate token_perplexity() const;
  Estimate word_perplexity() const;
  Estimate byte_perplexity() const;
  Estimate bits_per_byte() const;
  bool errors_are_over_documents() const { return n_documents_ > 1; }

 private:
  enum Unit { tokens, words, bytes };
  Estimate rate(Unit unit) const;  // nats each
  static Estimate exponential(Estimate rate);

  int64_t n_documents_ = 0, n_tokens_ = 0, n_words_ = 0, n_bytes_ = 0;
  double nll_ = 0, squares_ = 0;  // over tokens
  double document_nll_ = 0;       // of the document at hand
  int64_t document_tokens_ = 0;
  double document_squares_ = 0;                 // of documents' nll
  std::array<double, 3> products_{}, sizes_{};  // of documents' nll and size in units, of sizes squared
};

}  // namespace l4::eval
