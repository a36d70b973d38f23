#include "tools/eval/rolling.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "text/python_text.h"

namespace l4::eval {

RollingWindows::RollingWindows(int32_t prefix_id, int64_t window, int64_t stride)
    : prefix_id_(prefix_id), window_(size_t(window)), stride_(size_t(stride)) {
  L4_CHECK(1 <= stride && stride <= window);
}

void RollingWindows::add(std::span<const int32_t> ids, const Emit& emit) {
  ids_.insert(ids_.end(), ids.begin(), ids.end());
  for (size_t n = first_ ? window_ : stride_; ids_.size() - scored_ >= n; n = stride_) cut(n, emit);
  // Context of the windows to come.
  if (scored_ > window_) {
    ids_.erase(ids_.begin(), ids_.begin() + std::ptrdiff_t(scored_ - window_));
    scored_ = window_;
  }
}

void RollingWindows::cut(size_t n, const Emit& emit) {
  const size_t end = scored_ + n;
  Window window;
  window.n_scored = int64_t(n);
  if (first_)
    window.ids.push_back(prefix_id_);
  else
    window.ids.assign(ids_.begin() + std::ptrdiff_t(end - window_ - 1), ids_.begin() + std::ptrdiff_t(scored_));
  window.ids.insert(window.ids.end(), ids_.begin() + std::ptrdiff_t(scored_), ids_.begin() + std::ptrdiff_t(end));
  scored_ = end;
  first_ = false;
  emit(std::move(window));
}

void RollingWindows::finish(const Emit& emit) {
  if (scored_ < ids_.size()) cut(ids_.size() - scored_, emit);
  ids_.clear();
  scored_ = 0;
  first_ = true;
}

int64_t count_words(std::string_view utf8) {
  int64_t n = 1;
  bool in_space = false;
  for (size_t at = 0; at < utf8.size();) {
    const bool space = is_python_space(next_code_point(utf8, at));
    n += space && !in_space;
    in_space = space;
  }
  return n;
}

void RollingScore::add_token(double logprob) {
  ++document_tokens_;
  document_nll_ -= logprob;
  squares_ += logprob * logprob;
}

void RollingScore::end_document(int64_t n_words, int64_t n_bytes) {
  const std::array<double, 3> size{double(document_tokens_), double(n_words), double(n_bytes)};
  for (size_t unit = 0; unit < size.size(); ++unit) {
    products_[unit] += document_nll_ * size[unit];
    sizes_[unit] += size[unit] * size[unit];
  }
  document_squares_ += document_nll_ * document_nll_;
  nll_ += document_nll_;
  n_tokens_ += document_tokens_;
  n_words_ += n_words;
  n_bytes_ += n_bytes;
  ++n_documents_;
  document_nll_ = 0;
  document_tokens_ = 0;
}

// A ratio of sums, nll over size. Over documents: the residuals nll - rate * size are what varies between them.
Estimate RollingScore::rate(Unit unit) const {
  const double size = double(unit == tokens ? n_tokens_ : unit == words ? n_words_ : n_bytes_);
  Estimate out{nll_ / size, {}};
  const double n = double(errors_are_over_documents() ? n_documents_ : n_tokens_);
  if (n < 2) return out;
  const double r = out.value;
  const double residuals = errors_are_over_documents()
                               ? document_squares_ - 2 * r * products_[unit] + r * r * sizes_[unit]
                               : squares_ - nll_ * nll_ / n;
  out.error = std::sqrt(std::max(0.0, residuals) * n / (n - 1)) / size;
  return out;
}

Estimate RollingScore::exponential(Estimate rate) {
  const double value = std::exp(rate.value);
  if (rate.error) rate.error = *rate.error * value;
  rate.value = value;
  return rate;
}

Estimate RollingScore::token_perplexity() const {
  return exponential(rate(tokens));
}
Estimate RollingScore::word_perplexity() const {
  return exponential(rate(words));
}
Estimate RollingScore::byte_perplexity() const {
  return exponential(rate(bytes));
}
Estimate RollingScore::bits_per_byte() const {
  Estimate bits = rate(bytes);
  bits.value /= std::log(2.0);
  if (bits.error) *bits.error /= std::log(2.0);
  return bits;
}

}  // namespace l4::eval
