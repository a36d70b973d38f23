// One step of the model, as plain data: what every rank gets, and all it gets. Holds no pointers, so it can be copied to
// another thread, device or host. Built by the engine, read by the model and the backends.
#pragma once

#include <algorithm>
#include <compare>
#include <cstdint>
#include <vector>

#include "ops/attention_kind.h"

namespace l4 {

// A run of rows that share one stretch of KV pages. Global layers have one span a sequence. Chunked layers have one per
// attention chunk the rows touch ("virtual sequence"), so no kernel ever masks at a chunk edge: row row + i of the span
// sits at index past + i of the span's own KV stretch and sees exactly the indices 0 .. past + i.
struct KvSpan {
  int32_t row = 0;     // first row of the step
  int32_t n_rows = 0;  // at least 1
  int32_t past = 0;    // KV entries of this stretch written by earlier steps
  int32_t table = 0;   // the stretch's page ids are pages[table], pages[table + 1], ...
};

struct KvPlan {
  std::vector<KvSpan> spans;   // cover every row once, in order
  std::vector<int32_t> pages;  // page tables of all spans, one after another
};

// Row `row` takes row `feature` of the encoder cache instead of its token's embedding.
struct ImageRow {
  int32_t row = 0, feature = 0;
};

// Copy-on-write: page `from` is copied to page `to` (all layers of the kind) before anything is written.
struct PageCopy {
  AttentionKind kind = AttentionKind::global;
  int32_t from = 0, to = 0;
};

struct StepPlan {
  std::vector<int32_t> ids;        // [T] token of each row
  std::vector<int32_t>
      positions;  // [T] 0-based position in its sequence (rotation, temperature); -1: see decode_rows.h
  KvPlan kv[kNumAttentionKinds];   // by AttentionKind
  std::vector<ImageRow> image_rows;
  std::vector<int32_t> out_rows;   // [n_out] rows whose logits are wanted, ascending, each once
  std::vector<PageCopy> page_copies;

  int64_t n_rows() const { return int64_t(ids.size()); }
  int64_t n_out() const { return int64_t(out_rows.size()); }
  const KvPlan& of(AttentionKind kind) const { return kv[int(kind)]; }
  KvPlan& of(AttentionKind kind) { return kv[int(kind)]; }
};

// All that a host knows of a step when it issues its stages, so that two steps of one shape start the same kernels.
struct StepShape {
  int64_t n_rows = 0, n_out = 0, n_image_rows = 0;
  int64_t n_spans[kNumAttentionKinds] = {}, max_rows[kNumAttentionKinds] = {};  // of one span
  bool copies_pages = false;
  int64_t n_tiles = 0;  // of a pass of the vision tower, which has nothing else

  StepShape() = default;
  explicit StepShape(const StepPlan& step)
      : n_rows(step.n_rows()),
        n_out(step.n_out()),
        n_image_rows(int64_t(step.image_rows.size())),
        copies_pages(!step.page_copies.empty()) {
    for (int kind = 0; kind < kNumAttentionKinds; ++kind) {
      n_spans[kind] = int64_t(step.kv[kind].spans.size());
      for (const KvSpan& span : step.kv[kind].spans) max_rows[kind] = std::max(max_rows[kind], int64_t(span.n_rows));
    }
  }
  static StepShape of_tiles(int64_t n) {
    StepShape shape;
    shape.n_tiles = n;
    return shape;
  }
  // One new token of each sequence and no image: such steps differ in lengths and ids alone, and can be replayed.
  bool is_decode() const {
    for (const int64_t n : n_spans)
      if (n != n_rows) return false;  // spans cover every row once
    return n_rows > 0 && n_image_rows == 0;
  }
  auto operator<=>(const StepShape&) const = default;
};

}  // namespace l4
