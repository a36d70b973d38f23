#include "dist/shard_plan.h"

#include "support/test.h"

using namespace l4;
using l4::test::error_of;

namespace {
const ShardDims kScout{48, 40, 8, 8192, 16384, 16, 202048, false};
}

TEST_CASE("shard_plan: every part is covered once, for all sizes up to 8") {
  for (Topology t : {Topology{1, 1, 1}, Topology{2, 1, 1}, Topology{2, 1, 2}, Topology{8, 1, 4}, Topology{4, 3, 2},
                     Topology{1, 5, 1}, Topology{8, 2, 8}}) {
    for (int stage = 0; stage < t.pp; ++stage) {
      int64_t heads = 0, vocab = 0, expert_columns = 0;
      for (int r = 0; r < t.tp; ++r) {
        ShardPlan p = make_shard_plan(kScout, t, stage * t.tp + r);
        CHECK(p.heads.begin == heads);
        CHECK(p.vocab.begin == vocab);
        heads = p.heads.end, vocab = p.vocab.end;
        // query head h reads kv head h * K / H: a rank's heads must read the rank's kv heads
        CHECK(p.heads.begin * kScout.n_kv_heads / kScout.n_heads == p.kv_heads.begin);
        CHECK((p.heads.end - 1) * kScout.n_kv_heads / kScout.n_heads == p.kv_heads.end - 1);
        expert_columns += p.experts.size() * p.expert_ffn.size();
        CHECK(p.first_stage() == (stage == 0));
        CHECK(p.last_stage() == (stage == t.pp - 1));
      }
      CHECK(heads == kScout.n_heads);
      CHECK(vocab == kScout.vocab);
      CHECK(expert_columns == kScout.n_experts * kScout.ffn);
    }
    int64_t layer = 0;
    for (int stage = 0; stage < t.pp; ++stage) {
      ShardPlan p = make_shard_plan(kScout, t, stage * t.tp);
      CHECK(p.layers.begin == layer);
      CHECK(p.layers.size() >= kScout.n_layers / t.pp);
      layer = p.layers.end;
    }
    CHECK(layer == kScout.n_layers);
  }
}

TEST_CASE("shard_plan: what does not divide is named") {
  CHECK(error_of([] {
          make_shard_plan(kScout, {3, 1, 1}, 0);
        }) == "--tensor-parallel-size 3: does not divide the model's 8 kv heads");
  CHECK(error_of([] { make_shard_plan(kScout, {4, 1, 3}, 0); }).find("--expert-parallel-size 3") == 0);
  CHECK(error_of([] { make_shard_plan(kScout, {1, 49, 1}, 0); }).find("--pipeline-parallel-size 49") == 0);
  CHECK(error_of([] { make_shard_plan(kScout, {0, 1, 1}, 0); }).find("--tensor-parallel-size 0") == 0);
}
