#include "model/kv_cache.h"

#include "engine/executor.h"
#include "support/golden_model.h"
#include "support/test.h"

using namespace l4;

TEST_CASE("kv_cache: pages are the largest power of two up to 128 that divides the chunk") {
  TextConfig text;
  for (auto [chunk, tokens] :
       {std::pair{8192, 128}, {256, 128}, {8, 8}, {24, 8}, {96, 32}, {7, 1}, {0, 128}, {128, 128}}) {
    text.attention_chunk = chunk;
    CHECK(kv_page_tokens(text) == tokens);
  }
}

TEST_CASE("kv_cache: FP8 takes a byte a value, and a scale a token and kv head of K and of V where none is fixed") {
  TextConfig text;
  text.head_dim = 128, text.attention_chunk = 8192;
  const KvLayout own = kv_layout(text, 8, DType::f8_e4m3), fixed = kv_layout(text, 8, DType::f8_e4m3, true);
  CHECK(own.k_offset == 0);
  CHECK(own.v_offset == 8 * 128 * 128);
  CHECK(own.k_scale_offset == 2 * 8 * 128 * 128);
  CHECK(own.v_scale_offset == 2 * 8 * 128 * 128 + 8 * 128 * 2);
  CHECK(own.layer_bytes == 2 * 8 * 128 * (128 + 2));
  CHECK(kv_token_bytes(text, 8, DType::f8_e4m3) == own.layer_bytes / 128);
  CHECK(fixed.v_offset == own.v_offset);
  CHECK(fixed.k_scale_offset == -1);
  CHECK(fixed.v_scale_offset == -1);
  CHECK(fixed.layer_bytes == 2 * 8 * 128 * 128);
  CHECK(kv_token_bytes(text, 8, DType::f8_e4m3, true) == 2048);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    CHECK(kv_layout(text, 8, dtype).k_scale_offset == -1);
    CHECK(kv_token_bytes(text, 8, dtype) == 2048 * int64_t(dtype_bytes(dtype)));
  }
  // Pages of odd sizes: scales begin right behind V, a layer ends at the next 256.
  text.head_dim = 10, text.attention_chunk = 4;
  const KvLayout odd = kv_layout(text, 3, DType::f8_e4m3);
  CHECK(odd.k_scale_offset == 2 * 3 * 4 * 10);
  CHECK(odd.v_scale_offset == odd.k_scale_offset + 3 * 4 * 2);
  CHECK(odd.layer_bytes == 512);
}

TEST_CASE("kv_cache: bytes per token are those of the specification, for any sharding") {
  TextConfig text;
  text.n_layers = 48, text.head_dim = 128, text.attention_chunk = 8192, text.n_kv_heads = 8, text.n_heads = 40;
  text.ffn = 8192, text.n_experts = 16, text.vocab = 202048;
  for (int l = 0; l < 48; ++l)
    text.layers.push_back({(l + 1) % 4 ? AttentionKind::chunked : AttentionKind::global, (l + 1) % 4 != 0, true});
  ModelConfig config;
  config.text = text;
  for (Topology t : {Topology{1, 1, 1}, Topology{8, 1, 1}, Topology{2, 2, 1}}) {
    uint64_t global = 0, chunked = 0;
    for (int rank = 0; rank < t.world(); ++rank) {
      ShardPlan shard = shard_of(config, t, rank);
      global += kv_page_bytes(text, shard, DType::bf16, AttentionKind::global);
      chunked += kv_page_bytes(text, shard, DType::bf16, AttentionKind::chunked);
    }
    CHECK(global == 49152 * 128);    // llama4-spec 7: 48 KiB a token
    CHECK(chunked == 147456 * 128);  // 144 KiB
    uint64_t fp8 = 0;
    for (int rank = 0; rank < t.world(); ++rank)
      fp8 += kv_page_bytes(text, shard_of(config, t, rank), DType::f8_e4m3, AttentionKind::global);
    CHECK(fp8 == (49152 / 2 + 12 * 8 * 2 * 2) * 128);  // 12 layers, 8 kv heads, K and V
  }
}
