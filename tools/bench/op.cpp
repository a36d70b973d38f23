#include "tools/bench/op.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <set>

#include "model/kv_cache.h"
#include "model/text_model.h"
#include "tools/bench/ceilings.h"
#include "tools/bench/stages.h"
#include "tools/bench/statistics.h"

namespace l4::bench {

namespace {

constexpr int64_t kCheckedRows = 64, kCheckedContext = 300, kCheckedVocab = 4096;
// Of an activation in BF16 after a layer, or of logits: the distance of two orders of summation, as a share of its size.
constexpr double kTolerance = 0.02;
constexpr int kLayers = 4;  // one of them is global

// ---- a step of a model, without an engine ---------------------------------------------------------------------------

struct Case {
  int64_t n_rows = 1, context = 1;  // of each row; a prompt's rows begin at position 0
  bool prompt = false;
};

// Rows of one prompt, or one row of each of n sequences whose pages follow each other.
StepPlan plan_of(const Case& c, const TextConfig& text, uint64_t seed) {
  const int64_t page = kv_page_tokens(text), chunk = text.attention_chunk;
  std::mt19937_64 random(seed);
  StepPlan step;
  int32_t next_page[kNumAttentionKinds] = {0, 0};
  auto add = [&](AttentionKind kind, int64_t row, int64_t n, int64_t past) {
    KvPlan& kv = step.of(kind);
    kv.spans.push_back({int32_t(row), int32_t(n), int32_t(past), int32_t(kv.pages.size())});
    for (int64_t p = 0; p < past + n; p += page) kv.pages.push_back(next_page[int(kind)]++);
  };
  for (int64_t row = 0; row < c.n_rows; ++row) {
    step.ids.push_back(int32_t(random() % uint64_t(text.vocab)));
    step.positions.push_back(int32_t(c.prompt ? row : c.context - 1));
  }
  const int64_t n_sequences = c.prompt ? 1 : c.n_rows, n = c.prompt ? c.n_rows : 1;
  for (int64_t s = 0; s < n_sequences; ++s) {
    const int64_t first = c.prompt ? 0 : c.context - 1;
    add(AttentionKind::global, s * n, n, first);
    for (int64_t p = first; p < first + n;) {
      const int64_t start = chunk ? p / chunk * chunk : 0, end = chunk ? std::min(first + n, start + chunk) : first + n;
      add(AttentionKind::chunked, s * n + p - first, end - p, p - start);
      p = end;
    }
    step.out_rows.push_back(int32_t(s * n + n - 1));
  }
  return step;
}

// What one rank needs to run steps: its weights, pages full of random keys and values, an arena.
class Stack {
 public:
  // `cut`: of the whole model's config, with its shard's part of the vocabulary.
  Stack(Backend& backend, const ModelConfig& whole, const ModelConfig& cut, const ShardPlan& shard, uint64_t seed,
        bool round_robin, const std::vector<StepPlan>& steps)
      : backend_(backend),
        shard_(shard),
        comm_(make_single_comm()),
        weights_(SyntheticWeights(whole, seed).load(plan(cut), backend, DType::bf16, [](uint64_t) {})),
        text_(cut, weights_, DType::bf16, round_robin) {
    int64_t n_pages[kNumAttentionKinds] = {1, 1};
    for (const StepPlan& step : steps)
      for (int kind = 0; kind < kNumAttentionKinds; ++kind)
        n_pages[kind] = std::max(n_pages[kind], int64_t(step.kv[kind].pages.size()));
    kv_ = std::make_unique<KvCache>(backend, cut.text, shard, DType::bf16, n_pages);
    for (int64_t l = 0; l < cut.text.n_layers; ++l) {  // a layer's part of each page; the last one's end is the pool's
      const KvLayer layer = kv_->layer(l);
      for (int64_t p = 0; p < n_pages[int(layer.kind)]; ++p)
        backend.fill_random({static_cast<std::byte*>(layer.base) + p * layer.page_stride, DType::bf16,
                             {layer.layout.layer_bytes / 2}},
                            {seed + uint64_t(l), 0, 1}, p * layer.layout.layer_bytes);
    }
    size_t peak = 0;
    for (const StepPlan& step : steps) {
      Arena measuring;
      backend.begin_step(step);
      text_.forward(Rank{backend, *comm_, *comm_, shard_, measuring}, step, *kv_, {});
      peak = std::max(peak, measuring.peak());
    }
    work_ = Arena(backend.allocate(peak, "activations"));
  }

