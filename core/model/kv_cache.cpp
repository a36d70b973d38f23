#include "model/kv_cache.h"

namespace l4 {

int64_t kv_page_tokens(const TextConfig& text) {
  constexpr int64_t kMax = 128;
  int64_t tokens = kMax;
  if (text.attention_chunk > 0)
    while (text.attention_chunk % tokens != 0) tokens /= 2;
  return tokens;
}

namespace {
bool has_token_scales(DType dtype, bool fixed_scales) {
  return dtype == DType::f8_e4m3 && !fixed_scales;
}
}  // namespace

int64_t kv_token_bytes(const TextConfig& text, int64_t n_kv_heads, DType dtype, bool fixed_scales) {
  const size_t scale = has_token_scales(dtype, fixed_scales) ? sizeof(BFloat16) : 0;
  return 2 * n_kv_heads * (text.head_dim * int64_t(dtype_bytes(dtype)) + int64_t(scale));
}

KvLayout kv_layout(const TextConfig& text, int64_t n_kv_heads, DType dtype, bool fixed_scales) {
  KvLayout layout;
  layout.dtype = dtype;
  layout.page_tokens = kv_page_tokens(text);
  layout.n_kv_heads = n_kv_heads;
  layout.head_dim = text.head_dim;
  const int64_t side = n_kv_heads * layout.page_tokens * text.head_dim * int64_t(dtype_bytes(dtype));
  layout.k_offset = 0;
  layout.v_offset = side;
  if (has_token_scales(dtype, fixed_scales)) {
    layout.k_scale_offset = 2 * side;
    layout.v_scale_offset = 2 * side + n_kv_heads * layout.page_tokens * int64_t(sizeof(BFloat16));
  }
  constexpr int64_t kAlign = 256;
  const int64_t bytes = layout.page_tokens * kv_token_bytes(text, n_kv_heads, dtype, fixed_scales);
  layout.layer_bytes = (bytes + kAlign - 1) / kAlign * kAlign;
  return layout;
}

namespace {
int64_t layers_of(const TextConfig& text, const ShardPlan& shard, AttentionKind kind) {
  int64_t n = 0;
  for (int64_t l = shard.layers.begin; l < shard.layers.end; ++l) n += text.layers[size_t(l)].attention == kind;
  return n;
}
}  // namespace

uint64_t kv_page_bytes(const TextConfig& text, const ShardPlan& shard, DType dtype, AttentionKind kind, bool fixed_scales) {
  return uint64_t(layers_of(text, shard, kind)) *
         uint64_t(kv_layout(text, shard.kv_heads.size(), dtype, fixed_scales).layer_bytes);
}

KvCache::KvCache(Backend& backend, const TextConfig& text, const ShardPlan& shard, DType dtype,
                 const int64_t (&n_pages)[kNumAttentionKinds], std::span<const KvScales> scales, bool one_slab)
    : backend_(backend),
      layout_(kv_layout(text, shard.kv_heads.size(), dtype, !scales.empty())),
      first_layer_(shard.layers.begin) {
  L4_CHECK(scales.empty() || (dtype == DType::f8_e4m3 && int64_t(scales.size()) == shard.layers.size()));
  for (AttentionKind kind : {AttentionKind::chunked, AttentionKind::global}) {
    n_layers_of_[int(kind)] = layers_of(text, shard, kind);
    uint64_t bytes = uint64_t(n_layers_of_[int(kind)] * layout_.layer_bytes) * uint64_t(n_pages[int(kind)]);
    L4_CHECK(!one_slab || kind == AttentionKind::chunked || bytes == pools_[int(AttentionKind::chunked)].bytes());
    if (bytes > 0 && !(one_slab && kind == AttentionKind::global)) pools_[int(kind)] = backend.allocate(bytes, "the KV cache");
  }
  int64_t next[kNumAttentionKinds] = {0, 0};
  for (int64_t l = shard.layers.begin; l < shard.layers.end; ++l) {
    const AttentionKind kind = text.layers[size_t(l)].attention;
    KvLayer layer;
    layer.kind = kind;
    layer.layout = layout_;
    Buffer& pool = pools_[int(one_slab ? AttentionKind::chunked : kind)];
    layer.base = static_cast<std::byte*>(pool.data()) + next[int(kind)]++ * layout_.layer_bytes;
    layer.page_stride = n_layers_of_[int(kind)] * layout_.layer_bytes;
    if (!scales.empty()) {
      const KvScales& fixed = scales[size_t(l - first_layer_)];
      layer.k_scale = fixed.k, layer.v_scale = fixed.v;
    }
    layers_.push_back(layer);
  }
}

KvLayer KvCache::layer(int64_t index) const {
  L4_CHECK(index >= first_layer_ && index - first_layer_ < int64_t(layers_.size()));
  return layers_[size_t(index - first_layer_)];
}

void KvCache::copy_pages(std::span<const PageCopy> copies) {
  if (copies.empty()) return;
  for (AttentionKind kind : {AttentionKind::chunked, AttentionKind::global})
    for (const KvLayer& layer : layers_)
      if (layer.kind == kind) {  // the first of its kind: its base is the page's beginning
        backend_.copy_pages(layer, n_layers_of_[int(kind)], copies);
        break;
      }
}

View KvCache::page(AttentionKind kind, int32_t id) const {
  const int64_t bytes = n_layers_of_[int(kind)] * layout_.layer_bytes;
  for (const KvLayer& layer : layers_)
    if (layer.kind == kind) return {static_cast<std::byte*>(layer.base) + id * layer.page_stride, DType::u8, {bytes}};
  return {nullptr, DType::u8, {0}};
}

uint64_t KvCache::bytes() const {
  return pools_[0].bytes() + pools_[1].bytes();
}

}  // namespace l4
