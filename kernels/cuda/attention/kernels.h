// The attention kernels behind paged_attention and tile_attention (attention.cu), and what they are given.
#pragma once

#include "kernels/cuda/ops.h"

namespace l4::cuda {

// One layer's pages and one kind's spans, by value to a kernel.
struct PagedKv {
  const std::byte* base;
  int64_t page_stride, k_offset, v_offset;  // bytes
  int32_t page_tokens, n_kv_heads, head_dim;
  int32_t n_spans;
  const KvSpan* spans;   // [n_spans] device
  const int32_t* pages;  // device
};

inline PagedKv paged_kv(const KvLayer& kv, const DeviceKvPlan& plan) {
  const KvLayout& l = kv.layout;
  return {static_cast<const std::byte*>(kv.base),
          kv.page_stride,
          l.k_offset,
          l.v_offset,
          int32_t(l.page_tokens),
          int32_t(l.n_kv_heads),
          int32_t(l.head_dim),
          plan.n_spans,
          plan.spans,
          plan.pages};
}

// generic.cu
void generic_paged_attention(const OpContext&, const AttentionArgs&);
void generic_tile_attention(const OpContext&, const VisionAttentionArgs&);

// decode.cu, prefill.cu: the rows of spans of at most, or of more than, kDecodeRows rows; `run` false takes scratch
// only, the same for every plan of so many rows.
void decode_attention(const OpContext&, const AttentionArgs&, bool run);
void prefill_attention(const OpContext&, const AttentionArgs&, bool run);

// vision.cu
void flash_tile_attention(const OpContext&, const VisionAttentionArgs&);

}  // namespace l4::cuda
