#include "engine/scheduler.h"

#include <algorithm>
#include <tuple>

namespace l4 {

namespace {
constexpr AttentionKind kKinds[] = {AttentionKind::chunked, AttentionKind::global};
}

Task::Task(KvPools& pools, std::shared_ptr<const Request> the_request, std::vector<SequenceImage> images,
           uint64_t the_arrival)
    : request(std::move(the_request)),
      arrival(the_arrival),
      n_prompt(int64_t(request->ids.size())),
      sequence(pools, request->ids, std::move(images)) {}

bool Scheduler::Order::operator()(const Task* a, const Task* b) const {
  return std::tie(a->request->priority, a->arrival) < std::tie(b->request->priority, b->arrival);
}

Scheduler::Scheduler(const EngineLimits& limits, KvPools& pools, EncoderCache& encoder, PrefixCache* cache)
    : limits_(limits), pools_(pools), encoder_(encoder), cache_(cache) {
  L4_CHECK(limits.max_sequences > 0 && limits.max_sequences <= limits.max_step_rows &&
               limits.max_sequences <= limits.max_out_rows,
           limits.max_sequences, " sequences, ", limits.max_step_rows, " rows, ", limits.max_out_rows, " with logits");
}

// ---- tasks come and go ----------------------------------------------------------------------------------------------

void Scheduler::add(Task& task) {
  waiting_.insert(&task);
}

void Scheduler::add_fork(Task& task, const Task& first) {
  if (n_running() == limits_.max_sequences) return add(task);
  task.sequence = first.sequence.fork();
  task.cached = task.sequence.rewind(task.n_prompt - 1);  // the last row's logits choose this answer's first token too
  task.known = first.known;
  running_.insert(&task);
}

void Scheduler::remove(Task& task) {
  if (cache_ && running_.count(&task)) cache_->insert(task.sequence, task.request->cache_salt, task.known, true);
  running_.erase(&task);
  waiting_.erase(&task);
  if (refused_.first == &task) refused_ = {};
  task.sequence.drop_kv();
}

void Scheduler::preempt(Task& task) {
  remove(task);
  waiting_.insert(&task);
  ++n_preempted_;
}

void Scheduler::spoiled(Task& task) {
  if (cache_) cache_->forget(task.sequence);
  task.sequence.drop_kv();
}

void Scheduler::commit(const ScheduledPart& part, int64_t n_rows) {
  Task& task = *part.task;
  Sequence& sequence = task.sequence;
  const bool is_prompt = sequence.n_committed() < task.n_prompt;
  sequence.commit(n_rows, [&] {
    if (cache_) cache_->insert(sequence, task.request->cache_salt, task.known, false);
  });
  if (n_rows < part.n_rows) sequence.truncate(sequence.length() - (part.n_rows - n_rows));
  for (SequenceImage& image : sequence.images())
    for (size_t tile = 0; is_prompt && tile < image.slots.size(); ++tile)
      if (image.positions[(tile + 1) * size_t(limits_.tokens_per_tile) - 1] < sequence.n_committed())
        image.slots[tile].reset();
}

// ---- a step ---------------------------------------------------------------------------------------------------------

ScheduledStep Scheduler::next() {
  ScheduledStep step;  // passes stay, whoever took the tiles
  for (;;) {
    if (!last_had_logits_) add_logits(step);
    if (!step.logits) {
      Room room{limits_.max_step_rows, limits_.max_out_rows,
                limits_.max_table_pages > 0 ? limits_.max_table_pages : INT64_MAX};
      add_answers(step, room);
      add_prompts(step, room);
      admit(step, room);
      if (step.parts.empty()) add_logits(step);
    }
    last_had_logits_ = step.logits;
    if (!step.parts.empty() || running_.empty()) return step;
    // Each holds what another one needs; or the global pages of one are strewn over all blocks, and it begins anew.
    if (n_running() == 1) {
      Task& task = **running_.begin();
      if (task.sequence.n_committed() == 0 || task.stuck_at == task.sequence.length()) {
        step.stuck = &task;
        return step;
      }
      task.stuck_at = task.sequence.length();
      if (cache_) cache_->clear();
    }
    preempt(**running_.rbegin());
  }
}

bool Scheduler::wants_logits(const Task& task) const {
  const int64_t begin = task.sequence.n_committed();
  return begin < task.n_logits && begin >= task.n_logits_done;
}

bool Scheduler::fits_tables(const Task& task, int64_t n_rows, Room& room) const {
  // Of both kinds; where rows touch two chunks each has a span of its own, but no page is in both.
  const int64_t end = task.sequence.n_committed() + n_rows;
  const int64_t n = pools_.pages_for(end) + pools_.pages_for(end - task.sequence.table(AttentionKind::chunked).begin);
  if (n > room.table_pages) return false;
  room.table_pages -= n;
  return true;
}

void Scheduler::add_answers(ScheduledStep& step, Room& room) {
  std::vector<Task*> writing;
  for (Task* task : running_)
    if (task->writes() && task->n_pending() == 1 && !wants_logits(*task)) writing.push_back(task);
  int64_t spare = std::min(room.rows, room.out_rows) - int64_t(writing.size());
  for (Task* task : writing) {
    if (!running_.count(task)) continue;  // preempted for one before it
    int64_t n_drafts = std::min(int64_t(task->drafts.size()), spare);
    if (take_tiles(*task, task->sequence.length(), step.passes) < task->sequence.length()) continue;
    if (!reserve_answer(*task, n_drafts)) continue;
    if (!fits_tables(*task, 1 + n_drafts, room)) {
      task->sequence.abandon();
      task->sequence.truncate(task->sequence.length() - n_drafts);
      continue;
    }
    spare -= n_drafts;
    room.rows -= 1 + n_drafts;
    room.out_rows -= 1 + n_drafts;
    step.parts.push_back({task, 1 + n_drafts, OutRows::all, n_drafts});
  }
}

// Drafts give way first, then the last ones in order. False: the task itself was the last.
bool Scheduler::reserve_answer(Task& task, int64_t& n_drafts) {
  Sequence& sequence = task.sequence;
  for (int64_t i = 0; i < n_drafts; ++i) sequence.append(task.drafts[size_t(i)]);
  while (!sequence.reserve(1 + n_drafts)) {
    sequence.truncate(sequence.length() - n_drafts);
    if (n_drafts > 0) {
      n_drafts = 0;
      continue;
    }
    if (n_running() == 1) return false;
    Task& last = **running_.rbegin();
    preempt(last);
    if (&last == &task) return false;
  }
  return true;
}

void Scheduler::add_prompts(ScheduledStep& step, Room& room) {
  for (Task* task : running_)
    if (task->sequence.n_reserved() == 0 && !wants_logits(*task) && (task->n_pending() > 1 || !task->writes()))
      add_prompt(*task, step, room);
}

// False: none of it.
bool Scheduler::add_prompt(Task& task, ScheduledStep& step, Room& room) {
  Sequence& sequence = task.sequence;
  const int64_t begin = sequence.n_committed();
  const int64_t end = begin < task.n_logits_done ? task.n_logits_done : sequence.length();
  if (room.rows == 0 || begin == end) return false;
  int64_t stop = prefill_step_end(begin, end, room.rows, limits_.attention_chunk);
  const bool chooses = task.writes();
  if (chooses && stop == sequence.length() && room.out_rows == 0) --stop;
  if (stop > begin) stop = take_tiles(task, stop, step.passes);
  stop = begin + sequence.rows_that_fit(stop - begin);
  if (stop <= begin || !fits_tables(task, stop - begin, room)) return false;
  L4_CHECK(sequence.reserve(stop - begin));
  const bool is_last = chooses && stop == sequence.length();
  room.rows -= stop - begin;
  room.out_rows -= is_last;
  step.parts.push_back({&task, stop - begin, is_last ? OutRows::last : OutRows::none});
  return true;
}

void Scheduler::add_logits(ScheduledStep& step) {
  const auto found = std::find_if(running_.begin(), running_.end(), [&](Task* task) { return wants_logits(*task); });
  if (found == running_.end()) return;
  Task& task = **found;
  const int64_t begin = task.sequence.n_committed();
  const int64_t max_rows = std::min(limits_.max_step_rows, limits_.max_out_rows);
  int64_t stop = prefill_step_end(begin, task.n_logits, max_rows, limits_.attention_chunk);
  stop = take_tiles(task, stop, step.passes);
  stop = begin + task.sequence.rows_that_fit(stop - begin);
  if (stop <= begin) return;
  L4_CHECK(task.sequence.reserve(stop - begin));
  step.logits = true;
  step.parts.push_back({&task, stop - begin, OutRows::all});
}

// ---- admission ------------------------------------------------------------------------------------------------------

void Scheduler::admit(ScheduledStep& step, Room& room) {
  const int64_t n_preempted = n_preempted_;
  while (!waiting_.empty() && n_running() < limits_.max_sequences && room.rows > 0 && n_preempted == n_preempted_) {
    Task& task = **waiting_.begin();
    if (!running_.empty() && !has_changed(task)) return;
    int64_t cached = 0;
    if (cache_ && task.n_logits == 0)
      cached = cache_->adopt(task.sequence, task.request->cache_salt, task.sequence.length() - 1);
    if (!running_.empty() && !has_room_for(task)) {
      task.sequence.drop_kv();
      refused_ = taken(task);
      return;
    }
    if (!task.cached) task.cached = cached;
    waiting_.erase(&task);
    running_.insert(&task);
    if (wants_logits(task)) {
      if (step.parts.empty()) return;  // its own step is next
    } else if (!add_prompt(task, step, room)) {
      return;
    }
  }
}

Scheduler::Taken Scheduler::taken(const Task& first) const {
  return {&first,
          n_running(),
          encoder_.n_slots() - encoder_.n_free(),
          {pools_.pool.n_used(AttentionKind::chunked), pools_.pool.n_used(AttentionKind::global)}};
}

bool Scheduler::has_changed(const Task& first) const {
  const Taken now = taken(first);
  return now.first != refused_.first || now.n_running != refused_.n_running || now.n_tiles < refused_.n_tiles ||
         now.pages[0] < refused_.pages[0] || now.pages[1] < refused_.pages[1];
}

// Pages that the tokens known by now will take at once, besides those it holds.
int64_t Scheduler::pages_to_come(const Task& task, AttentionKind kind) const {
  const Sequence& sequence = task.sequence;
  const Sequence::PageTable& table = sequence.table(kind);
  int64_t n_tokens = sequence.length() - table.begin;
  if (kind == AttentionKind::chunked && pools_.chunk > 0)
    n_tokens = std::min(n_tokens, pools_.chunk + limits_.max_step_rows);
  return std::max<int64_t>(0, pools_.pages_for(n_tokens) - int64_t(table.pages.size()));
}

bool Scheduler::has_room_for(const Task& task) const {
  PageCounts needed;
  for (AttentionKind kind : kKinds) {
    needed[size_t(kind)] = pages_to_come(task, kind) + n_running() + 1;  // an answer's next page, or a copy
    for (const Task* other : running_) needed[size_t(kind)] += pages_to_come(*other, kind);
  }
  if (!pools_.pool.has_room(needed)) return false;
  const int64_t begin = task.sequence.n_committed();
  for (const SequenceImage& image : task.sequence.images()) {
    const auto next = std::lower_bound(image.positions.begin(), image.positions.end(), begin);
    if (next == image.positions.end()) continue;
    return encoder_.n_free() >= image.input.n_tiles - (next - image.positions.begin()) / limits_.tokens_per_tile;
  }
  return true;
}

// Slots for the pictures whose rows come up before `end`. Where the next one has no room until rows of earlier ones are
// used, the step must end before it: returns where.
int64_t Scheduler::take_tiles(Task& task, int64_t end, std::vector<EncoderPass>& passes) {
  const int64_t begin = task.sequence.n_committed();
  if (begin >= task.n_prompt) return end;
  for (SequenceImage& image : task.sequence.images()) {
    const auto next = std::lower_bound(image.positions.begin(), image.positions.end(), begin);
    if (next == image.positions.end()) continue;
    if (*next >= end) break;
    const int64_t tile = (next - image.positions.begin()) / limits_.tokens_per_tile;
    if (image.slots[size_t(tile)]) continue;
    if (!encoder_.take(image.input, tile, image.slots, passes)) return *next;
  }
  return end;
}

}  // namespace l4
