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
  }
}
