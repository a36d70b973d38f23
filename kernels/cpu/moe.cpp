// Routing and the bookkeeping of experts (llama4-spec 2.7). The products themselves are ordinary linear() jobs.
#include <cmath>

#include "kernels/cpu/ops.h"

namespace l4::cpu {

void route_rows(const OpContext& ctx, const View& logits, const Route& route) {
  if (ctx.measuring()) return;
  const int64_t n_experts = logits.cols(), top_k = route.top_k;
  L4_CHECK(top_k >= 1 && top_k <= n_experts && route.expert.elements() == logits.rows() * top_k);
  with_activation(logits.dtype, [&](auto tag) {
    using A = decltype(tag);
    for (int64_t t = 0; t < logits.rows(); ++t) {
      const A* row = data<A>(logits) + t * n_experts;
      int32_t* expert = route.expert.i32() + t * top_k;
      float* score = route.score.f32() + t * top_k;
      // Insertion into the best so far; an equal logit does not displace one with a lower index. NaN counts as the
      // least, so that the choices are distinct experts whatever the row holds.
      auto key = [&](int32_t e) {
        float v = get(row[e]);
        return v == v ? v : -INFINITY;
      };
      int64_t kept = 0;
      for (int32_t e = 0; e < n_experts; ++e) {
        int64_t at = kept;
        while (at > 0 && key(e) > key(expert[at - 1])) --at;
        if (at == top_k) continue;
        if (kept < top_k) ++kept;
        for (int64_t i = kept - 1; i > at; --i) expert[i] = expert[i - 1];
        expert[at] = e;
      }
      for (int64_t i = 0; i < top_k; ++i) score[i] = round_to<A>(1.0f / (1.0f + std::exp(-get(row[expert[i]]))));
    }
  });
}

ExpertGroups group_by_expert(Scratch& scratch, const OpContext& ctx, const Route& route, int64_t first_expert,
                             int64_t n_experts) {
  const int64_t n_slots = route.expert.elements();
  ExpertGroups groups{.n_experts = n_experts,
                      .begin = scratch.take_array<int32_t>(n_experts + 1),
                      .slots = scratch.take_array<int32_t>(n_slots),
                      .rows = scratch.take_array<int32_t>(n_slots),
                      .scores = scratch.take_array<float>(n_slots)};
  if (ctx.measuring()) return groups;
  const int32_t* expert = route.expert.i32();
  auto local = [&](int64_t slot) { return expert[slot] - first_expert; };
  auto here = [&](int64_t slot) { return local(slot) >= 0 && local(slot) < n_experts; };
  // A counting sort: sizes, ends, then slots from the last to the first, which turns ends into beginnings.
  std::fill_n(groups.begin, n_experts + 1, 0);
  for (int64_t slot = 0; slot < n_slots; ++slot)
    if (here(slot)) ++groups.begin[local(slot)];
  for (int64_t e = 1; e <= n_experts; ++e) groups.begin[e] += groups.begin[e - 1];
  for (int64_t slot = n_slots - 1; slot >= 0; --slot) {
    if (!here(slot)) continue;
    const int32_t at = --groups.begin[local(slot)];
    groups.slots[at] = int32_t(slot);
    groups.rows[at] = int32_t(slot / route.top_k);
    groups.scores[at] = route.score.f32()[slot];
  }
  return groups;
}

void combine_experts(const OpContext& ctx, const View& down, const Route& route, int64_t first_expert,
                     int64_t n_experts, DType a, bool round_each, const View& sums) {
  if (ctx.measuring()) return;
  const int64_t d = sums.cols(), top_k = route.top_k;
  const bool round = round_each && a == DType::bf16;
  ctx.pool.parallel_for(sums.rows(), row_grain(d * top_k), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      float* to = sums.f32() + t * d;
      std::fill_n(to, d, 0.0f);
      for (int64_t slot = t * top_k; slot < (t + 1) * top_k; ++slot) {
        const int64_t e = route.expert.i32()[slot] - first_expert;
        if (e < 0 || e >= n_experts) continue;
        const float* from = down.f32() + slot * d;
        for (int64_t i = 0; i < d; ++i) to[i] += round ? round_bf16(from[i]) : from[i];
      }
    }
  });
}

}  // namespace l4::cpu
