// decode.cu's line of units: where a block's part of it begins, and the way along it.
#pragma once

#include "kernels/cuda/attention/choose.h"
#include "kernels/cuda/attention/kernels.h"

namespace l4::cuda {

__device__ inline KvSpan span_at(const PagedKv& kv, int32_t index) {
  static_assert(sizeof(KvSpan) == sizeof(int4));
  const int4 v = *reinterpret_cast<const int4*>(kv.spans + index);
  return {v.x, v.y, v.z, v.w};
}
__device__ inline bool is_decoded(const KvSpan& span) {
  return span.n_rows <= kDecodeRows;
}
template <int kUnitKeys>
__device__ inline uint32_t units_of(const KvSpan& span) {  // of each of its pairs
  return uint32_t(span.past + span.n_rows + kUnitKeys - 1) / kUnitKeys;
}

// A place on the line: unit `unit` of kv head `head` of row `row` of span number `index`.
template <int kUnitKeys>
struct Place {
  static constexpr int kPageUnits = int(kFastPageTokens) / kUnitKeys;
  static_assert(kPageUnits * kUnitKeys == kFastPageTokens);

  KvSpan span;
  int32_t index, row, head;
  uint32_t unit, n_units;

  __device__ void enter(const PagedKv& kv, int32_t span_index) {
    index = span_index;
    span = span_at(kv, index);
    n_units = units_of<kUnitKeys>(span);
    row = head = 0;
    unit = 0;
  }
  // Of the pair's queries and outputs; `group`: query heads of a kv head.
  __device__ int64_t first_element(const PagedKv& kv, int32_t group) const {
    return (int64_t(span.row + row) * kv.n_kv_heads + head) * group * kFastHeadDim;
  }
  __device__ int32_t page(const PagedKv& kv) const { return kv.pages[span.table + unit / kPageUnits]; }
  // To the next pair. Must not be called at the line's last.
  __device__ void next_pair(const PagedKv& kv) {
    unit = 0;
    if (++head < kv.n_kv_heads) return;
    head = 0;
    if (++row < span.n_rows) return;
    do {
      enter(kv, index + 1);
    } while (!is_decoded(span));
  }
};

// The line, fewer than 2^32 units (512 rows at 10 million keys and 8 kv heads are 0.7 * 10^9), and its cut.
struct Line {
  uint32_t n_units, n_parts;  // parts: blocks with work
  uint32_t each, n_larger;    // units of a part; so many of them, the first, have one more
  __device__ uint32_t begin(uint32_t part) const { return part * each + min(part, n_larger); }
  __device__ uint32_t part_of(uint32_t unit) const {
    const uint32_t in_larger = n_larger * (each + 1);
    return unit < in_larger ? unit / (each + 1) : n_larger + (unit - in_larger) / each;
  }
};

// The line, and the place of this block's first unit; of a block without work n_parts alone. A whole warp.
template <int kUnitKeys>
__device__ Line find_place(const PagedKv& kv, int lane, Place<kUnitKeys>& place) {
  const int32_t spans_each = (kv.n_spans + 31) / 32, first = lane * spans_each;
  const int32_t last = min(first + spans_each, kv.n_spans);
  auto units = [&](int32_t i) {
    const KvSpan span = span_at(kv, i);
    return is_decoded(span) ? uint32_t(span.n_rows * kv.n_kv_heads) * units_of<kUnitKeys>(span) : 0;
  };
  uint32_t mine = 0;
#pragma unroll 1
  for (int32_t i = first; i < last; ++i) mine += units(i);
  uint32_t until = mine;  // inclusive prefix sum
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const uint32_t before = __shfl_up_sync(0xffffffffu, until, offset);
    if (lane >= offset) until += before;
  }
  Line line{};
  line.n_units = __shfl_sync(0xffffffffu, until, 31);
  line.n_parts = min(gridDim.x, line.n_units);
  if (blockIdx.x >= line.n_parts) return line;
  line.each = line.n_units / line.n_parts;
  line.n_larger = line.n_units - line.each * line.n_parts;

  uint32_t left = line.begin(blockIdx.x) - (until - mine);  // units from this lane's first span; above all if before it
  const bool is_here = left < mine;
  int32_t index = first;
  if (is_here) {
#pragma unroll 1
    for (uint32_t n; left >= (n = units(index)); ++index) left -= n;
  }
  const int source = __ffs(__ballot_sync(0xffffffffu, is_here)) - 1;
  left = __shfl_sync(0xffffffffu, left, source);
  place.enter(kv, __shfl_sync(0xffffffffu, index, source));
  const uint32_t pair = left / place.n_units;
  place.unit = left - pair * place.n_units;
  place.row = int32_t(pair / uint32_t(kv.n_kv_heads));
  place.head = int32_t(pair) - place.row * kv.n_kv_heads;
  return line;
}

}  // namespace l4::cuda
