// Which attention kernel serves what: a pure function of shapes and of the host's copy of the spans.
//
//   generic  any head_dim <= 256, page size, types and span mix; tests and tiny models
//   decode   split-KV over all SMs, for the rows of short spans; reads a span's keys once a row
//   prefill  wgmma, 128 rows of a span and a head at a time, for long spans
// decode and prefill both run in a step that has both kinds of spans; each leaves the other's alone.
//
// Invariant (OpContext): decode's splits follow the lengths of all rows, so every span is prefill's, where a row's bits
// depend on its own keys alone: key tiles are pages, counted from the span's first key, and a tile of keys that a row
// does not see leaves its sums as they were. Of a span of one row a block has one row of 128 to do.
#pragma once

#include <span>
#include <string>

#include "ops/op_args.h"

namespace l4::cuda {

constexpr int64_t kMaxGenericHeadDim = 256;
constexpr int64_t kFastHeadDim = 128, kFastPageTokens = 128;  // what decode.cu and prefill.cu are written for
constexpr int64_t kMaxGroup = 8;                              // query heads of a kv head: the columns of an m16n8k16
// Spans of at most so many rows are decode's. A row more costs decode the span's keys once more out of L2 (8 rows of
// 8K: 0.27 GB, about 50 us); prefill would leave 120 of its tile's rows idle and most SMs without a tile.
constexpr int32_t kDecodeRows = 8;

struct AttentionShape {
  DType activations = DType::bf16;
  KvLayout kv;
  int64_t n_heads = 0;
  float scale = 0;
};

inline AttentionShape attention_shape(const AttentionArgs& args) {
  return {args.q.dtype, args.kv.layout, args.q.shape[1], args.scale};
}

inline bool has_fast_attention(const AttentionShape& s) {
  const KvLayout& kv = s.kv;
  auto whole = [](int64_t offset) { return offset < 0 || offset % 16 == 0; };
  return s.activations == DType::bf16 && (kv.dtype == DType::bf16 || kv.dtype == DType::f8_e4m3) &&
         kv.head_dim == kFastHeadDim && kv.page_tokens == kFastPageTokens && s.n_heads % kv.n_kv_heads == 0 &&
         s.n_heads / kv.n_kv_heads <= kMaxGroup && whole(kv.k_offset) && whole(kv.v_offset) &&
         whole(kv.k_scale_offset) && whole(kv.v_scale_offset) && s.scale > 0;
}

struct AttentionKernels {
  bool generic = false, decode = false, prefill = false;
  bool operator==(const AttentionKernels&) const = default;
  std::string str() const {
    return generic             ? "generic"
           : decode && prefill ? "decode + prefill"
           : decode            ? "decode"
           : prefill           ? "prefill"
                               : "none";
  }
};

// Spans of more rows are prefill's.
constexpr int32_t most_decode_rows(bool invariant) {
  return invariant ? 0 : kDecodeRows;
}
inline AttentionKernels choose_attention(const AttentionShape& shape, std::span<const KvSpan> spans,
                                         bool invariant = false) {
  AttentionKernels kernels;
  if (!has_fast_attention(shape)) {
    kernels.generic = true;
    return kernels;
  }
  for (const KvSpan& span : spans)
    (span.n_rows <= most_decode_rows(invariant) ? kernels.decode : kernels.prefill) = true;
  return kernels;
}

enum class TileAttentionKernel { generic, flash };

// flash: Scout's and Maverick's vision tower.
inline TileAttentionKernel choose_tile_attention(DType activations, int64_t head_dim, float scale) {
  return activations == DType::bf16 && head_dim == 88 && scale > 0 ? TileAttentionKernel::flash
                                                                   : TileAttentionKernel::generic;
}

}  // namespace l4::cuda
