// Sequences over one simulated KV memory.
#pragma once

#include <random>
#include <vector>

#include "core/engine/simulated_runner.h"
#include "engine/sequence.h"
#include "engine/step_builder.h"

namespace l4::test {

constexpr size_t kChunked = size_t(AttentionKind::chunked), kGlobal = size_t(AttentionKind::global);

struct Bench {
  // block_pages: one slab of n_chunked blocks.
  Bench(int64_t page_tokens, int64_t chunk, int64_t n_chunked, int64_t n_global, int64_t block_pages = 0)
      : limits(make_limits(chunk, n_chunked, block_pages ? n_chunked * block_pages : n_global)),
        pools(page_tokens, chunk, limits.kv_pages, block_pages),
        runner(with_blocks(limits, block_pages), page_tokens) {}

  static EngineLimits with_blocks(EngineLimits limits, int64_t block_pages) {
    limits.kv_block_pages = block_pages;
    return limits;
  }

  static EngineLimits make_limits(int64_t chunk, int64_t n_chunked, int64_t n_global) {
    EngineLimits l;
    l.vocab = 1000;
    l.max_context = 1 << 20;
    l.attention_chunk = chunk;
    l.kv_pages[kChunked] = n_chunked;
    l.kv_pages[kGlobal] = n_global;
    l.max_step_rows = l.max_out_rows = 1 << 20;
    return l;
  }

  // Runs the reserved rows of the sequences and compares each row with the reference.
  void run(std::vector<Sequence*> sequences) {
    std::vector<StepPart> parts;
    for (Sequence* s : sequences) parts.push_back({s, OutRows::none});
    runner.step(build_step(parts, 0), {});
    size_t row = 0;
    for (Sequence* s : sequences) {
      const int64_t end = s->n_committed() + s->n_reserved();
      const auto expected =
          reference_tags(token_inputs(std::span(s->ids()).first(size_t(end))), limits.attention_chunk);
      for (int64_t p = s->n_committed(); p < end; ++p)
        if (runner.tags[row++] != expected[size_t(p)]) FAIL("the row at position " << p << " saw the wrong entries");
    }
    CHECK(row == runner.tags.size());
  }

  // Computes all of the sequence in steps of n rows.
  void compute(Sequence& s, int64_t n) {
    while (s.n_committed() < s.length()) {
      REQUIRE(s.reserve(std::min(n, s.length() - s.n_committed())));
      run({&s});
      s.commit(s.n_reserved());
    }
  }

  int64_t used(AttentionKind kind) { return pools.pool.n_used(kind); }

  EngineLimits limits;
  KvPools pools;
  SimulatedRunner runner;
};

inline std::vector<int32_t> random_ids(std::mt19937& random, int64_t n) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < n; ++i) ids.push_back(int32_t(random() % 1000));
  return ids;
}

}  // namespace l4::test
