// Which rows the next step computes. Host code without threads, clocks or devices: the same calls give the same steps.
//
// Tasks wait, run and go. Order is priority, then arrival. A step takes, while rows, rows with logits and pages last:
//   1. one row of each sequence that writes its answer, and drafts behind it: so no prompt holds up an answer;
//   2. of running prompts, then of waiting ones, as much as fits, each rather to a chunk edge than behind it.
// A waiting task is admitted when the pages of all its known tokens, and those that running prompts will still take,
// are free, one more for each running sequence, and there are slots for the tiles of its next picture. Nobody overtakes
// the first of the waiting ones. Where pages run out all the same, the last one in order gives up its own and waits
// again: it is computed anew, from where the prefix cache still knows it.
// Prompts whose logits are wanted have steps of their own, every other one where there is something else to do.
#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <vector>

#include "engine/encoder_cache.h"
#include "engine/limits.h"
#include "engine/prefix_cache.h"
#include "engine/request.h"
#include "engine/sequence.h"
#include "engine/step_builder.h"

namespace l4 {

// One answer on its way, as the scheduler knows it.
struct Task {
  Task(KvPools& pools, std::shared_ptr<const Request> request, std::vector<SequenceImage> images, uint64_t arrival);
  virtual ~Task() = default;

  const std::shared_ptr<const Request> request;
  const uint64_t arrival;  // among equals the lowest is served first
  const int64_t n_prompt;
  int64_t n_logits = 0;           // prompt tokens whose rows go through StepRunner::logits()
  Sequence sequence;              // prompt and answer
  std::vector<int32_t> drafts;    // what the answer may go on with: tried as far as there is room
  int64_t n_logits_done = 0;      // whoever is computed anew does not get them again
  std::optional<int64_t> cached;  // tokens found in the prefix cache when it was first admitted
  PrefixCache::Cursor known;
  int64_t stuck_at = -1;  // length() when it last found no page, though it was alone

  bool writes() const { return request->max_tokens != 0; }  // an answer follows the prompt
  int64_t n_pending() const { return sequence.length() - sequence.n_committed(); }
};

struct ScheduledPart {
  Task* task;
  int64_t n_rows;
  OutRows out;
  int64_t n_drafts = 0;  // the last of the rows
};

struct ScheduledStep {
  std::vector<ScheduledPart> parts;  // rows are reserved, drafts appended
  std::vector<EncoderPass> passes;   // to run before
  bool logits = false;               // through StepRunner::logits()
  Task* stuck = nullptr;             // there is no room for even one row of it, though it is alone
};

class Scheduler {
 public:
  // Without a cache nothing is reused.
  Scheduler(const EngineLimits& limits, KvPools& pools, EncoderCache& encoder, PrefixCache* cache);

  void add(Task& task);
  // As add(), for a task that begins like `first`, whose prompt is computed: it goes on with first's pages.
  void add_fork(Task& task, const Task& first);
  // Wherever it is. Its pages are free, but for what the prefix cache keeps of them.
  void remove(Task& task);

  // Without parts: there is nothing to do, or `stuck`.
  ScheduledStep next();
  // The first n_rows rows of the part are right.
  void commit(const ScheduledPart& part, int64_t n_rows);
  // Something is wrong with what was computed: the cache must not hand it on.
  void spoiled(Task& task);

  int64_t n_running() const { return int64_t(running_.size()); }
  int64_t n_waiting() const { return int64_t(waiting_.size()); }
  int64_t n_preempted() const { return n_preempted_; }

 private:
  struct Order {
    bool operator()(const Task* a, const Task* b) const;
  };
  struct Room {
    int64_t rows, out_rows, table_pages;
  };

  bool wants_logits(const Task& task) const;
  void add_answers(ScheduledStep& step, Room& room);
  void add_prompts(ScheduledStep& step, Room& room);
  bool add_prompt(Task& task, ScheduledStep& step, Room& room);
  void add_logits(ScheduledStep& step);
  void admit(ScheduledStep& step, Room& room);
  bool has_room_for(const Task& task) const;
  int64_t pages_to_come(const Task& task, AttentionKind kind) const;
  bool fits_tables(const Task& task, int64_t n_rows, Room& room) const;
  int64_t take_tiles(Task& task, int64_t end, std::vector<EncoderPass>& passes);
  bool reserve_answer(Task& task, int64_t& n_drafts);
  void preempt(Task& task);

  const EngineLimits limits_;
  KvPools& pools_;
  EncoderCache& encoder_;
  PrefixCache* cache_;
  std::set<Task*, Order> running_, waiting_;
  // The first that waits had no room when this much was taken: looking anew costs a walk through its prompt.
  struct Taken {
    const Task* first = nullptr;
    int64_t n_running = 0, n_tiles = 0;
    PageCounts pages{};
  };
  Taken taken(const Task& first) const;
  bool has_changed(const Task& first) const;
  Taken refused_;

  bool last_had_logits_ = false;
  int64_t n_preempted_ = 0;
};

}  // namespace l4
