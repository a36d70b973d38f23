#include "engine/scheduler.h"

#include <deque>

#include "support/test.h"

using namespace l4;
using namespace l4::test;

namespace {

constexpr int32_t kPatch = 99;

EngineLimits limits_of(int64_t sequences, int64_t rows, int64_t pages, int64_t chunk = 0) {
  EngineLimits l;
  l.vocab = 100;
  l.max_context = 1000;
  l.attention_chunk = chunk;
  l.kv_pages = {pages, pages};
  l.max_step_rows = rows;
  l.max_out_rows = rows;
  l.max_sequences = sequences;
  l.image_token_id = kPatch;
  l.tokens_per_tile = 2;
  l.tile_elements = 1;
  l.max_step_tiles = 2;
  l.encoder_rows = 2 * 3;
  return l;
}

// A scheduler whose steps always succeed: each row with logits chooses token 1. Pages of 4 tokens.
struct Script {
  explicit Script(const EngineLimits& l, bool with_cache = false)
      : limits(l),
        pools(4, l.attention_chunk, l.kv_pages),
        cache(pools),
        encoder(l.encoder_rows, l.tokens_per_tile, l.max_step_tiles),
        scheduler(limits, pools, encoder, with_cache ? &cache : nullptr) {}

  // Arrives now. Ids are all different from those of other tasks.
  Task& add(int64_t n_prompt, int32_t priority = 0, std::vector<int64_t> image_tiles = {}, int64_t max_tokens = -1) {
    auto request = std::make_shared<Request>();
    request->ids.assign(size_t(n_prompt), int32_t(2 + tasks.size()));
    for (int64_t tiles : image_tiles) {
      request->images.push_back({std::make_shared<const std::vector<BFloat16>>(size_t(tiles)), tiles, {}});
      request->ids.insert(request->ids.end(), size_t(tiles * 2), kPatch);
    }
    request->priority = priority;
    request->max_tokens = max_tokens;
    tasks.emplace_back(pools, request, locate_images(request->ids, request->images, kPatch, 2), tasks.size());
    scheduler.add(tasks.back());
    return tasks.back();
  }

  // One step: "0:5 1:1* 2:3+2" is 5 rows of task 0, one with logits of task 1, three of which two are drafts of task 2.
  std::string step() {
    last = scheduler.next();
    std::string text;
    for (const ScheduledPart& part : last.parts) {
      size_t index = 0;
      while (&tasks[index] != part.task) ++index;
      text += cat(text.empty() ? "" : " ", index, ":", part.n_rows - part.n_drafts,
                  part.n_drafts ? cat("+", part.n_drafts) : "", part.out == OutRows::none ? "" : "*");
      CHECK(part.task->sequence.n_reserved() == part.n_rows);
      const int64_t n_right = part.n_rows - part.n_drafts;
      scheduler.commit(part, n_right);
      if (part.out != OutRows::none && !last.logits) part.task->sequence.append(1);
      if (last.logits) part.task->n_logits_done = part.task->sequence.n_committed();
    }
    return last.stuck ? "stuck" : text;
  }

  const EngineLimits limits;
  KvPools pools;
  PrefixCache cache;
  EncoderCache encoder;
  std::deque<Task> tasks;
  Scheduler scheduler;
  ScheduledStep last;
};

}  // namespace

TEST_CASE("scheduler: answers first, then prompts in order, each to a chunk edge rather than behind it") {
  Script s(limits_of(4, 12, 100, 8));
  CHECK(s.step() == "");
  s.add(3);
  CHECK(s.step() == "0:3*");
  s.add(30);
  s.add(2);
  CHECK(s.step() == "0:1* 1:8 2:2*");  // 11 rows left: to the edge at 8, and what is left to the next
  CHECK(s.step() == "0:1* 2:1* 1:8");
  CHECK(s.step() == "0:1* 2:1* 1:8");
  CHECK(s.step() == "0:1* 2:1* 1:6*");
  CHECK(s.step() == "0:1* 1:1* 2:1*");
  s.scheduler.remove(s.tasks[1]);
  CHECK(s.step() == "0:1* 2:1*");
}

