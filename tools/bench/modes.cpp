#include "tools/bench/modes.h"

#include <algorithm>
#include <chrono>

#include "tools/common/statistics.h"

namespace l4::bench {

using tools::median;
using tools::percentile;

namespace {

constexpr int64_t kWatchedSteps = 2, kWarmSteps = 3;
constexpr size_t kMostTests = 1000;

int64_t largest(const std::vector<int64_t>& values, int64_t least = 0) {
  for (const int64_t v : values) least = std::max(least, v);
  return least;
}

void check_number_of_tests(size_t n) {
  if (n == 0) fail(ErrorKind::usage, "nothing to measure: every length is 0");
  if (n > kMostTests) fail(ErrorKind::usage, n, " combinations to measure, at most ", kMostTests, " are allowed");
}

std::vector<BenchModel> open_models(const CommonOptions& o) {
  std::vector<BenchModel> models;
  for (const std::string& name : o.models) models.emplace_back(name, o.synthetic);
  return models;
}

// Steps that nobody times: the first few look at the experts, the others run as the timed ones will.
void warm_decode(Session& session, std::span<Sequence> sequences) {
  session.watch_experts(true);
  session.decode(sequences, kWatchedSteps);
  session.watch_experts(false);
  session.decode(sequences, kWarmSteps);
}

void warm_prefill(Session& session, Sequence& sequence, int64_t rows) {
  session.watch_experts(true);
  session.prefill(sequence, std::min(sequence.length(), sequence.n_committed() + kWatchedSteps * rows), rows);
  session.watch_experts(false);
}

std::string at_depth(std::string test, int64_t depth) {
  return depth > 0 ? cat(test, " @ d", depth) : test;
}

std::vector<Cell> operator+(std::vector<Cell> a, const std::vector<Cell>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

Cell ms_cell(const char* header, double seconds) {
  return number_cell(header, fixed(seconds * 1e3, 3), 9);
}

}  // namespace

// ---- the table ------------------------------------------------------------------------------------------------------

namespace {

struct Test {
  int64_t n_prompt, n_gen, depth, batch;
  int64_t context() const { return n_prompt + n_gen + depth; }
  std::string name() const {
    if (n_gen == 0) return at_depth(cat("pp", n_prompt), depth);
    if (n_prompt == 0) return at_depth(cat("tg", n_gen), depth);
    return at_depth(cat("pp", n_prompt, "+tg", n_gen), depth);
  }
};

std::vector<Test> tests_of(const TableOptions& o, int64_t default_batch) {
  std::vector<Test> tests;
  const std::vector<int64_t> batches = o.batches.empty() ? std::vector{default_batch} : o.batches;
  for (const int64_t depth : o.depths)
    for (const int64_t batch : batches) {
      for (const int64_t n : o.prompts)
        if (n > 0) tests.push_back({n, 0, depth, batch});
      for (const int64_t n : o.answers)
        if (n > 0 && batch == batches[0]) tests.push_back({0, n, depth, batch});
      for (const auto& [prompt, answer] : o.pairs) tests.push_back({prompt, answer, depth, batch});
    }
  check_number_of_tests(tests.size());
  return tests;
}

Run run_test(Session& session, const Test& test, Sequence& s) {
  session.extend(s, test.n_prompt);
  Run run = session.prefill(s, s.length(), test.batch);
  Run answer = session.decode({&s, 1}, test.n_gen);
  run.steps.insert(run.steps.end(), answer.steps.begin(), answer.steps.end());
  return run;
}

Result measure(Session& session, const Test& test, const CommonOptions& o) {
  Result r;
  r.test = test.name();
  r.n_prompt = test.n_prompt, r.n_gen = test.n_gen, r.n_depth = test.depth, r.n_batch = test.batch;
  r.n_tokens = test.n_prompt + test.n_gen;
  Sequence before = session.sequence(test.depth);
  session.prefill(before, test.depth);
  if (o.warmup) {
    Sequence s = before.fork();
    session.extend(s, test.n_prompt);
    if (test.n_prompt > 0) warm_prefill(session, s, std::min(test.batch, session.options().batch_tokens));
    Sequence t = before.fork();
    if (test.n_gen > 0) warm_decode(session, {&t, 1});
  }
  for (int64_t i = 0; i < o.repeats.value_or(5); ++i) {
    Sequence s = before.fork();
    add_sample(r, run_test(session, test, s));
  }
  return r;
}

}  // namespace

void run_table(const TableOptions& o) {
  std::vector<BenchModel> models = open_models(o.common);
  Bench bench(o.common);
  const std::vector<Test> tests = tests_of(o, bench.default_batch_tokens());
  SessionOptions sizes;
  sizes.batch_tokens = 1;
  for (const Test& test : tests) {
    sizes.batch_tokens = std::max(sizes.batch_tokens, test.batch);
    sizes.max_context = std::max(sizes.max_context, std::max(test.context(), test.depth + kWatchedSteps + kWarmSteps));
  }
  sizes.most_live = 3;  // what came before, and what follows it while it warms up
  sizes.total_context = sizes.most_live * sizes.max_context;
  for (const BenchModel& model : models) {
    const std::unique_ptr<Session> session = bench.load(model, sizes);
    for (const Test& test : tests) {
      Result r = measure(*session, test, o.common);
      r.cost = session->cost_of(r.steps, bench.rates());
      std::vector<double> rates;
      for (const double s : r.seconds) rates.push_back(double(r.n_tokens) / s);
      bench.report({bench.model_cells(model, *session) +
                        std::vector<Cell>{{"test", r.test, false, 15},
                                          number_cell("t/s", mean_and_deviation(rates), 18),
                                          number_cell("median", fixed(double(r.n_tokens) / median(r.seconds), 2), 9)} +
                        bench.cost_cells(*session, r),
                    bench.fields(model, *session, r)});
    }
  }
  bench.finish();
}

// ---- decode ---------------------------------------------------------------------------------------------------------

void run_decode(const DecodeOptions& o) {
  check_number_of_tests(o.batches.size() * o.contexts.size());
  std::vector<BenchModel> models = open_models(o.common);
  Bench bench(o.common);
  SessionOptions sizes;
  sizes.batch_tokens = o.fill_rows > 0 ? o.fill_rows : bench.default_batch_tokens();
  sizes.max_sequences = sizes.most_live = largest(o.batches);
  sizes.max_context = largest(o.contexts) + kWatchedSteps + kWarmSteps + o.n_steps;
  sizes.total_context = sizes.most_live * sizes.max_context;
  for (const BenchModel& model : models) {
    const std::unique_ptr<Session> session = bench.load(model, sizes);
    for (const int64_t context : o.contexts)
      for (const int64_t batch : o.batches) {
        std::vector<Sequence> sequences = session->filled(batch, context);
        if (o.common.warmup) warm_decode(*session, sequences);
        Result r;
        r.test = cat("decode ", batch, " @ d", context);
        r.n_gen = o.n_steps, r.n_depth = context, r.n_sequences = r.n_tokens = batch;
        r.n_batch = session->options().batch_tokens;
        add_samples(r, session->decode(sequences, o.n_steps));
        r.cost = session->cost_of(r.steps, bench.rates());
        const double ms = median(r.seconds);
        bench.report({std::vector<Cell>{{"model", model.name, false, 24},
                                        bench.format_cell(model),
                                        number_cell("batch", cat(batch)),
                                        number_cell("context", cat(context)),
                                        ms_cell("step ms", ms),
                                        ms_cell("p95", percentile(r.seconds, 0.95)),
                                        number_cell("t/s", fixed(double(batch) / ms, 2), 9),
                                        number_cell("t/s each", fixed(1 / ms, 2), 9)} +
                          bench.cost_cells(*session, r),
                      bench.fields(model, *session, r)});
      }
  }
  bench.finish();
}

// ---- prefill --------------------------------------------------------------------------------------------------------

void run_prefill(const PrefillOptions& o) {
  std::vector<BenchModel> models = open_models(o.common);
  Bench bench(o.common);
  const std::vector<int64_t> rows = o.step_rows.empty() ? std::vector{bench.default_batch_tokens()} : o.step_rows;
  check_number_of_tests(o.prompts.size() * rows.size());
  SessionOptions sizes;
  sizes.batch_tokens = largest(rows);
  sizes.max_context = largest(o.prompts);
  sizes.total_context = sizes.max_context;
  for (const BenchModel& model : models) {
    const std::unique_ptr<Session> session = bench.load(model, sizes);
    for (const int64_t prompt : o.prompts)
      for (const int64_t batch : rows) {
        if (o.common.warmup) {
          Sequence s = session->sequence(prompt);
          warm_prefill(*session, s, std::min(batch, session->options().batch_tokens));
        }
        Result r;
        r.test = cat("prefill ", prompt);
        r.n_prompt = r.n_tokens = prompt, r.n_batch = batch;
        for (int64_t i = 0; i < o.common.repeats.value_or(3); ++i) {
          Sequence s = session->sequence(prompt);
          add_sample(r, session->prefill(s, prompt, batch));
        }
        r.cost = session->cost_of(r.steps, bench.rates());
        bench.report({std::vector<Cell>{{"model", model.name, false, 24},
                                        bench.format_cell(model),
                                        number_cell("prompt", cat(prompt)),
                                        number_cell("rows a step", cat(std::min(batch, prompt))),
                                        ms_cell("first token ms", median(r.seconds)),
                                        number_cell("t/s", fixed(double(prompt) / median(r.seconds), 2), 9)} +
                          bench.cost_cells(*session, r),
                      bench.fields(model, *session, r)});
      }
  }
  bench.finish();
}

// ---- latency --------------------------------------------------------------------------------------------------------

void run_latency(const LatencyOptions& o) {
  check_number_of_tests(o.batches.size() * o.prompts.size());
  std::vector<BenchModel> models = open_models(o.common);
  Bench bench(o.common);
  SessionOptions sizes;
  sizes.batch_tokens = bench.default_batch_tokens();
  sizes.max_sequences = sizes.most_live = largest(o.batches);
  sizes.max_context = largest(o.prompts) + o.n_gen;
  sizes.total_context = sizes.most_live * sizes.max_context;
  for (const BenchModel& model : models) {
    const std::unique_ptr<Session> session = bench.load(model, sizes);
    for (const int64_t prompt : o.prompts)
      for (const int64_t batch : o.batches) {
        if (o.common.warmup) {
          Sequence s = session->sequence(prompt);
          warm_prefill(*session, s, session->options().batch_tokens);
        }
        std::vector<double> first, each;
        Result r;
        r.test = cat("latency ", batch, " x ", prompt, "+", o.n_gen);
        r.n_prompt = prompt, r.n_gen = o.n_gen, r.n_sequences = batch, r.n_batch = session->options().batch_tokens;
        r.n_tokens = batch * (prompt + o.n_gen);
        for (int64_t i = 0; i < o.common.repeats.value_or(3); ++i) {
          std::vector<Sequence> sequences;
          Run all;
          for (int64_t b = 0; b < batch; ++b) {  // first come, first served
            sequences.push_back(session->sequence(prompt));
            Run run = session->prefill(sequences.back(), prompt);
            all.steps.insert(all.steps.end(), run.steps.begin(), run.steps.end());
            first.push_back(all.seconds());
          }
          // The first token came with the prompt.
          Run answers = session->decode(sequences, o.n_gen - 1);
          for (const StepRun& step : answers.steps) each.push_back(step.seconds);
          all.steps.insert(all.steps.end(), answers.steps.begin(), answers.steps.end());
          add_sample(r, std::move(all));
        }
        r.cost = session->cost_of(r.steps, bench.rates());
        const auto integer = [](double seconds) { return Json(int64_t(seconds * 1e9 + 0.5)); };
        for (const auto& [name, samples] : {std::pair{"ttft", &first}, std::pair{"tpot", &each}})
          for (const auto& [suffix, share] : {std::pair{"median", 0.5}, std::pair{"p95", 0.95}, std::pair{"p99", 0.99}})
            r.more.emplace_back(cat(name, "_", suffix, "_ns"), integer(percentile(*samples, share)));
        bench.report({std::vector<Cell>{{"model", model.name, false, 24},
                                        bench.format_cell(model),
                                        number_cell("batch", cat(batch)),
                                        number_cell("prompt", cat(prompt)),
                                        number_cell("answer", cat(o.n_gen)),
                                        ms_cell("first token ms", median(first)),
                                        ms_cell("last one's", percentile(first, 1)),
                                        ms_cell("token ms", median(each)),
                                        ms_cell("p95", percentile(each, 0.95)),
                                        ms_cell("p99", percentile(each, 0.99)),
                                        ms_cell("all ms", median(r.seconds))} +
                          bench.cost_cells(*session, r),
                      bench.fields(model, *session, r)});
      }
  }
  bench.finish();
}

// ---- load -----------------------------------------------------------------------------------------------------------

void run_load(const LoadTimeOptions& o) {
  if (o.common.models.size() > 1)
    fail(ErrorKind::usage, "l4-bench load times one model: the second would find all warm");
  using Clock = std::chrono::steady_clock;
  const auto seconds_since = [](Clock::time_point t) {
    return std::chrono::duration<double>(Clock::now() - t).count();
  };
  const Clock::time_point begin = Clock::now();
  Bench bench(o.common, false);
  const BenchModel model(o.common.models[0], o.common.synthetic);
  SessionOptions sizes;
  sizes.batch_tokens = sizes.max_context = sizes.total_context = o.n_prompt;
  const std::unique_ptr<Session> session = bench.load(model, sizes);
  const double load = seconds_since(begin);
  Sequence s = session->sequence(o.n_prompt);
  Result r;
  r.test = cat("load, prompt of ", o.n_prompt);
  r.n_prompt = r.n_tokens = o.n_prompt, r.n_batch = o.n_prompt;
  add_sample(r, session->prefill(s, o.n_prompt));
  const double all = seconds_since(begin), bytes = session->cost().weight_bytes();
  const auto integer = [](double seconds) { return Json(int64_t(seconds * 1e9 + 0.5)); };
  r.more = {{"load_ns", integer(load)}, {"first_token_ns", integer(all)}};
  bench.report({std::vector<Cell>{{"model", model.name, false, 24},
                                  bench.format_cell(model),
                                  number_cell("size", human_bytes(uint64_t(bytes)), 10),
                                  number_cell("load s", fixed(load, 2)),
                                  number_cell("GB/s", fixed(bytes / load / 1e9, 2)),
                                  number_cell("prompt ms", fixed(r.seconds[0] * 1e3, 1)),
                                  number_cell("first token s", fixed(all, 2))},
                bench.fields(model, *session, r)});
}

}  // namespace l4::bench
