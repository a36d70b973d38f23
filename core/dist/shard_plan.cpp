#include "dist/shard_plan.h"

#include <algorithm>

namespace l4 {

Range equal_part(int64_t n, int64_t parts, int64_t index) {
  L4_CHECK(parts > 0 && n % parts == 0 && index >= 0 && index < parts);
  return {n / parts * index, n / parts * (index + 1)};
}

namespace {
void must_divide(int64_t n, const char* what, int64_t parts, const char* flag) {
  if (n % parts != 0) fail(ErrorKind::usage, flag, " ", parts, ": does not divide the model's ", n, " ", what);
}
}  // namespace

ShardPlan make_shard_plan(const ShardDims& dims, const Topology& topology, int rank) {
  const int64_t tp = topology.tp, pp = topology.pp, ep = topology.ep;
  const char* tp_flag = "--tensor-parallel-size";
  const char* ep_flag = "--expert-parallel-size";
  if (tp < 1) fail(ErrorKind::usage, tp_flag, " ", tp, ": must be at least 1");
  if (pp < 1 || pp > dims.n_layers)
    fail(ErrorKind::usage, "--pipeline-parallel-size ", pp, ": must be 1 to the model's ", dims.n_layers, " layers");
  if (ep < 1 || tp % ep != 0) fail(ErrorKind::usage, ep_flag, " ", ep, ": must divide ", tp_flag, " ", tp);
  must_divide(dims.n_kv_heads, "kv heads", tp, tp_flag);
  must_divide(dims.n_heads, "attention heads", tp, tp_flag);
  must_divide(dims.vocab, "vocabulary entries", tp, tp_flag);
  must_divide(dims.ffn, "expert columns", tp, tp_flag);
  if (dims.any_dense) must_divide(dims.dense_ffn, "dense MLP columns", tp, tp_flag);
  must_divide(dims.n_experts, "experts", ep, ep_flag);
  L4_CHECK(rank >= 0 && rank < topology.world());

  ShardPlan plan;
  plan.topology = topology;
  plan.rank = rank;
  plan.stage = topology.stage_of(rank);
  plan.tp_rank = topology.tp_rank_of(rank);
  // The first n_layers % pp stages take one layer more; the last stage also has the head.
  int64_t base = dims.n_layers / pp, extra = dims.n_layers % pp;
  plan.layers.begin = plan.stage * base + std::min<int64_t>(plan.stage, extra);
  plan.layers.end = plan.layers.begin + base + (plan.stage < extra ? 1 : 0);
  plan.heads = equal_part(dims.n_heads, tp, plan.tp_rank);
  plan.kv_heads = equal_part(dims.n_kv_heads, tp, plan.tp_rank);
  plan.ffn = equal_part(dims.ffn, tp, plan.tp_rank);
  if (dims.any_dense) plan.dense_ffn = equal_part(dims.dense_ffn, tp, plan.tp_rank);
  plan.vocab = equal_part(dims.vocab, tp, plan.tp_rank);
  const int64_t columns = tp / ep;  // ranks that share one expert
  plan.experts = equal_part(dims.n_experts, ep, plan.tp_rank / columns);
  plan.expert_ffn = equal_part(dims.ffn, columns, plan.tp_rank % columns);
  return plan;
}

}  // namespace l4
