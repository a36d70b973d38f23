// Pages of one layer among others, NaN where nothing belongs, and what a test put there.
#pragma once

#include <algorithm>
#include <numeric>

#include "kernels/cpu/op_testing.h"

namespace l4::test {

// E4M3 by its bits, and the nearest code by comparing the two around a number; of two as near the even one.
inline double fp8_value(uint8_t code) {
  const int exponent = code >> 3 & 15, fraction = code & 7;
  const double size = exponent ? std::ldexp(8 + fraction, exponent - 10) : std::ldexp(fraction, -9);
  return code & 0x80 ? -size : size;
}
inline uint8_t nearest_fp8(float value) {
  static const Doubles table = [] {
    Doubles all;
    for (int code = 0; code < 0x7F; ++code) all.push_back(fp8_value(uint8_t(code)));
    return all;
  }();
  const double size = std::abs(double(value));
  size_t code = size_t(std::lower_bound(table.begin(), table.end(), size) - table.begin());
  if (code == table.size()) {
    code -= 1;
  } else if (code > 0) {
    const double below = size - table[code - 1], above = table[code] - size;
    if (below < above || (below == above && code % 2 == 1)) code -= 1;
  }
  return uint8_t(code | (std::signbit(value) ? 0x80 : 0));
}

// Activations, and how K and V are kept.
struct Types {
  DType a, kv;
};
constexpr Types kTypes[] = {
    {DType::f32, DType::f32}, {DType::bf16, DType::bf16}, {DType::f32, DType::f8_e4m3}, {DType::bf16, DType::f8_e4m3}};

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
    int64_t end = 2 * part;
    l.k_offset = 0, l.v_offset = part;
    if (dtype == DType::f8_e4m3) {
      l.k_scale_offset = end, l.v_scale_offset = end + n_kv * page_tokens * 2;
      end += 2 * n_kv * page_tokens * 2;
    }
    l.layer_bytes = (end + 255) / 256 * 256;
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

  // Of F8_E4M3: for all tokens; what lay in pages lies there unused.
  void fix_scales(float k, float v) {
    layer.k_scale = k, layer.v_scale = v;
    layer.layout.k_scale_offset = layer.layout.v_scale_offset = -1;
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
  // Its scale, [1] bf16: where F8_E4M3 has them in pages.
  View scale(const KvSpan& span, int64_t index, int64_t head, bool value) const {
    const KvLayout& l = layer.layout;
    const int64_t page = plan().pages[size_t(span.table + index / l.page_tokens)];
    return {static_cast<std::byte*>(layer.base) + page * layer.page_stride +
                (value ? l.v_scale_offset : l.k_scale_offset) + (head * l.page_tokens + index % l.page_tokens) * 2,
            DType::bf16,
            {1}};
  }

  // Writes an entry as KvLayout says, and gives what reading it must give.
  Doubles put(const KvSpan& span, int64_t index, int64_t head, bool value, const Doubles& numbers) const {
    const View to = entry(span, index, head, value);
    const int64_t hd = layer.layout.head_dim;
    if (to.dtype != DType::f8_e4m3) {
      Values as(to.dtype, {hd});
      for (int64_t i = 0; i < hd; ++i) as.set(i, numbers[size_t(i)]);
      std::memcpy(to.data, as.view.data, to.bytes());
      return doubles(to);
    }
    float s = value ? layer.v_scale : layer.k_scale;
    if (s == 0) {
      float largest = 0;
      for (double x : numbers) largest = std::max(largest, std::abs(float(x)));
      s = round_bf16(largest / 448);
      if (s == 0) s = 1;
      *scale(span, index, head, value).bf16() = to_bf16(s);
    }
    Doubles read;
    for (int64_t i = 0; i < hd; ++i) {
      const uint8_t code = nearest_fp8(float(numbers[size_t(i)]) / s);
      static_cast<uint8_t*>(to.data)[i] = code;
      read.push_back(fp8_value(code) * double(s));
    }
    return read;
  }
};

}  // namespace l4::test
