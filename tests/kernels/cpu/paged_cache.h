// Pages of one layer among others, NaN where nothing belongs, and what a test put there.
#pragma once

#include <algorithm>
#include <numeric>

#include "kernels/cpu/op_testing.h"

namespace l4::test {

struct Stretch {
  int64_t past, n_rows;
};

// A step whose rows are the new rows of these stretches; its pages lie in no order, with two of nobody among them.
struct PagedCache {
  Values memory;
  KvLayer layer;
  StepPlan step;

  PagedCache(Numbers& numbers, DType dtype, int64_t n_kv, int64_t hd, int64_t page_tokens,
             const std::vector<Stretch>& spans, AttentionKind kind = AttentionKind::chunked) {
    KvLayout& l = layer.layout;
    l = {.dtype = dtype, .page_tokens = page_tokens, .n_kv_heads = n_kv, .head_dim = hd};
    const int64_t part = n_kv * page_tokens * hd * int64_t(dtype_bytes(dtype));
    l.k_offset = 0, l.v_offset = part, l.layer_bytes = (2 * part + 255) / 256 * 256;
    layer.kind = kind;
    layer.page_stride = 3 * l.layer_bytes;  // three layers, ours in the middle
    KvPlan& plan = step.of(kind);
    for (const Stretch& s : spans) {
      plan.spans.push_back({int32_t(step.ids.size()), int32_t(s.n_rows), int32_t(s.past), int32_t(plan.pages.size())});
      plan.pages.resize(plan.pages.size() + size_t((s.past + s.n_rows + page_tokens - 1) / page_tokens));
      for (int64_t i = 0; i < s.n_rows; ++i) {
        step.ids.push_back(0);
        step.positions.push_back(int32_t(s.past + i));
      }
    }
    std::vector<int32_t> order(plan.pages.size() + 2);
    std::iota(order.begin(), order.end(), 0);
    for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[size_t(numbers.below(int64_t(i)))]);
    std::copy_n(order.begin(), plan.pages.size(), plan.pages.begin());
    memory = Values(DType::u8, {int64_t(order.size()) * layer.page_stride});
    layer.base = memory.storage.data() + l.layer_bytes;
  }

  const KvPlan& plan() const { return step.of(layer.kind); }

  // The K or V entry of one index and head: hd elements.
  View entry(const KvSpan& span, int64_t index, int64_t head, bool value) const {
    const KvLayout& l = layer.layout;
    const int64_t page = plan().pages[size_t(span.table + index / l.page_tokens)];
    const int64_t at = (head * l.page_tokens + index % l.page_tokens) * l.head_dim * int64_t(dtype_bytes(l.dtype));
    return {static_cast<std::byte*>(layer.base) + page * layer.page_stride + (value ? l.v_offset : l.k_offset) + at,
            l.dtype,
            {l.head_dim}};
  }
};

}  // namespace l4::test
