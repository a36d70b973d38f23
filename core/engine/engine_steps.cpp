// One step: what the scheduler chose is computed, and what it gave is told.
#include <algorithm>

#include "engine/engine_loop_impl.h"
#include "engine/prompt_logprobs.h"

namespace l4 {

void EngineLoop::Impl::run_step() {
  const ScheduledStep step = scheduler.next();
  if (step.stuck) {
    Job& job = static_cast<Job&>(*step.stuck);
    return finish(job, failed(ErrorKind::memory,
                              cat("the KV cache is full: ", limits.kv_pages[size_t(AttentionKind::global)],
                                  " global and ", limits.kv_pages[size_t(AttentionKind::chunked)], " chunked pages of ",
                                  pools.page_tokens, " tokens do not hold a sequence of ", job.sequence.length())));
  }
  std::vector<StepPart> parts;
  for (const ScheduledPart& part : step.parts) {
    Job& job = static_cast<Job&>(*part.task);
    parts.push_back({&job.sequence, part.out});
    if (job.started) continue;
    job.started = EngineClock::now();
    job.usage.cached_tokens = job.cached.value_or(0);
    counts.prompt_tokens += job.n_prompt;
    if (options.prefix_cache && job.n_logits == 0) {
      counts.prefix_query_tokens += job.n_prompt;
      counts.prefix_hit_tokens += job.usage.cached_tokens;
    }
  }
  ErrorKind kind = ErrorKind::internal;
  std::string why;
  try {
    const StepPlan plan = build_step(parts, limits.tokens_per_tile);
    ++counts.n_steps;
    counts.step_rows += plan.n_rows();
    return compute(step, plan);
  } catch (const Error& e) {
    kind = e.kind();
    why = e.message();
  } catch (const std::exception& e) {
    why = cat("unexpected failure: ", e.what());
  }
  watchdog.end();
  fail_step(step, kind, why);
}

void EngineLoop::Impl::compute(const ScheduledStep& step, const StepPlan& plan) {
  const auto begin = EngineClock::now();
  if (last_step_end) counts.host_seconds += 1e-3 * ms_between(*last_step_end, begin);
  watchdog.begin();
  for (const EncoderPass& pass : step.passes) runner->encode_tiles(pass.pixels, pass.n_tiles, pass.row);
  runner->begin_step(plan);

  flush();
  sampling.clear();
  for (const ScheduledPart& part : step.parts) {
    Job& job = static_cast<Job&>(*part.task);
    const int64_t n_out = part.out == OutRows::all ? part.n_rows : part.out == OutRows::last ? 1 : 0;
    if (step.logits || n_out == 0) continue;
    try {
      sampling.add(*job.request, job.sampling, job.sequence, n_out, job.constraint.get());
    } catch (const Error& e) {  // of the constraint; the rows are there
      job.failure = e;
    }
  }
  std::vector<float> logits;
  std::vector<ChosenRow> chosen;
  if (step.logits)
    logits = runner->end_step_with_logits();
  else
    chosen = runner->end_step(sampling.rows());
  watchdog.end();
  last_step_end = EngineClock::now();
  counts.step_seconds += 1e-3 * ms_between(begin, *last_step_end);
  if (step.logits) {
    L4_CHECK(int64_t(logits.size()) == plan.n_out() * limits.vocab);
    take_logits(step.parts.front(), logits);
  } else {
    L4_CHECK(int64_t(chosen.size()) == plan.n_out());
    take_results(step, std::move(chosen));
  }
}

void EngineLoop::Impl::fail_step(const ScheduledStep& step, ErrorKind kind, const std::string& why) {
  if (kind == ErrorKind::device) return fail_all(why);
  std::vector<Job*> lost;
  for (auto& [arrival, job] : jobs) {
    const auto is_it = [&, task = job.get()](const ScheduledPart& part) { return part.task == task; };
    // Tiles that were not encoded may be anybody's.
    if (!step.passes.empty() || std::any_of(step.parts.begin(), step.parts.end(), is_it)) lost.push_back(job.get());
  }
  for (Job* job : lost) {
    scheduler.spoiled(*job);
    finish(*job, failed(kind, why));
  }
}

// ---- what a step gave -----------------------------------------------------------------------------------------------

void EngineLoop::Impl::take_results(const ScheduledStep& step, std::vector<ChosenRow> chosen) {
  std::span<ChosenRow> left(chosen);
  for (const ScheduledPart& part : step.parts) {
    if (part.out == OutRows::none) {
      scheduler.commit(part, part.n_rows);
      Job& job = static_cast<Job&>(*part.task);
      took_prompt(job, {job.sequence.n_committed(), job.n_prompt, {}});
    } else {
      const size_t n = part.out == OutRows::all ? size_t(part.n_rows) : 1;
      take_choices(part, left.first(n));
      left = left.subspan(n);
    }
  }
}

void EngineLoop::Impl::take_logits(const ScheduledPart& part, std::span<const float> rows) {
  Job& job = static_cast<Job&>(*part.task);
  const int64_t begin = job.sequence.n_committed();
  PromptProgress progress{begin + part.n_rows, job.n_prompt, {}};
  if (job.sink) job.sink(begin, rows);
  if (job.request->prompt_logprobs >= 0)
    progress.logprobs = prompt_logprobs(rows, limits.vocab, job.sequence.ids(), begin, job.request->prompt_logprobs);
  scheduler.commit(part, part.n_rows);
  job.n_logits_done = begin + part.n_rows;
  took_prompt(job, std::move(progress));
}

// Who is computed anew reports nothing twice.
void EngineLoop::Impl::took_prompt(Job& job, PromptProgress progress) {
  const int64_t n_done = progress.n_done;
  if (n_done > job.n_reported && n_done <= job.n_prompt) {
    job.n_reported = n_done;
    send(job, std::move(progress));
  }
  if (!job.writes() && job.sequence.n_committed() == job.n_prompt) finish(job, ended(FinishReason::length));
}

// Row i chose the token behind draft i - 1: it counts where all drafts before it are what the rows before chose.
void EngineLoop::Impl::take_choices(const ScheduledPart& part, std::span<ChosenRow> rows) {
  Job& job = static_cast<Job&>(*part.task);
  const auto drafts = job.sequence.ids().end() - part.n_drafts;
  int64_t n_right = 0;
  while (n_right < part.n_drafts && !rows[size_t(n_right)].failure &&
         rows[size_t(n_right)].choice.id == drafts[n_right])
    ++n_right;
  counts.draft_tokens += part.n_drafts;
  counts.accepted_draft_tokens += n_right;
  if (const auto& failure = job.failure ? job.failure : rows[size_t(n_right)].failure) {
    return finish(job, failed(failure->kind(), failure->message()));
  }
  scheduler.commit(part, part.n_rows - part.n_drafts + n_right);
  if (!job.siblings.empty()) start_siblings(job);

  for (int64_t i = 0; i < n_right; ++i)
    if (!take_token(job, std::move(rows[size_t(i)].choice))) return;
  const int32_t id = rows[size_t(n_right)].choice.id;
  L4_CHECK(id >= 0 && id < limits.vocab, "token ", id, " of ", limits.vocab);
  job.sequence.append(id);
  if (!take_token(job, std::move(rows[size_t(n_right)].choice))) return;
  if (job.ngrams) {
    job.ngrams->learn(part.n_drafts, n_right);
    propose_drafts(job);
  }
}

// False: it was the last one.
bool EngineLoop::Impl::take_token(Job& job, TokenChoice choice) {
  const int32_t id = choice.id;
  if (job.usage.completion_tokens++ == 0) job.first_token = EngineClock::now();
  ++counts.generated_tokens;
  send(job, std::move(choice));
  std::optional<Finished> end;
  const bool is_end = ends_answer(job, id);
  if (!is_end && job.constraint && !job.constraint->accept(id))
    end = failed(ErrorKind::internal, cat("token ", id, " was chosen, which the grammar does not allow here"));
  else if (is_end || (job.constraint && job.constraint->ended()))
    end = ended(FinishReason::stop);
  else if (job.usage.completion_tokens == job.request->max_tokens ||
           job.n_prompt + job.usage.completion_tokens >= limits.max_context)
    end = ended(FinishReason::length);
  if (end) finish(job, std::move(*end));
  return !end;
}

void EngineLoop::Impl::start_siblings(Job& job) {
  for (auto& sibling : job.siblings) {
    scheduler.add_fork(*sibling, job);
    const uint64_t arrival = sibling->arrival;
    jobs.emplace(arrival, std::move(sibling));
  }
  job.siblings.clear();
}

void EngineLoop::Impl::propose_drafts(Job& job) {
  const int64_t tokens_left = limits.max_context - job.sequence.length();
  const int64_t wanted =
      job.request->max_tokens < 0 ? tokens_left : job.request->max_tokens - job.usage.completion_tokens;
  job.drafts = job.ngrams->propose(job.sequence.ids(), std::min(tokens_left, wanted) - 1);
}

bool EngineLoop::Impl::ends_answer(const Job& job, int32_t id) const {
  const auto& stop_ids = job.request->stop_ids;
  if (limits.is_eos(id) && !job.request->ignore_eos) return true;
  return std::find(stop_ids.begin(), stop_ids.end(), id) != stop_ids.end();
}

}  // namespace l4
