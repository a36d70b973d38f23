// Where a step's keys and values lie in one layer's pages.
#pragma once

#include <algorithm>
#include <cstring>

#include "kernels/cpu/element.h"
#include "ops/op_args.h"

namespace l4::cpu {

class KvPages {
 public:
  KvPages(const KvLayer& layer, const KvPlan& plan) : layer_(layer), plan_(plan) {
    if (layer.layout.dtype != DType::f32 && layer.layout.dtype != DType::bf16)
      fail(ErrorKind::unsupported, "the CPU backend keeps the KV cache in F32 or BF16, not ",
           dtype_name(layer.layout.dtype));
  }

  // The span that holds row t of the step.
  const KvSpan& span_of(int64_t t) const {
    auto after = std::upper_bound(plan_.spans.begin(), plan_.spans.end(), t,
                                  [](int64_t row, const KvSpan& span) { return row < span.row; });
    L4_CHECK(after != plan_.spans.begin());
    const KvSpan& span = *(after - 1);
    L4_CHECK(t < span.row + span.n_rows, "row ", t, " is in no span");
    return span;
  }

  // Row t's keys and values [K, hd] go to their place.
  template <class A>
  void write(int64_t t, const A* k, const A* v) const {
    const KvLayout& l = layer_.layout;
    const KvSpan& span = span_of(t);
    const int64_t index = span.past + (t - span.row);
    for (int64_t head = 0; head < l.n_kv_heads; ++head) {
      store(k + head * l.head_dim, at(span, index, head, l.k_offset));
      store(v + head * l.head_dim, at(span, index, head, l.v_offset));
    }
  }

  enum class Part { key, value };
  // Entries [begin, begin + n) of a stretch and head as float32 rows of `width`, zero padded.
  template <class Widen>
  void read(const KvSpan& span, int64_t head, Part part, int64_t begin, int64_t n, int64_t width, float* to,
            const Widen& widen) const {
    const KvLayout& l = layer_.layout;
    const int64_t offset = part == Part::key ? l.k_offset : l.v_offset;
    for (int64_t i = 0; i < n;) {
      const int64_t run = std::min(n - i, l.page_tokens - (begin + i) % l.page_tokens);  // to the page's end
      widen(at(span, begin + i, head, offset), l.dtype, run, l.head_dim, width, to + i * width);
      i += run;
    }
  }

 private:
  std::byte* at(const KvSpan& span, int64_t index, int64_t head, int64_t offset) const {
    const KvLayout& l = layer_.layout;
    const int64_t page = plan_.pages[size_t(span.table + index / l.page_tokens)];
    const int64_t element = (head * l.page_tokens + index % l.page_tokens) * l.head_dim;
    return static_cast<std::byte*>(layer_.base) + page * layer_.page_stride + offset +
           element * int64_t(dtype_bytes(l.dtype));
  }

  template <class A>
  void store(const A* from, std::byte* to) const {
    const int64_t hd = layer_.layout.head_dim;
    if (layer_.layout.dtype == (std::is_same_v<A, float> ? DType::f32 : DType::bf16)) {
      std::memcpy(to, from, size_t(hd) * sizeof(A));
    } else if (layer_.layout.dtype == DType::f32) {
      for (int64_t i = 0; i < hd; ++i) reinterpret_cast<float*>(to)[i] = get(from[i]);
    } else {
      for (int64_t i = 0; i < hd; ++i) reinterpret_cast<BFloat16*>(to)[i] = to_bf16(get(from[i]));
    }
  }

  const KvLayer& layer_;
  const KvPlan& plan_;
};

}  // namespace l4::cpu
