#include "engine/step_builder.h"

#include <algorithm>

namespace l4 {

namespace {

// Rows [row, row + n) at positions [position, position + n) of a stretch that begins at position `stretch`.
void add_span(KvPlan& kv, const Sequence::PageTable& table, const KvPools& pools, int64_t row, int64_t position,
              int64_t n, int64_t stretch) {
  kv.spans.push_back({int32_t(row), int32_t(n), int32_t(position - stretch), int32_t(kv.pages.size())});
  const auto first = table.pages.begin() + (stretch - table.begin) / pools.page_tokens;
  kv.pages.insert(kv.pages.end(), first, first + pools.pages_for(position + n - stretch));
}

void add_image_rows(StepPlan& plan, const Sequence& s, int64_t row, int64_t tokens_per_tile) {
  const int64_t begin = s.n_committed(), end = begin + s.n_reserved();
  for (const SequenceImage& image : s.images()) {
    auto first = std::lower_bound(image.positions.begin(), image.positions.end(), begin);
    for (auto p = first; p != image.positions.end() && *p < end; ++p) {
      const int64_t feature = p - image.positions.begin();
      const TileSlot& slot = image.slots[size_t(feature / tokens_per_tile)];
      L4_CHECK(slot, "position ", *p, " needs a tile that is not encoded");
      plan.image_rows.push_back({int32_t(row + *p - begin), int32_t(*slot + feature % tokens_per_tile)});
    }
  }
}

}  // namespace

StepPlan build_step(std::span<const StepPart> parts, int64_t tokens_per_tile) {
  StepPlan plan;
  for (const StepPart& part : parts) {
    const Sequence& s = *part.sequence;
    const KvPools& pools = s.pools();
    const int64_t row = plan.n_rows(), begin = s.n_committed(), n = s.n_reserved(), end = begin + n;
    L4_CHECK(n > 0);

    plan.ids.insert(plan.ids.end(), s.ids().begin() + begin, s.ids().begin() + end);
    for (int64_t p = begin; p < end; ++p) plan.positions.push_back(int32_t(p));

    add_span(plan.of(AttentionKind::global), s.table(AttentionKind::global), pools, row, begin, n, 0);
    for (int64_t p = begin; p < end;) {
      const int64_t stretch = pools.chunk_start(p);
      const int64_t stop = pools.chunk == 0 ? end : std::min(end, stretch + pools.chunk);
      add_span(plan.of(AttentionKind::chunked), s.table(AttentionKind::chunked), pools, row + p - begin, p, stop - p,
               stretch);
      p = stop;
    }

    add_image_rows(plan, s, row, tokens_per_tile);
    if (part.out == OutRows::last) plan.out_rows.push_back(int32_t(row + n - 1));
    if (part.out == OutRows::all)
      for (int64_t i = 0; i < n; ++i) plan.out_rows.push_back(int32_t(row + i));
    plan.page_copies.insert(plan.page_copies.end(), s.copies().begin(), s.copies().end());
  }
  return plan;
}

int64_t prefill_step_end(int64_t begin, int64_t end, int64_t max_rows, int64_t chunk) {
  L4_CHECK(begin < end && max_rows > 0);
  if (end - begin <= max_rows) return end;
  const int64_t stop = begin + max_rows;
  const int64_t edge = chunk == 0 ? 0 : stop / chunk * chunk;
  return edge > begin ? edge : stop;
}

}  // namespace l4
