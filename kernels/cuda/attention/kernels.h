// The attention kernels behind paged_attention and tile_attention (attention.cu), and what they are given.
#pragma once

#include "kernels/cuda/ops.h"

namespace l4::cuda {

// One layer's pages and one kind's spans, by value to a kernel.
struct PagedKv {
  const std::byte* base;
  int64_t page_stride, k_offset, v_offset;  // bytes
  int64_t k_scale_offset, v_scale_offset;   // f8_e4m3: of the tokens' scales, or -1
  int32_t page_tokens, n_kv_heads, head_dim;
  int32_t n_spans;
  const KvSpan* spans;     // [n_spans] device
  const int32_t* pages;    // device
  float k_scale, v_scale;  // of all tokens; 1 where they have their own, or none
};

inline PagedKv paged_kv(const KvLayer& kv, const DeviceKvPlan& plan) {
  const KvLayout& l = kv.layout;
  L4_CHECK(l.dtype != DType::f8_e4m3 ||
           ((l.k_scale_offset >= 0) == (kv.k_scale == 0) && (l.v_scale_offset >= 0) == (kv.v_scale == 0) &&
            (l.k_scale_offset >= 0) == (l.v_scale_offset >= 0)));
  auto fixed = [](float scale) { return scale == 0 ? 1.0f : scale; };
  return {static_cast<const std::byte*>(kv.base),
          kv.page_stride,
          l.k_offset,
          l.v_offset,
          l.k_scale_offset,
          l.v_scale_offset,
          int32_t(l.page_tokens),
          int32_t(l.n_kv_heads),
          int32_t(l.head_dim),
          plan.n_spans,
          plan.spans,
          plan.pages,
          fixed(kv.k_scale),
          fixed(kv.v_scale)};
}

// generic.cu
void generic_paged_attention(const OpContext&, const AttentionArgs&);
void generic_tile_attention(const OpContext&, const VisionAttentionArgs&);

// decode.cu, prefill.cu: the rows of spans of at most, or of more than, most_decode_rows(); `run` false takes scratch
// only, the same for every plan of so many rows.
void decode_attention(const OpContext&, const AttentionArgs&, bool run);
void prefill_attention(const OpContext&, const AttentionArgs&, bool run);

// vision.cu
void flash_tile_attention(const OpContext&, const VisionAttentionArgs&);

}  // namespace l4::cuda