TEST_CASE("scheduler: no more sequences than allowed, no more rows with logits") {
  EngineLimits limits = limits_of(2, 12, 100);
  limits.max_out_rows = 2;
  Script s(limits);
  for (int i = 0; i < 3; ++i) s.add(2);
  CHECK(s.step() == "0:2* 1:2*");
  CHECK(s.scheduler.n_waiting() == 1);
  CHECK(s.step() == "0:1* 1:1*");
  s.scheduler.remove(s.tasks[0]);
  CHECK(s.step() == "1:1* 2:2*");
  // A prompt whose last row finds no room with logits stops before it.
  limits.max_sequences = 2;
  Script t(limits);
  t.add(2);
  CHECK(t.step() == "0:2*");
  t.tasks[0].drafts = {1};
  t.add(5);
  CHECK(t.step() == "0:1+1* 1:4");
  CHECK(error_of([&] {
          EngineLimits bad = limits;
          bad.max_sequences = 3;
          Script{bad};
        }) != "");
}

TEST_CASE("scheduler: lower priority values first; nobody overtakes the first that waits") {
  Script s(limits_of(8, 8, 10));
  s.add(8, 5);
  CHECK(s.step() == "0:8*");
  s.add(4, 5);
  s.add(30, 1);  // 8 pages, and 2 in reserve: does not fit beside task 0
  s.add(4, 3);
  CHECK(s.step() == "0:1*");
  s.scheduler.remove(s.tasks[0]);
  CHECK(s.step() == "2:8");
  s.scheduler.remove(s.tasks[2]);
  CHECK(s.step() == "3:4* 1:4*");
}

TEST_CASE("scheduler: a prompt is admitted when those that run leave it the pages they will take themselves") {
  for (int64_t pages : {12, 11}) {
    Script s(limits_of(3, 12, pages, 8));
    s.add(30);  // 8 pages, of which it takes two in the first step
    s.add(8);   // 2 pages; and one more for each of the two
    CHECK(s.step() == (pages == 12 ? "0:8 1:4" : "0:8"));
  }
}

TEST_CASE("scheduler: where pages run out the last in order waits again, and is computed anew") {
  for (bool with_cache : {false, true}) {
    Script s(limits_of(8, 16, 6), with_cache);
    s.add(7, 1);
    s.add(7, 0);
    CHECK(s.step() == "1:7* 0:7*");                              // two pages each
    for (int i = 0; i < 5; ++i) CHECK(s.step() == "1:1* 0:1*");  // the third page at 8
    CHECK(s.step() == "1:1*");                                   // 12 tokens are computed, the 13th needs a fourth page
    CHECK(s.scheduler.n_preempted() == 1);
    CHECK(s.tasks[0].sequence.length() == 13);
    for (int i = 0; i < 3; ++i) CHECK(s.step() == "1:1*");
    s.scheduler.remove(s.tasks[1]);
    // With a cache all but the page that task 1 took in its place is known.
    CHECK(s.step() == (with_cache ? "0:5*" : "0:13*"));
    CHECK(s.step() == "0:1*");
    s.scheduler.remove(s.tasks[0]);
    CHECK(s.pools.pool.n_free(AttentionKind::global) == 6);
    CHECK(s.pools.pool.n_used(AttentionKind::chunked) == 0);
  }
}

TEST_CASE("scheduler: one that does not fit though it is alone is said to be stuck") {
  Script s(limits_of(2, 16, 2));
  s.add(8);
  CHECK(s.step() == "0:8*");
  CHECK(s.step() == "0:8");  // its pages might lie better; they do not
  CHECK(s.step() == "stuck");
  CHECK(s.last.stuck == &s.tasks[0]);
  s.scheduler.remove(s.tasks[0]);
  CHECK(s.step() == "");
}

TEST_CASE("scheduler: tiles are taken when their rows come up, and nobody with pictures is admitted without") {
  Script s(limits_of(4, 40, 100));  // room for 3 tiles
  s.add(3, 0, {2, 2});
  s.add(3, 0, {1});
  s.add(3, 0, {3});
  CHECK(s.step() == "0:7 1:5*");  // the second picture has no room until the first one's rows are used
  CHECK(s.last.passes.size() == 2);
  CHECK(s.last.passes[0].n_tiles == 2);
  CHECK(s.step() == "1:1* 0:4*");
  CHECK(s.last.passes.size() == 1);
  CHECK(s.step() == "0:1* 1:1* 2:9*");
  CHECK(s.encoder.n_free() == 3);
  // Who goes takes his tiles with him.
  s.add(1, 0, {3});
  s.scheduler.next();
  CHECK(s.encoder.n_free() == 0);
  s.scheduler.remove(s.tasks[3]);
  CHECK(s.encoder.n_free() == 3);
}