  View forward(Backend& through, const StepPlan& step, const Trace* trace = nullptr) {
    work_.reset();
    backend_.begin_step(step);
    return text_.forward(Rank{through, *comm_, *comm_, shard_, work_, trace}, step, *kv_, {});
  }

 private:
  WeightPlan plan(const ModelConfig& cut) const {
    return plan_weights(cut, shard_, DType::bf16, [](const std::string&) { return DType::bf16; });
  }

  Backend& backend_;
  const ShardPlan shard_;
  const std::unique_ptr<Comm> comm_;
  const Weights weights_;
  TextModel text_;
  std::unique_ptr<KvCache> kv_;
  Arena work_;
};

// One rank's shapes as a model of its own: nothing is summed with other ranks.
struct Shard {
  ModelConfig whole, cut;
  ShardPlan plan;
};
Shard shard_for(ModelConfig config, int64_t n_layers, const Topology& topology, int64_t vocab_limit) {
  keep_layers(config, std::min(n_layers, config.text.n_layers));
  Shard s{config, config, shard_of(config, topology, 0)};
  s.cut.text.vocab = std::min(s.plan.vocab.size(), vocab_limit);
  s.plan.vocab = {0, s.cut.text.vocab};
  return s;
}

// ---- right? ---------------------------------------------------------------------------------------------------------

using Traced = std::vector<std::pair<std::string, std::vector<float>>>;

Traced trace_of(Backend& backend, const Shard& shard, const StepPlan& step, uint64_t seed, bool round_robin) {
  Stack stack(backend, shard.whole, shard.cut, shard.plan, seed, round_robin, {step});
  Traced out;
  const Trace trace{[&](const std::string& name, const std::vector<float>& values, const Shape&) {
                      out.emplace_back(name, values);
                    },
                    ""};
  const View logits = stack.forward(backend, step, &trace);
  out.emplace_back("logits", std::vector<float>(size_t(logits.elements())));
  backend.download(out.back().second.data(), logits);
  return out;
}

// Runs a layer of the same shapes on this device and on the CPU backend, fewer rows where there are many. Error{internal}
// where they differ by more than rounding; else the largest distance.
double check(Backend& backend, const ModelConfig& config, const Topology& topology, const Case& c, uint64_t seed,
             int n_threads) {
  const Shard shard = shard_for(config, 2, topology, kCheckedVocab);
  const Case few{std::min(c.n_rows, kCheckedRows), std::min(c.context, kCheckedContext), c.prompt};
  const StepPlan step = plan_of(few, shard.cut.text, seed);
  const std::unique_ptr<Backend> reference = make_cpu_backend(n_threads);
  // Experts in turn: a near tie of the router's, decided otherwise by another order of summation, is no error.
  const Traced ours = trace_of(backend, shard, step, seed, true), theirs = trace_of(*reference, shard, step, seed, true);
  L4_CHECK(ours.size() == theirs.size());
  double worst = 0;
  for (size_t i = 0; i < ours.size(); ++i) {
    double distance = 0, size = 0;
    for (size_t j = 0; j < ours[i].second.size(); ++j) {
      const double a = ours[i].second[j], b = theirs[i].second[j];
      distance += (a - b) * (a - b), size += b * b;
    }
    const double share = size > 0 ? std::sqrt(distance / size) : distance;
    if (!(share <= kTolerance))
      fail(ErrorKind::internal, ours[i].first, " of ", few.n_rows, " rows differs from the CPU backend's by ",
           fixed(100 * share, 2), " % of its size; nothing is timed");
    worst = std::max(worst, share);
  }
  return worst;
}

// ---- fast? ----------------------------------------------------------------------------------------------------------

// What one call of a stage moves and computes: its share of CostModel's parts.
StepCost cost_of_stage(const std::string& stage, const Shard& s, const StepWork& w, double experts) {
  const TextConfig& t = s.cut.text;
  const double rows = double(w.n_rows), d = double(t.hidden), hd = double(t.head_dim);
  const double q = double(s.plan.heads.size()) * hd, kv = double(s.plan.kv_heads.size()) * hd;
  const double e_here = double(s.plan.experts.size()) / double(t.n_experts), e_ffn = double(s.plan.expert_ffn.size());
  const auto product = [&](const char* name, double m, double n, double k) { return Part{name, 2 * n * k, 2 * m * n * k}; };
  const auto routed = [&](double n, double k) {
    return Part{"routed", experts * e_here * 2 * n * k, 2 * rows * double(t.n_experts_per_token) * e_here * n * k};
  };
  StepCost cost;
  const bool dense = stage.ends_with("dense");
  const double f = dense ? double(s.plan.dense_ffn.size()) : double(s.plan.ffn.size());
  if (stage == "qkv")
    cost.parts = {product("qkv", rows, q + 2 * kv, d), {"KV written", rows * 2 * kv * 2, 0}};
  else if (stage.starts_with("attention")) {
    const int kind = int(stage.ends_with("global") ? AttentionKind::global : AttentionKind::chunked);
    cost.parts = {{"KV", double(w.kv_read[kind]) * 2 * kv * 2, 4 * q * double(w.kv_pairs[kind])}};
  } else if (stage == "attn_out")
    cost.parts = {product("o", rows, d, q), product("router", rows, double(t.n_experts), d)};
  else if (stage.starts_with("ffn_up"))
    cost.parts = {product("shared", rows, 2 * f, d)};
  else if (stage.starts_with("ffn_down"))
    cost.parts = {product("shared", rows, d, f)};
  else
    cost.parts = {product("head", double(w.n_out), double(t.vocab), d)};
  if (!dense && stage == "ffn_up") cost.parts.push_back(routed(2 * e_ffn, d));
  if (!dense && stage == "ffn_down") cost.parts.push_back(routed(d, e_ffn));
  return cost;
}

// The dense product in a stage, which cuBLAS has too.
std::optional<ProductShape> product_of_stage(const std::string& stage, const Shard& s, const StepWork& w) {
  const TextConfig& t = s.cut.text;
  const int64_t q = s.plan.heads.size() * t.head_dim, kv = s.plan.kv_heads.size() * t.head_dim;
  const int64_t f = stage.ends_with("dense") ? s.plan.dense_ffn.size() : s.plan.ffn.size();
  if (stage == "qkv") return ProductShape{w.n_rows, q + 2 * kv, t.hidden, false, stage};
  if (stage == "attn_out") return ProductShape{w.n_rows, t.hidden, q, false, stage};
  if (stage.starts_with("ffn_up")) return ProductShape{w.n_rows, 2 * f, t.hidden, false, stage};
  if (stage.starts_with("ffn_down")) return ProductShape{w.n_rows, t.hidden, f, false, stage};
  if (stage == "head") return ProductShape{w.n_out, t.vocab, t.hidden, false, stage};
  return std::nullopt;
}

void measure(Bench& bench, Backend& backend, const BenchModel& model, const OpOptions& o, const Shard& shard, Stack& stack,
             const Case& c, double difference) {
  const StepPlan step = plan_of(c, shard.cut.text, o.common.synthetic.seed);
  const StepWork work = work_of(step);
  StageRecorder recorder(backend);
  double hit = 0;
  int64_t n_watched = 0;
  const Trace watch{[&](const std::string&, const std::vector<float>& values, const Shape&) {
                      hit += double(std::set<float>(values.begin(), values.end()).size()), ++n_watched;
                    },
                    ".experts"};
  stack.forward(recorder, step, &watch);
  const double experts = n_watched > 0 ? hit / double(n_watched) : 0;

  for (const std::string& stage : StageRecorder::names()) {
    const std::vector<StageRecorder::Call>& calls = recorder.calls(stage);
    if (calls.empty()) continue;
    const std::string kernel = calls[0].kernel;
    std::vector<double> seconds = backend.time_runs(
        [&] {
          for (const StageRecorder::Call& call : calls) call.run();
        },
        int(o.common.repeats.value_or(20)));
    for (double& s : seconds) s /= double(calls.size());
    const StepCost cost = cost_of_stage(stage, shard, work, experts);
    const double median_s = median(seconds), limit = cost.limit_seconds(bench.rates());
    const std::optional<ProductShape> shape = product_of_stage(stage, shard, work);
    const std::optional<double> library = shape ? bench.library_seconds(*shape) : std::nullopt;
    const auto micros = [](double s) { return fixed(s * 1e6, 2); };
    Record record;
    record.cells = {{"model", model.name, false, 18},
                    {"stage", stage, false, 18},
                    number_cell("rows", cat(c.n_rows)),
                    number_cell("context", cat(c.context)),
                    {"kernel", kernel.empty() ? "-" : kernel, false, 9},
                    number_cell("us", micros(median_s), 9),
                    number_cell("limit us", micros(limit), 9),
                    number_cell("% of limit", fixed(100 * limit / median_s, 1)),
                    number_cell("GB/s", fixed(cost.bytes() / median_s / 1e9, 1), 7),
                    number_cell("TFLOP/s", fixed(cost.flops() / median_s / 1e12, 2)),
                    number_cell("cuBLASLt us", library ? micros(*library) : "-"),
                    number_cell("experts", fixed(experts, 1)),
                    number_cell("off by", difference > 0 ? fixed(100 * difference, 2) + " %" : "-")};
    Json::Object fields = bench.common_fields();
    const auto optional = [](const std::optional<double>& v) { return v ? Json(*v * 1e9) : Json(); };
    Json::Object more = {{"test", cat("op ", stage)},
                         {"model_name", model.name},
                         {"tp", o.common.tp.value_or(1)},
                         {"ep", o.common.ep.value_or(1)},
                         {"stage", stage},
                         {"kernel", kernel},
                         {"n_rows", c.n_rows},
                         {"n_depth", c.context},
                         {"prompt", c.prompt},
                         {"n_layers", int64_t(calls.size())},
                         {"routing", o.common.round_robin_experts ? "uniform" : "router"},
                         {"experts_hit", experts},
                         {"avg_ns", mean(seconds) * 1e9},
                         {"stddev_ns", standard_deviation(seconds) * 1e9},
                         {"median_ns", median_s * 1e9},
                         {"median_ts", double(c.n_rows) / median_s},
                         {"limit_ns", limit * 1e9},
                         {"limit_share", limit / median_s},
                         {"bytes", cost.bytes()},
                         {"flops", cost.flops()},
                         {"library_ns", optional(library)},
                         {"difference", difference},
                         {"samples_ns", numbers(seconds, 1e9)}};
    fields.insert(fields.end(), more.begin(), more.end());
    record.fields = std::move(fields);
    bench.report(record);
  }
}

}  // namespace

void run_op(const OpOptions& o) {
  if (!o.common.synthetic.on) fail(ErrorKind::usage, "l4-bench op takes synthetic models: add --synthetic");
  if (o.common.kv_dtype.value_or(DType::bf16) != DType::bf16)
    fail(ErrorKind::usage, "l4-bench op keeps K and V in bfloat16");
  std::vector<Case> cases;
  for (const int64_t context : o.contexts)
    for (const int64_t batch : o.batches)
      if (batch > 0) cases.push_back({batch, context, false});
  for (const int64_t prompt : o.prompts) cases.push_back({prompt, prompt, true});
  if (cases.empty()) fail(ErrorKind::usage, "nothing to measure");
  const Topology topology{o.common.tp.value_or(1), 1, o.common.ep.value_or(1)};

  Bench bench(o.common);
  for (const std::string& name : o.common.models) {
    const BenchModel model(name, o.common.synthetic);
    const Shard shard = shard_for(model.config, o.n_layers.value_or(kLayers), topology, INT64_MAX);
    std::vector<StepPlan> steps;
    for (const Case& c : cases) {
      if (c.context > model.config.text.max_positions)
        fail(ErrorKind::usage, model.name, " has a context of ", model.config.text.max_positions, " tokens");
      steps.push_back(plan_of(c, shard.cut.text, o.common.synthetic.seed));
    }
    try {
      const std::unique_ptr<Backend> backend = bench.make_backend(steps, kv_page_tokens(shard.cut.text));
      std::vector<double> differences;
      for (const Case& c : cases)
        differences.push_back(bench.on_gpu() ? check(*backend, model.config, topology, c, o.common.synthetic.seed,
                                                     o.common.threads.value_or(0))
                                             : 0);
      Stack stack(*backend, shard.whole, shard.cut, shard.plan, o.common.synthetic.seed, o.common.round_robin_experts,
                  steps);
      for (size_t i = 0; i < cases.size(); ++i)
        measure(bench, *backend, model, o, shard, stack, cases[i], differences[i]);
    } catch (const Error& e) {
      throw Error(e.kind(), cat(model.name, ": ", e.message()));
    }
  }
  bench.finish();
}

}  // namespace l4::bench
