#include "tools/bench/op.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <random>
#include <set>

#include "model/kv_cache.h"
#include "model/text_model.h"
#include "quant/fp8.h"
#include "tools/bench/ceilings.h"
#include "tools/bench/stages.h"
#include "tools/common/statistics.h"

namespace l4::bench {

using tools::mean;
using tools::median;
using tools::standard_deviation;

namespace {

constexpr int64_t kCheckedRows = 64, kCheckedContext = 300, kCheckedVocab = 4096;
// Of an activation in BF16 after a layer, or of logits: the distance of two orders of summation, as a share of its size.
constexpr double kTolerance = 0.02;
// The same where rows become FP8: one whose largest value differs in its last bit, 2^-8, gets another scale, and some 5
// % of its codes, a tenth apart, fall to the other side: 2 % of its size, in each of the products that follow each
// other.
constexpr double kFp8Tolerance = 0.08;
constexpr int kLayers = 4;  // one of them is global
// Columns of the shared expert with --experts-alone: the fewest that all kernels take, 3 % of one expert.
constexpr int64_t kLeftOfShared = 256;

// ---- a step of a model, without an engine ---------------------------------------------------------------------------

struct Case {
  int64_t n_rows = 1, context = 1;  // of each row; a prompt's rows begin at position 0
  bool prompt = false;
  bool operator==(const Case&) const = default;
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

// One rank's shapes as a model of its own: nothing is summed with other ranks.
struct Shard {
  ModelConfig whole, cut;  // cut: with its part of the vocabulary
  ShardPlan plan;
  SyntheticWeights source;
  WeightPlan weights;
  DType kv = DType::bf16;
};
Shard shard_for(ModelConfig config, int64_t n_layers, const OpOptions& op, int64_t vocab_limit) {
  const CommonOptions& o = op.common;
  keep_layers(config, std::min(n_layers, config.text.n_layers));
  const SyntheticWeights source(config, o.synthetic.seed, o.synthetic.stored());
  Shard s{config, config, shard_of(config, {o.tp.value_or(1), 1, o.ep.value_or(1)}, 0),
          source, {},     o.kv_dtype.value_or(DType::bf16)};
  s.cut.text.vocab = std::min(s.plan.vocab.size(), vocab_limit);
  s.plan.vocab = {0, s.cut.text.vocab};
  if (op.experts_alone) s.plan.ffn = {0, std::min(kLeftOfShared, s.plan.ffn.size())};
  s.weights = plan_weights(s.cut, s.plan, DType::bf16, quantized_at_load(source.all_stored(), o.quantize));
  return s;
}

// What one rank needs to run steps: its weights, pages full of random keys and values, an arena.
class Stack {
 public:
  Stack(Backend& backend, const Shard& shard, uint64_t seed, bool round_robin, const std::vector<StepPlan>& steps)
      : backend_(backend),
        shard_(shard.plan),
        comm_(make_single_comm()),
        weights_(shard.source.load(shard.weights, backend, DType::bf16, [](uint64_t) {})),
        text_(shard.cut, weights_, DType::bf16, round_robin) {
    int64_t n_pages[kNumAttentionKinds] = {1, 1};
    for (const StepPlan& step : steps)
      for (int kind = 0; kind < kNumAttentionKinds; ++kind)
        n_pages[kind] = std::max(n_pages[kind], int64_t(step.kv[kind].pages.size()));
    kv_ = std::make_unique<KvCache>(backend, shard.cut.text, shard.plan, shard.kv, n_pages);
    for (int64_t l = 0; l < shard.cut.text.n_layers; ++l)
      for (int64_t p = 0; p < n_pages[int(kv_->layer(l).kind)]; ++p) fill_page(kv_->layer(l), p, seed + uint64_t(l));
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
  // A layer's part of a page, of values in +- 1. FP8 is made here, a few pages that take turns.
  void fill_page(const KvLayer& layer, int64_t page, uint64_t key) {
    constexpr int64_t kTurns = 7;
    const KvLayout& l = layer.layout;
    std::byte* begin = static_cast<std::byte*>(layer.base) + page * layer.page_stride;
    if (l.dtype == DType::bf16)
      return backend_.fill_random({begin, DType::bf16, {l.layer_bytes / 2}}, {key, 0, 1}, page * l.layer_bytes);
    std::vector<uint8_t>& made = fp8_pages_[{key, page % kTurns}];
    if (made.empty()) made = fp8_page(l, sample_mix(key + uint64_t(page % kTurns)));
    backend_.upload({begin, DType::f8_e4m3, {l.layer_bytes}}, made.data());
  }
  static std::vector<uint8_t> fp8_page(const KvLayout& l, uint64_t key) {
    std::vector<uint8_t> bytes(static_cast<size_t>(l.layer_bytes));
    int64_t at = 0;
    for (uint8_t& code : bytes) code = fp8_from_float(random_weight({key, 0, kFp8Max}, at++));
    for (const int64_t offset : {l.k_scale_offset, l.v_scale_offset})
      for (int64_t i = 0; i < l.n_kv_heads * l.page_tokens; ++i) {
        const BFloat16 scale = to_bf16(random_weight({key, 1, 0.125f}, at++) / kFp8Max);
        std::memcpy(bytes.data() + offset + i * int64_t(sizeof scale), &scale, sizeof scale);
      }
    return bytes;
  }

  Backend& backend_;
  const ShardPlan shard_;
  const std::unique_ptr<Comm> comm_;
  const Weights weights_;
  TextModel text_;
  std::unique_ptr<KvCache> kv_;
  std::map<std::pair<uint64_t, int64_t>, std::vector<uint8_t>> fp8_pages_;  // by key and turn
  Arena work_;
};

// ---- right? ---------------------------------------------------------------------------------------------------------

using Traced = std::vector<std::pair<std::string, std::vector<float>>>;

std::vector<Traced> traces_of(Backend& backend, const Shard& shard, const std::vector<StepPlan>& steps, uint64_t seed) {
  // Experts in turn: a near tie of the router's, decided otherwise by another order of summation, is no error.
  Stack stack(backend, shard, seed, true, steps);
  std::vector<Traced> all;
  for (const StepPlan& step : steps) {
    Traced& out = all.emplace_back();
    const Trace trace{[&](const std::string& name, const std::vector<float>& values, const Shape&) {
                        out.emplace_back(name, values);
                      },
                      ""};
    const View logits = stack.forward(backend, step, &trace);
    out.emplace_back("logits", std::vector<float>(size_t(logits.elements())));
    backend.download(out.back().second.data(), logits);
  }
  return all;
}

double largest_distance(const Traced& ours, const Traced& theirs, double tolerance, int64_t n_rows) {
  L4_CHECK(ours.size() == theirs.size());
  double worst = 0;
  for (size_t i = 0; i < ours.size(); ++i) {
    double distance = 0, size = 0;
    for (size_t j = 0; j < ours[i].second.size(); ++j) {
      const double a = ours[i].second[j], b = theirs[i].second[j];
      distance += (a - b) * (a - b), size += b * b;
    }
    const double share = size > 0 ? std::sqrt(distance / size) : distance;
    if (!(share <= tolerance))
      fail(ErrorKind::internal, ours[i].first, " of ", n_rows, " rows differs from the CPU backend's by ",
           fixed(100 * share, 2), " % of its size; nothing is timed");
    worst = std::max(worst, share);
  }
  return worst;
}

// Runs two layers of the same shapes on this device and on the CPU backend, fewer rows where there are many.
// Error{internal} where they differ by more than rounding; else the largest distance of each case.
std::vector<double> check(Backend& backend, const ModelConfig& config, const OpOptions& o,
                          const std::vector<Case>& cases) {
  const uint64_t seed = o.common.synthetic.seed;
  const Shard shard = shard_for(config, 2, o, kCheckedVocab);
  std::vector<Case> few;  // each once
  std::vector<StepPlan> steps;
  std::vector<size_t> step_of;
  for (const Case& c : cases) {
    const Case less{std::min(c.n_rows, kCheckedRows), std::min(c.context, kCheckedContext), c.prompt};
    const size_t at = size_t(std::find(few.begin(), few.end(), less) - few.begin());
    step_of.push_back(at);
    if (at < few.size()) continue;
    few.push_back(less);
    steps.push_back(plan_of(less, shard.cut.text, seed));
  }
  bool fp8 = shard.kv == DType::f8_e4m3 || shard.weights.lm_head.spec.input != InputFormat::as_is;
  for (const auto& layer : shard.weights.layers)
    for (const LinearPlan* w : {&layer.qkv, &layer.shared_up, &layer.experts_up})
      fp8 |= w->spec.input != InputFormat::as_is;
  const std::vector<Traced> ours = traces_of(backend, shard, steps, seed);
  const std::unique_ptr<Backend> reference = make_cpu_backend(o.common.threads.value_or(0));
  const std::vector<Traced> theirs = traces_of(*reference, shard, steps, seed);
  std::vector<double> distances, of_cases;
  for (size_t i = 0; i < steps.size(); ++i)
    distances.push_back(largest_distance(ours[i], theirs[i], fp8 ? kFp8Tolerance : kTolerance, few[i].n_rows));
  for (const size_t step : step_of) of_cases.push_back(distances[step]);
  return of_cases;
}

// ---- fast? ----------------------------------------------------------------------------------------------------------

// The dense weight of a stage: of an FFN the shared expert's, or the dense MLP's.
const LinearSpec* weight_of_stage(const std::string& stage, const Shard& s) {
  const bool dense = stage.ends_with("dense");
  for (const auto& layer : s.weights.layers) {
    if (stage == "qkv") return &layer.qkv.spec;
    if (stage == "attn_out") return &layer.o.spec;
    if (!stage.starts_with("ffn") || dense != (layer.router.spec.n == 0)) continue;
    return stage.starts_with("ffn_up") ? &layer.shared_up.spec : &layer.shared_down.spec;
  }
  return stage == "head" ? &s.weights.lm_head.spec : nullptr;
}
// The routed experts' of the same stage.
const LinearSpec* experts_of_stage(const std::string& stage, const Shard& s) {
  for (const auto& layer : s.weights.layers) {
    if (layer.router.spec.n == 0) continue;
    if (stage == "ffn_up") return &layer.experts_up.spec;
    if (stage == "ffn_down") return &layer.experts_down.spec;
  }
  return nullptr;
}

// What one call of a stage moves and computes: its share of CostModel's parts.
StepCost cost_of_stage(const std::string& stage, const Shard& s, const StepWork& w, double experts) {
  const TextConfig& t = s.cut.text;
  const double rows = double(w.n_rows);
  const double kv_bytes = double(kv_token_bytes(t, s.plan.kv_heads.size(), s.kv));
  StepCost cost;
  if (const LinearSpec* dense = weight_of_stage(stage, s))
    cost.parts.push_back(linear_part(stage, *dense, stage == "head" ? double(w.n_out) : rows));
  if (const LinearSpec* routed = experts_of_stage(stage, s)) {
    const double here = double(routed->n_experts) / double(t.n_experts);  // of the experts hit, and of the rows
    Part part = linear_part("routed", *routed, rows * double(t.n_experts_per_token), here);
    part.bytes *= experts;
    cost.parts.push_back(part);
  }
  if (stage == "qkv") cost.parts.push_back({"KV written", rows * kv_bytes});
  if (stage == "attn_out")
    for (const auto& layer : s.weights.layers)
      if (layer.router.spec.n > 0) {
        cost.parts.push_back(linear_part("router", layer.router.spec, rows));
        break;
      }
  if (stage.starts_with("attention")) {
    const int kind = int(stage.ends_with("global") ? AttentionKind::global : AttentionKind::chunked);
    const double q = double(s.plan.heads.size() * t.head_dim);
    cost.parts.push_back({"KV", double(w.kv_read[kind]) * kv_bytes, 4 * q * double(w.kv_pairs[kind])});
  }
  return cost;
}

// "INT4", or of an FFN whose experts are stored otherwise "BF16, FP8".
std::string stored_of_stage(const std::string& stage, const Shard& s) {
  const LinearSpec *dense = weight_of_stage(stage, s), *routed = experts_of_stage(stage, s);
  if (!dense) return s.kv == DType::f8_e4m3 ? "FP8" : "BF16";
  const std::string shared = weight_format_name(dense->format);
  return !routed || routed->format == dense->format ? shared : cat(shared, ", ", weight_format_name(routed->format));
}

// The dense product in a stage as cuBLAS has it, too: of FP8 by FP8, else of BF16.
std::optional<ProductShape> product_of_stage(const std::string& stage, const Shard& s, const StepWork& w) {
  const LinearSpec* dense = weight_of_stage(stage, s);
  if (!dense) return std::nullopt;
  return ProductShape{stage == "head" ? w.n_out : w.n_rows, dense->n, dense->k, dense->format == WeightFormat::fp8,
                      stage};
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
    const std::string kernel = calls[0].kernel, stored = stored_of_stage(stage, shard);
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
                    bench.format_cell(model),
                    {"stage", stage, false, 18},
                    {"stored", stored, false, 6},
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
    Json::Object more = {
        {"test", cat("op ", stage, " ", c.n_rows, o.experts_alone ? ", experts alone" : "", " @ d", c.context)},
        {"model_name", model.name},
        {"tp", o.common.tp.value_or(1)},
        {"ep", o.common.ep.value_or(1)},
        {"stage", stage},
        {"kernel", kernel},
        {"format", bench.format(model)},
        {"stored", stored},
        {"experts_alone", o.experts_alone},
        {"kv_dtype", dtype_option_name(shard.kv)},
        {"n_rows", c.n_rows},
        {"n_depth", c.context},
        {"prompt", c.prompt},
        {"n_layers", int64_t(calls.size())},
        {"routing", o.common.round_robin_experts ? "uniform" : "router"},
        {"batch_invariant", o.common.batch_invariant},
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
  if (o.common.kv_dtype == DType::f32) fail(ErrorKind::usage, "l4-bench op keeps K and V in bf16 or fp8");
  std::vector<Case> cases;
  for (const int64_t context : o.contexts)
    for (const int64_t batch : o.batches)
      if (batch > 0) cases.push_back({batch, context, false});
  for (const int64_t prompt : o.prompts) cases.push_back({prompt, prompt, true});
  if (cases.empty()) fail(ErrorKind::usage, "nothing to measure");
  Bench bench(o.common);
  for (const std::string& name : o.common.models) {
    const BenchModel model(name, o.common.synthetic);
    const Shard shard = shard_for(model.config, o.n_layers.value_or(kLayers), o, INT64_MAX);
    std::vector<StepPlan> steps;
    for (const Case& c : cases) {
      if (c.context > model.config.text.max_positions)
        fail(ErrorKind::usage, model.name, " has a context of ", model.config.text.max_positions, " tokens");
      steps.push_back(plan_of(c, shard.cut.text, o.common.synthetic.seed));
    }
    try {
      const std::unique_ptr<Backend> backend = bench.make_backend(steps, kv_page_tokens(shard.cut.text));
      std::vector<double> differences(cases.size(), 0);
      if (bench.on_gpu() && o.check) differences = check(*backend, model.config, o, cases);
      Stack stack(*backend, shard, o.common.synthetic.seed, o.common.round_robin_experts, steps);
      for (size_t i = 0; i < cases.size(); ++i)
        measure(bench, *backend, model, o, shard, stack, cases[i], differences[i]);
    } catch (const Error& e) {
      throw Error(e.kind(), cat(model.name, ": ", e.message()));
    }
  }
  bench.finish();
}

}  // namespace l4::bench
