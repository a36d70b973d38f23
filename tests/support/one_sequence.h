// A model with one sequence and pages to spare, without the engine: for tests of the forward alone. Page i of a kind
// holds the i-th stretch of tokens; chunked pages are never freed.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "engine/executor.h"
#include "model/kv_cache.h"
#include "support/golden_model.h"
#include "support/test.h"

namespace l4::test {

class OneSequence {
 public:
  OneSequence(const ModelConfig& config, const HfCheckpoint& checkpoint, const ExecutorOptions& options,
              int64_t max_tokens)
      : OneSequence(config, CheckpointWeights(config, checkpoint), options, max_tokens) {}
  OneSequence(const ModelConfig& config, const WeightSource& source, ExecutorOptions options, int64_t max_tokens)
      : config_(config), page_(kv_page_tokens(config.text)) {
    for (int64_t& pages : options.kv_pages) pages = 2 * (max_tokens / page_ + 2);
    options.max_step_rows = options.max_out_rows = max_tokens;
    if (config.vision) {
      options.max_step_tiles = std::max<int64_t>(options.max_step_tiles, 8);
      options.encoder_rows = 64 * config.vision->tokens_per_tile();
    }
    executor = std::make_unique<Executor>(config, source, options);
  }

  // Encodes all tiles in passes of `tiles_per_pass`.
  void encode(const std::vector<float>& pixels, int64_t n_tiles, int64_t tiles_per_pass) {
    std::vector<BFloat16> raw;
    for (float v : pixels) raw.push_back(to_bf16(v));
    const size_t tile = raw.size() / size_t(n_tiles);
    for (int64_t t = 0; t < n_tiles; t += tiles_per_pass) {
      const int64_t n = std::min(tiles_per_pass, n_tiles - t);
      executor->encode_tiles(std::span(raw).subspan(size_t(t) * tile, size_t(n) * tile), n,
                             t * config_.vision->tokens_per_tile());
    }
  }

  // The next tokens of the sequence; image tokens take the encoder's rows in order. Logits of all rows, or of the last.
  std::vector<float> append(std::span<const int32_t> ids, bool all_logits = true) {
    StepPlan step;
    step.ids.assign(ids.begin(), ids.end());
    const int64_t n = int64_t(ids.size()), chunk = config_.text.attention_chunk;
    for (int64_t i = 0; i < n; ++i) {
      step.positions.push_back(int32_t(n_past_ + i));
      if (all_logits || i == n - 1) step.out_rows.push_back(int32_t(i));
      if (ids[size_t(i)] == config_.image_token_id) step.image_rows.push_back({int32_t(i), int32_t(next_feature_++)});
    }
    add_span(step.of(AttentionKind::global), 0, n, 0);
    for (int64_t row = 0; row < n;) {  // one span for each chunk that the rows touch
      const int64_t position = n_past_ + row;
      const int64_t start = chunk ? position / chunk * chunk : 0;
      const int64_t rows = chunk ? std::min(n - row, start + chunk - position) : n;
      add_span(step.of(AttentionKind::chunked), row, rows, start);
      row += rows;
    }
    n_past_ += n;
    return executor->logits(step);
  }

  int64_t n_past() const { return n_past_; }
  std::unique_ptr<Executor> executor;

 private:
  void add_span(KvPlan& kv, int64_t row, int64_t n, int64_t start) {
    const int64_t past = n_past_ + row - start;
    kv.spans.push_back({int32_t(row), int32_t(n), int32_t(past), int32_t(kv.pages.size())});
    for (int64_t p = 0; p * page_ < past + n; ++p) kv.pages.push_back(int32_t(start / page_ + p));
  }

  const ModelConfig& config_;
  const int64_t page_;
  int64_t n_past_ = 0, next_feature_ = 0;
};

}  // namespace l4::test
