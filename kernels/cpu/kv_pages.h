// Where a step's keys and values lie in one layer's pages.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/cpu/element.h"
#include "ops/op_args.h"
#include "quant/fp8.h"

namespace l4::cpu {

class KvPages {
 public:
  KvPages(const KvLayer& layer, const KvPlan& plan) : layer_(layer), plan_(plan) {
    const KvLayout& l = layer.layout;
    if (l.dtype != DType::f32 && l.dtype != DType::bf16 && l.dtype != DType::f8_e4m3)
      fail(ErrorKind::unsupported, "the CPU backend keeps the KV cache in F32, BF16 or F8_E4M3, not ",
           dtype_name(l.dtype));
    if (l.dtype == DType::f8_e4m3)
      L4_CHECK((l.k_scale_offset >= 0) == (layer.k_scale == 0) && (l.v_scale_offset >= 0) == (layer.v_scale == 0));
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

  enum class Part { key, value };

  // Row t's keys and values [K, hd] go to their place.
  template <class A>
  void write(int64_t t, const A* k, const A* v) const {
    const KvLayout& l = layer_.layout;
    const KvSpan& span = span_of(t);
    const int64_t index = span.past + (t - span.row);
    for (int64_t head = 0; head < l.n_kv_heads; ++head) {
      store(k + head * l.head_dim, place(span, index, head, Part::key));
      store(v + head * l.head_dim, place(span, index, head, Part::value));
    }
  }

  // Entries [begin, begin + n) of a stretch and head as float32 rows of `width`, zero padded.
  // widen(from, dtype, scale, n, hd, width, to) does so with rows that lie one after another and share a scale.
  template <class Widen>
  void read(const KvSpan& span, int64_t head, Part part, int64_t begin, int64_t n, int64_t width, float* to,
            const Widen& widen) const {
    const KvLayout& l = layer_.layout;
    for (int64_t i = 0; i < n;) {
      const int64_t run = std::min(n - i, l.page_tokens - (begin + i) % l.page_tokens);  // to the page's end
      const Place at = place(span, begin + i, head, part);
      if (at.scales)
        for (int64_t j = 0; j < run; ++j)
          widen(at.data + j * l.head_dim, l.dtype, to_float(at.scales[j]), 1, l.head_dim, width, to + (i + j) * width);
      else
        widen(at.data, l.dtype, at.scale, run, l.head_dim, width, to + i * width);
      i += run;
    }
  }

 private:
  // An entry; those behind it in its page follow. Its scale is the first of `scales` or, without these, `scale`.
  struct Place {
    std::byte* data;
    BFloat16* scales;
    float scale;
  };
  Place place(const KvSpan& span, int64_t index, int64_t head, Part part) const {
    const KvLayout& l = layer_.layout;
    const bool is_key = part == Part::key;
    std::byte* page = static_cast<std::byte*>(layer_.base) +
                      plan_.pages[size_t(span.table + index / l.page_tokens)] * layer_.page_stride;
    const int64_t entry = head * l.page_tokens + index % l.page_tokens;
    const int64_t scales = is_key ? l.k_scale_offset : l.v_scale_offset;
    return {page + (is_key ? l.k_offset : l.v_offset) + entry * l.head_dim * int64_t(dtype_bytes(l.dtype)),
            scales < 0 ? nullptr : reinterpret_cast<BFloat16*>(page + scales) + entry,
            is_key ? layer_.k_scale : layer_.v_scale};
  }

  // A NaN or an infinite value makes all of its head NaN.
  template <class A>
  static BFloat16 token_scale(const A* from, int64_t hd) {
    float largest = 0;
    for (int64_t i = 0; i < hd; ++i)
      if (const float size = std::abs(get(from[i])); size > largest || std::isnan(size)) largest = size;
    const BFloat16 scale = to_bf16(largest / kFp8Max);
    return scale.bits == 0 ? to_bf16(1) : scale;
  }

  template <class A>
  void store(const A* from, const Place& to) const {
    const int64_t hd = layer_.layout.head_dim;
    if (layer_.layout.dtype == DType::f8_e4m3) {
      if (to.scales) *to.scales = token_scale(from, hd);
      const float scale = to.scales ? to_float(*to.scales) : to.scale;
      for (int64_t i = 0; i < hd; ++i) to.data[i] = std::byte(fp8_from_float(get(from[i]) / scale));
    } else if (layer_.layout.dtype == (std::is_same_v<A, float> ? DType::f32 : DType::bf16)) {
      std::memcpy(to.data, from, size_t(hd) * sizeof(A));
    } else if (layer_.layout.dtype == DType::f32) {
      for (int64_t i = 0; i < hd; ++i) reinterpret_cast<float*>(to.data)[i] = get(from[i]);
    } else {
      for (int64_t i = 0; i < hd; ++i) reinterpret_cast<BFloat16*>(to.data)[i] = to_bf16(get(from[i]));
    }
  }

  const KvLayer& layer_;
  const KvPlan& plan_;
};

}  // namespace l4::cpu
