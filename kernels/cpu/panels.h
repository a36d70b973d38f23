// The layout of packed weights: what pack*.cpp write and linear.cpp reads. For each expert, panels of 32 output
// columns; of a panel, for each k, its 32 elements; the last panel is padded with zeros. F32 keeps columns in order.
// BF16 and FP8 pair column j with 16 + j (simd/kernels.h). So does INT4: byte j has column j in its low half, 16 + j in
// its high one, each as code + 8.
//
// Scales are float32: for each expert and panel, for each group of k, 32 of them in order of columns. FP8 has one
// group.
#pragma once

#include <algorithm>

#include "kernels/cpu/ops.h"
#include "kernels/cpu/simd/kernels.h"

namespace l4::cpu {

// Of the 32 elements of one k.
inline int64_t row_bytes(WeightFormat format) {
  switch (format) {
    case WeightFormat::f32:
      return 4 * kPanel;
    case WeightFormat::bf16:
      return 2 * kPanel;
    case WeightFormat::fp8:
      return kPanel;
    case WeightFormat::int4:
      return kPanel / 2;
  }
  L4_CHECK(false);
}
inline int64_t panel_bytes(const LinearSpec& spec) {
  return spec.k * row_bytes(spec.format);
}
// Columns of a row that share a scale, or would.
inline int64_t group_of(const LinearSpec& spec) {
  return spec.format == WeightFormat::int4 ? spec.group : spec.k;
}
inline int64_t n_groups(const LinearSpec& spec) {
  return spec.k / group_of(spec);
}

// Where column 16 + j lies beside column j.
constexpr int64_t paired_position(int64_t column) {
  return column < kPanel / 2 ? 2 * column : 2 * (column - kPanel / 2) + 1;
}

// Calls body(panel, k0, k1) for the blocks of a slice, all panels at once but each by one thread. k outside, panels
// inside: a transposed source is then read along its rows, a plain one 256 bytes of BF16 a row at a time.
template <class Body>
void for_each_block(ThreadPool& pool, const WeightSlice& s, const Body& body) {
  constexpr int64_t kBlockK = 128;  // 32 rows of 256 bytes in, 8 KB out
  if (s.n == 0 || s.k == 0) return;
  const int64_t first_panel = s.n_offset / kPanel, end_panel = (s.n_offset + s.n + kPanel - 1) / kPanel;
  pool.parallel_for(end_panel - first_panel, 1, [&](int64_t begin, int64_t end) {
    for (int64_t k0 = s.k_offset; k0 < s.k_offset + s.k; k0 += kBlockK)
      for (int64_t i = begin; i < end; ++i) body(first_panel + i, k0, std::min(k0 + kBlockK, s.k_offset + s.k));
  });
}

// Calls body(n, k, element) for the part of slice `s` in one panel and [k0, k1) of k (n and k of the whole matrix),
// along whichever axis is dense.
template <class From, class Body>
void for_each_element(const WeightSlice& s, int64_t panel, int64_t k0, int64_t k1, const Body& body) {
  const int64_t n0 = std::max(panel * kPanel, s.n_offset);
  const int64_t n1 = std::min((panel + 1) * kPanel, s.n_offset + s.n);
  const From* from = static_cast<const From*>(s.data);
  auto at = [&](int64_t n, int64_t k) {
    body(n, k, from[(n - s.n_offset) * s.n_stride + (k - s.k_offset) * s.k_stride]);
  };
  if (s.n_stride == 1) {
    for (int64_t k = k0; k < k1; ++k)
      for (int64_t n = n0; n < n1; ++n) at(n, k);
  } else {
    for (int64_t n = n0; n < n1; ++n)
      for (int64_t k = k0; k < k1; ++k) at(n, k);
  }
}

struct F16Bits {
  uint16_t bits;
};
inline float get(F16Bits v) {
  return f16_to_float(v.bits);
}
// Calls body(From{}) with the type of a slice's elements that are no codes.
template <class Body>
void with_stored_type(DType dtype, const Body& body) {
  if (dtype == DType::f32)
    body(float{});
  else if (dtype == DType::bf16)
    body(BFloat16{});
  else
    body(F16Bits{});
}

// pack_codes.cpp: FP8 and INT4. `data` and `scales` are memory of the layout above, to be filled whole.
void pack_codes(ThreadPool&, const LinearSpec&, std::span<const WeightSlice> weight, std::span<const WeightSlice> scale,
                uint8_t* data, float* scales);

}  // namespace l4::cpu
