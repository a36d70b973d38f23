// Storage of keys and values on one rank: pages of the chunked layers and pages of the global layers. A
// page holds page_tokens tokens of ALL this rank's layers of its kind, so that one page id and one page table a kind
// serve the whole model. Which sequence owns which page is the engine's business (engine/block_pool.h).
#pragma once

#include <span>
#include <vector>

#include "dist/shard_plan.h"
#include "model/config.h"
#include "model/kv_scales.h"
#include "ops/backend.h"

namespace l4 {

// Largest power of two <= 128 that divides the attention chunk; 128 where there is no chunking.
int64_t kv_page_tokens(const TextConfig& text);
// K and V of one token in one layer on a rank with n_kv_heads of the kv heads, scales included.
int64_t kv_token_bytes(const TextConfig& text, int64_t n_kv_heads, DType dtype, bool fixed_scales = false);
// One layer's part of a page. fixed_scales: of f8_e4m3, those of KvLayer; none lie in the page.
KvLayout kv_layout(const TextConfig& text, int64_t n_kv_heads, DType dtype, bool fixed_scales = false);
// Bytes of one page of a kind on the rank of `shard`: all its layers of the kind.
uint64_t kv_page_bytes(const TextConfig& text, const ShardPlan& shard, DType dtype, AttentionKind kind,
                       bool fixed_scales = false);

class KvCache {
 public:
  // n_pages by AttentionKind; one_slab: both are the same memory, each page where others of its kind leave it, and
  // whoever hands out pages sees to it that none of one kind covers one of the other. `scales`: of f8_e4m3, the fixed
  // ones of the rank's layers; none: each token has its own. Error{memory} when the backend has not enough.
  KvCache(Backend& backend, const TextConfig& text, const ShardPlan& shard, DType dtype,
          const int64_t (&n_pages)[kNumAttentionKinds], std::span<const KvScales> scales = {},
          bool one_slab = false);

  KvLayer layer(int64_t index) const;  // by layer number of the whole model; one of this rank's
  void copy_pages(std::span<const PageCopy> copies);
  View page(AttentionKind kind, int32_t id) const;  // all its bytes, [n] u8; none where no layer is of the kind
  uint64_t bytes() const;

 private:
  Backend& backend_;
  KvLayout layout_;
  int64_t first_layer_;
  std::vector<KvLayer> layers_;
  int64_t n_layers_of_[kNumAttentionKinds] = {0, 0};
  Buffer pools_[kNumAttentionKinds];
};

}  // namespace l4