TEST_CASE("scheduler: drafts are tried as far as there are rows and pages, and never cost anybody his row") {
  Script s(limits_of(3, 6, 100));
  for (int i = 0; i < 3; ++i) s.add(1);
  CHECK(s.step() == "0:1* 1:1* 2:1*");
  s.tasks[0].drafts = {7, 7};
  s.tasks[1].drafts = {7, 7, 7};
  CHECK(s.step() == "0:1+2* 1:1+1* 2:1*");
  CHECK(s.tasks[0].sequence.length() == 3);  // the drafts were wrong
  s.tasks[0].drafts.clear();
  CHECK(s.step() == "0:1* 1:1+3* 2:1*");
  s.tasks[1].drafts.clear();
  Script t(limits_of(1, 6, 1));
  t.add(2);
  CHECK(t.step() == "0:2*");
  t.tasks[0].drafts = {7, 7};
  CHECK(t.step() == "0:1*");  // two drafts would need a second page
}

TEST_CASE("scheduler: prompts whose logits are wanted go alone, every other step") {
  Script s(limits_of(4, 6, 100));
  s.add(1);
  CHECK(s.step() == "0:1*");
  Task& scored = s.add(14, 0, {}, 0);
  scored.n_logits = 14;
  CHECK(s.step() == "0:1*");
  CHECK(s.step() == "1:6*");
  CHECK(s.last.logits);
  CHECK(s.step() == "0:1*");
  CHECK(!s.last.logits);
  CHECK(s.step() == "1:6*");
  s.scheduler.remove(s.tasks[0]);
  CHECK(s.step() == "1:2*");
}

TEST_CASE("scheduler: sequences hold the pages of the hybrid formula: all tokens globally, a chunk's locally") {
  for (int64_t n_tokens : {15, 16, 17, 47, 100}) {
    Script s(limits_of(3, 40, 200, 16));
    for (int i = 0; i < 3; ++i) s.add(n_tokens);
    while (s.step() != "0:1* 1:1* 2:1*") {
    }
    int64_t global = 0, chunked = 0;
    for (const Task& task : s.tasks) {
      const int64_t last = task.sequence.n_committed() - 1;
      CHECK(last >= n_tokens);
      global += last / 4 + 1;
      chunked += last % 16 / 4 + 1;
    }
    CHECK(s.pools.pool.n_used(AttentionKind::global) == global);
    CHECK(s.pools.pool.n_used(AttentionKind::chunked) == chunked);
  }
}

TEST_CASE("scheduler: page tables of a step stay within their limit") {
  EngineLimits limits = limits_of(4, 16, 100);
  limits.max_table_pages = 10;
  Script s(limits);
  s.add(12);  // 3 pages of each kind
  s.add(4);
  CHECK(s.step() == "0:12* 1:4*");
  CHECK(s.step() == "0:1*");  // 4 of each, and task 1 has 2 of each
}

TEST_CASE("scheduler: forks go on with the first one's pages, or wait where there is no place") {
  Script s(limits_of(2, 16, 100));
  Task& first = s.add(6);
  CHECK(s.step() == "0:6*");
  CHECK(first.sequence.truncate(6) == 6);  // as it is before the first token is known
  for (int i = 0; i < 2; ++i) {
    s.tasks.emplace_back(s.pools, first.request, std::vector<SequenceImage>{}, s.tasks.size());
    s.scheduler.add_fork(s.tasks.back(), first);
  }
  first.sequence.append(1);
  CHECK(s.scheduler.n_running() == 2);
  CHECK(s.scheduler.n_waiting() == 1);
  CHECK(s.step() == "0:1* 1:1*");
  CHECK(s.tasks[1].cached == 5);
  CHECK(s.pools.pool.n_used(AttentionKind::global) == 3);  // the first page is shared
}
