// A model without arithmetic, for testing everything above the executor. It keeps KV memory as pages of slots like the
// real one, but a slot holds the position and a hash of everything that the real entry would depend on: the token (or
// image feature), the position, and the hashes seen by that row in global and in chunked attention. A wrong page, a
// stale slot, a missed copy or a wrong span changes the hash of every later token; wrong positions are reported where
// they are read.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <set>
#include <span>
#include <vector>

#include "base/error.h"
#include "engine/limits.h"
#include "engine/step_runner.h"

// REQUIRE for code that may run in the engine's thread, which doctest's own exception must not reach.
#define L4_EXPECT(condition)                             \
  do {                                                   \
    if (!(condition)) {                                  \
      FAIL_CHECK(#condition);                            \
      ::l4::fail(::l4::ErrorKind::internal, #condition); \
    }                                                    \
  } while (0)

namespace l4::test {

inline uint64_t mix(uint64_t h, uint64_t v) {
  h ^= v + 0x9E3779B97F4A7C15ull + (h << 6) + (h >> 2);
  h *= 0xBF58476D1CE4E5B9ull;
  return h ^ (h >> 29);
}

// What a row puts in: its token, or the row of an image's features.
inline uint64_t token_input(int32_t id) {
  return mix(1, uint64_t(uint32_t(id)));
}
inline uint64_t feature_input(std::span<const BFloat16> tile, int64_t row_of_tile) {
  uint64_t h = mix(2, uint64_t(row_of_tile));
  for (BFloat16 v : tile) h = mix(h, v.bits);
  return h;
}

inline uint64_t row_tag(uint64_t input, int64_t position, std::span<const uint64_t> global,
                        std::span<const uint64_t> chunked) {
  uint64_t h = mix(input, uint64_t(position));
  for (uint64_t tag : global) h = mix(h, tag);
  h = mix(h, 77);
  for (uint64_t tag : chunked) h = mix(h, tag);
  return h;
}

// The same model over whole sequences: tag of each row, straight from the rule of llama4-spec 2.6.
inline std::vector<uint64_t> reference_tags(std::span<const uint64_t> inputs, int64_t chunk) {
  std::vector<uint64_t> tags;
  for (size_t p = 0; p < inputs.size(); ++p) {
    const size_t start = chunk == 0 ? 0 : p - p % size_t(chunk);
    const std::span<const uint64_t> before(tags);
    tags.push_back(row_tag(inputs[p], int64_t(p), before, before.subspan(start)));
  }
  return tags;
}

inline std::vector<uint64_t> token_inputs(std::span<const int32_t> ids) {
  std::vector<uint64_t> inputs;
  for (int32_t id : ids) inputs.push_back(token_input(id));
  return inputs;
}

inline int32_t greedy_choice(uint64_t tag, int64_t vocab, std::span<const int32_t> forbidden = {}) {
  int32_t id = int32_t(tag % uint64_t(vocab));
  while (std::find(forbidden.begin(), forbidden.end(), id) != forbidden.end()) id = int32_t((id + 1) % vocab);
  return id;
}

// Logits in the shape of the tag: a few numbers, the chosen id's the largest.
inline std::vector<float> tag_logits(uint64_t tag, int64_t vocab) {
  std::vector<float> row;
  for (int64_t v = 0; v < vocab; ++v) row.push_back(float(mix(tag, uint64_t(v)) % 1000) / 500.0f);
  row[size_t(greedy_choice(tag, vocab))] = 5.0f;
  return row;
}

class SimulatedRunner final : public StepRunner {
 public:
  SimulatedRunner(const EngineLimits& limits, int64_t page_tokens) : limits_(limits), page_tokens_(page_tokens) {
    for (size_t kind = 0; kind < 2; ++kind)
      kv_[kind].assign(size_t(limits.kv_pages[kind]), std::vector<Slot>(size_t(page_tokens)));
    features_.assign(size_t(limits.encoder_rows), 0);
  }

  // What the tests look at or set.
  std::vector<StepPlan> steps;                   // all of them
  std::vector<int64_t> encoded_tiles;            // tiles of each encode_tiles call
  std::vector<std::vector<int32_t>> forbidden;   // of each sampled row
  std::function<void(const StepPlan&)> on_step;  // before each step; may throw, may wait
  std::function<std::optional<Error>(const SamplingRow&)> on_row;  // what is wrong with its logits
  std::vector<uint64_t> tags;                    // of all rows of the last step

  void begin_step(const StepPlan& plan) override { run(plan); }

  std::vector<ChosenRow> end_step(std::span<const SamplingRow> rows) override {
    const StepPlan& plan = steps.back();
    L4_EXPECT(int64_t(rows.size()) == plan.n_out());
    std::vector<ChosenRow> choices;
    for (size_t i = 0; i < rows.size(); ++i) {
      const int32_t row = plan.out_rows[i];
      CHECK(rows[i].position == plan.positions[size_t(row)] + 1);
      CHECK(int64_t(rows[i].prompt.size() + rows[i].output.size()) == rows[i].position);
      forbidden.emplace_back(rows[i].forbidden.begin(), rows[i].forbidden.end());
      choices.push_back({{choose(tags[size_t(row)], rows[i]), -1.0f, {}}, std::nullopt});
      if (on_row) choices.back().failure = on_row(rows[i]);
    }
    return choices;
  }

  std::vector<float> end_step_with_logits() override {
    std::vector<float> all;
    for (int32_t row : steps.back().out_rows) {
      std::vector<float> logits = tag_logits(tags[size_t(row)], limits_.vocab);
      all.insert(all.end(), logits.begin(), logits.end());
    }
    return all;
  }

  void encode_tiles(std::span<const BFloat16> pixels, int64_t n_tiles, int64_t feature_row) override {
    L4_EXPECT(n_tiles >= 1);
    L4_EXPECT(n_tiles <= limits_.max_step_tiles);
    L4_EXPECT(int64_t(pixels.size()) == n_tiles * limits_.tile_elements);
    L4_EXPECT(feature_row >= 0);
    L4_EXPECT(feature_row + n_tiles * limits_.tokens_per_tile <= limits_.encoder_rows);
    for (int64_t t = 0; t < n_tiles; ++t)
      for (int64_t r = 0; r < limits_.tokens_per_tile; ++r)
        features_[size_t(feature_row + t * limits_.tokens_per_tile + r)] =
            feature_input(pixels.subspan(size_t(t * limits_.tile_elements), size_t(limits_.tile_elements)), r);
    encoded_tiles.push_back(n_tiles);
  }

  int64_t page_tokens() const override { return page_tokens_; }
  int64_t page_bytes(AttentionKind) const override { return page_tokens_ * int64_t(sizeof(Slot)); }
  void read_page(AttentionKind kind, int32_t page, std::span<std::byte> out) override {
    std::memcpy(out.data(), kv_[size_t(kind)].at(size_t(page)).data(), out.size());
  }
  void write_page(AttentionKind kind, int32_t page, std::span<const std::byte> bytes) override {
    std::memcpy(kv_[size_t(kind)].at(size_t(page)).data(), bytes.data(), bytes.size());
    overwrite_other(size_t(kind), page);
  }

 private:
  // Greedy, or by seed.
  int32_t choose(uint64_t tag, const SamplingRow& row) const {
    if (row.params.seed != 0) tag = mix(tag, row.params.seed);
    int32_t id = greedy_choice(tag, limits_.vocab, row.forbidden);
    while (!row.mask.empty() && !(row.mask[size_t(id) / 32] >> (id % 32) & 1)) id = int32_t((id + 1) % limits_.vocab);
    return id;
  }

  struct Slot {
    int64_t position = -1;
    uint64_t tag = 0;
  };

  void run(const StepPlan& plan) {
    if (on_step) on_step(plan);
    steps.push_back(plan);
    const int64_t n_rows = plan.n_rows();
    L4_EXPECT(n_rows >= 1);
    L4_EXPECT(n_rows <= limits_.max_step_rows);
    L4_EXPECT(plan.n_out() <= limits_.max_out_rows);
    L4_EXPECT(int64_t(plan.positions.size()) == n_rows);
    L4_EXPECT(std::is_sorted(plan.out_rows.begin(), plan.out_rows.end()));
    copy_pages(plan);

    std::vector<uint64_t> inputs = token_inputs(plan.ids);
    for (const ImageRow& image : plan.image_rows) {
      L4_EXPECT(plan.ids[size_t(image.row)] == limits_.image_token_id);
      inputs[size_t(image.row)] = features_[size_t(image.feature)];
    }

    // (span, index in the span) of each row, by kind
    std::vector<std::pair<KvSpan, int64_t>> where[2];
    for (size_t kind = 0; kind < 2; ++kind)
      for (const KvSpan& span : plan.kv[kind].spans) {
        L4_EXPECT(span.n_rows >= 1);
        L4_EXPECT(span.row == int64_t(where[kind].size()));
        for (int64_t i = 0; i < span.n_rows; ++i) where[kind].push_back({span, i});
      }
    L4_EXPECT(int64_t(where[0].size()) == n_rows);
    L4_EXPECT(int64_t(where[1].size()) == n_rows);

    tags.clear();
    for (int64_t row = 0; row < n_rows; ++row) {
      const int64_t position = plan.positions[size_t(row)];
      std::vector<uint64_t> seen[2];
      for (size_t kind = 0; kind < 2; ++kind) {
        const auto& [span, i] = where[kind][size_t(row)];
        const bool chunked = AttentionKind(kind) == AttentionKind::chunked && limits_.attention_chunk > 0;
        const int64_t start = chunked ? position - position % limits_.attention_chunk : 0;
        L4_EXPECT(span.past + i == position - start);
        for (int64_t index = 0; index < span.past + i; ++index) {
          const Slot& slot = slot_of(plan, kind, span, index);
          if (slot.position != start + index)
            FAIL("position " << position << " kind " << kind << " index " << index << " holds position "
                             << slot.position);
          seen[kind].push_back(slot.tag);
        }
      }
      tags.push_back(
          row_tag(inputs[size_t(row)], position, seen[int(AttentionKind::global)], seen[int(AttentionKind::chunked)]));
      for (size_t kind = 0; kind < 2; ++kind) {
        const auto& [span, i] = where[kind][size_t(row)];
        slot_of(plan, kind, span, span.past + i) = {position, tags.back()};
        overwrite_other(kind, plan.kv[kind].pages[size_t(span.table + (span.past + i) / page_tokens_)]);
      }
    }
  }

  Slot& slot_of(const StepPlan& plan, size_t kind, const KvSpan& span, int64_t index) {
    const size_t entry = size_t(span.table + index / page_tokens_);
    L4_EXPECT(entry < plan.kv[kind].pages.size());
    const int32_t page = plan.kv[kind].pages[entry];
    L4_EXPECT(page >= 0);
    L4_EXPECT(page < int64_t(kv_[kind].size()));
    return kv_[kind][size_t(page)][size_t(index % page_tokens_)];
  }

  // In any order: no page may be the target of two copies, or source of one and target of another.
  void copy_pages(const StepPlan& plan) {
    std::set<int32_t> sources[2], targets[2];
    for (const PageCopy& copy : plan.page_copies) {
      sources[int(copy.kind)].insert(copy.from);
      CHECK(targets[int(copy.kind)].insert(copy.to).second);
    }
    for (size_t kind = 0; kind < 2; ++kind)
      for (int32_t page : targets[kind]) CHECK(!sources[kind].count(page));
    for (const PageCopy& copy : plan.page_copies) {
      auto& pages = kv_[size_t(copy.kind)];
      pages.at(size_t(copy.to)) = pages.at(size_t(copy.from));
      overwrite_other(size_t(copy.kind), copy.to);
    }
  }

  // Where both kinds lie in one slab, what is written to a page is written over those of the other kind in its block.
  void overwrite_other(size_t kind, int32_t page) {
    const int64_t n = limits_.kv_block_pages;
    if (n == 0) return;
    const bool is_chunked = AttentionKind(kind) == AttentionKind::chunked;
    const int64_t first = is_chunked ? page * n : page / n, last = is_chunked ? first + n : first + 1;
    for (int64_t other = first; other < last; ++other)
      for (Slot& slot : kv_[1 - kind][size_t(other)]) slot = {};
  }

  EngineLimits limits_;
  int64_t page_tokens_;
  std::vector<std::vector<Slot>> kv_[2];  // [pages][page_tokens]
  std::vector<uint64_t> features_;
};

}  // namespace l4::test
