#include "tools/bench/session.h"

#include <chrono>
#include <fstream>
#include <set>

#include "model/kv_cache.h"

namespace l4::bench {

namespace {

using Clock = std::chrono::steady_clock;
constexpr AttentionKind kKinds[] = {AttentionKind::chunked, AttentionKind::global};

// Sizes of a session: pages with which its sequences never run out, a step for the largest prompt part and batch.
SessionOptions with_sizes(SessionOptions o, const ModelConfig& config) {
  const int64_t page = kv_page_tokens(config.text), chunk = config.text.attention_chunk;
  o.batch_tokens = std::min(o.batch_tokens, o.max_context);
  const auto longest = kv_pages_needed(o.max_context, o.batch_tokens, page, chunk);
  for (const AttentionKind kind : kKinds) {
    // All the tokens there are, one page begun for each sequence; chunked layers never hold more of one than `longest`.
    const int64_t all = o.total_context / page + 2 * o.most_live;
    const int64_t held = o.most_live * (longest[size_t(kind)] + 1);
    o.executor.kv_pages[int(kind)] = std::min(all, held) + longest[size_t(kind)];
  }
  o.executor.max_step_rows = std::max(o.batch_tokens, o.max_sequences);
  o.executor.max_out_rows = o.max_sequences;
  return o;
}

}  // namespace

double Run::seconds() const {
  double sum = 0;
  for (const StepRun& step : steps) sum += step.seconds;
  return sum;
}

int64_t Run::n_rows() const {
  int64_t sum = 0;
  for (const StepRun& step : steps) sum += step.work.n_rows;
  return sum;
}

Session::Session(const BenchModel& model, const SessionOptions& options)
    : model_(model),
      options_(with_sizes(options, model.config)),
      cost_(model.config, options.executor.topology, options.executor.dtype, options.executor.kv_type(),
            quantized_at_load(model.stored(), options.executor.quantize)),
      executor_(model.config, model.weights(), options_.executor),
      pools_(executor_.page_tokens(), model.config.text.attention_chunk,
             {options_.executor.kv_pages[0], options_.executor.kv_pages[1]}),
      random_(options.seed) {
  std::ofstream("/proc/self/clear_refs") << "5";  // the highest use of memory counts from here
}

int32_t Session::random_id() {
  return int32_t(random_() % uint64_t(model_.config.text.vocab));
}

Sequence Session::sequence(int64_t n_tokens) {
  Sequence s(pools_);
  extend(s, n_tokens);
  return s;
}

void Session::extend(Sequence& sequence, int64_t n_tokens) {
  for (int64_t i = 0; i < n_tokens; ++i) sequence.append(random_id());
}

StepRun Session::step(std::span<const StepPart> parts, int64_t n_sampled) {
  StepPlan plan = build_step(parts, 0);
  plan.page_copies.insert(plan.page_copies.end(), pending_copies_.begin(), pending_copies_.end());
  pending_copies_.clear();
  std::vector<SamplingRow> rows(static_cast<size_t>(n_sampled));
  for (SamplingRow& row : rows) row.params.temperature = 0;
  StepRun run;
  run.work = work_of(plan);
  const Clock::time_point begin = Clock::now();
  executor_.step(plan, rows);
  run.seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  run.device_seconds = executor_.step_seconds();
  return run;
}

Run Session::prefill(Sequence& sequence, int64_t end, int64_t n_rows) {
  const int64_t max_rows = n_rows > 0 ? std::min(n_rows, options_.batch_tokens) : options_.batch_tokens;
  Run run;
  while (sequence.n_committed() < end) {
    const int64_t begin = sequence.n_committed();
    const int64_t stop = prefill_step_end(begin, end, max_rows, pools_.chunk);
    L4_CHECK(sequence.reserve(stop - begin), "pages");
    const StepPart part{&sequence, stop == end ? OutRows::last : OutRows::none};
    run.steps.push_back(step({&part, 1}, stop == end ? 1 : 0));
    sequence.commit(stop - begin);
  }
  return run;
}

Run Session::decode(std::span<Sequence> sequences, int64_t n_steps) {
  std::vector<StepPart> parts;
  for (const Sequence& s : sequences) parts.push_back({&s, OutRows::last});
  Run run;
  for (int64_t i = 0; i < n_steps; ++i) {
    for (Sequence& s : sequences) {
      s.append(random_id());
      L4_CHECK(s.reserve(1), "pages");
    }
    run.steps.push_back(step(parts, int64_t(sequences.size())));
    for (Sequence& s : sequences) s.commit(1);
  }
  return run;
}

std::vector<Sequence> Session::filled(int64_t n, int64_t context, Run* prefill_run) {
  std::vector<Sequence> all;
  all.reserve(size_t(n));
  all.push_back(sequence(context));
  Run run = prefill(all[0], context);
  if (prefill_run) *prefill_run = std::move(run);
  for (int64_t i = 1; i < n; ++i) {
    Sequence copy(pools_, all[0].ids(), {});
    while (copy.n_committed() < context) {
      const int64_t rows = std::min(options_.batch_tokens, context - copy.n_committed());
      L4_CHECK(copy.reserve(rows), "pages");
      copy.commit(rows);
    }
    for (const AttentionKind kind : kKinds) {
      const Sequence::PageTable &from = all[0].table(kind), &to = copy.table(kind);
      L4_CHECK(from.begin == to.begin && from.pages.size() == to.pages.size());
      for (size_t p = 0; p < from.pages.size(); ++p) pending_copies_.push_back({kind, from.pages[p], to.pages[p]});
    }
    all.push_back(std::move(copy));
  }
  return all;
}

// ---- experts --------------------------------------------------------------------------------------------------------

void Session::watch_experts(bool on) {
  if (!on) {
    executor_.set_trace({});
    return;
  }
  executor_.set_trace(
      [this](const std::string&, const std::vector<float>& values, const Shape& shape) {
        const std::set<float> distinct(values.begin(), values.end());
        const std::lock_guard lock(watch_mutex_);
        Watched& w = watched_[shape[0]];
        w.sum += double(distinct.size());
        ++w.n;
      },
      ".experts");
}

double Session::experts(int64_t n_rows) const {
  const TextConfig& text = model_.config.text;
  const auto found = watched_.find(n_rows);
  if (found != watched_.end()) return found->second.sum / double(found->second.n);
  if (options_.executor.round_robin_experts)
    return double(std::min(text.n_experts, n_rows * text.n_experts_per_token));
  return cost_.expected_experts(n_rows);
}

RunCost Session::cost_of(std::span<const StepRun> steps, const Rates& rates) const {
  RunCost sum;
  for (const StepRun& s : steps) {
    const double hit = experts(s.work.n_rows);
    const StepCost cost = cost_.step(s.work, hit);
    sum.bytes += cost.bytes();
    sum.flops += cost.flops();
    sum.limit_seconds += cost.limit_seconds(rates);
    sum.experts += hit / double(steps.size());
  }
  return sum;
}

uint64_t Session::peak_bytes() const {
  if (executor_.device_name().starts_with("CPU")) {
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);)
      if (line.starts_with("VmHWM:"))
        return uint64_t(parse_int(trim(std::string_view(line).substr(6, line.size() - 9))).value_or(0)) * 1024;
    return 0;
  }
  const MemoryInfo memory = executor_.memory();  // nothing is allocated in a step, so now is the peak
  return memory.total_bytes - memory.free_bytes;
}

}  // namespace l4::bench
