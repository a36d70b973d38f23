#include "tools/bench/roofline.h"

#include <algorithm>
#include <cmath>

#include "engine/executor.h"
#include "model/kv_cache.h"

namespace l4::bench {

namespace {

void add_stretch(StepWork& work, AttentionKind kind, int64_t past, int64_t n) {
  work.kv_read[int(kind)] += past + n;
  work.kv_pairs[int(kind)] += n * past + n * (n + 1) / 2;
}

}  // namespace

StepWork work_of(const StepPlan& step) {
  StepWork work;
  work.n_rows = step.n_rows();
  work.n_out = step.n_out();
  for (const AttentionKind kind : {AttentionKind::chunked, AttentionKind::global})
    for (const KvSpan& span : step.of(kind).spans) add_stretch(work, kind, span.past, span.n_rows);
  return work;
}

StepWork decode_work(int64_t batch, int64_t context, int64_t chunk) {
  StepWork work;
  work.n_rows = work.n_out = batch;
  for (int64_t i = 0; i < batch; ++i) {
    add_stretch(work, AttentionKind::global, context - 1, 1);
    add_stretch(work, AttentionKind::chunked, chunk == 0 ? context - 1 : (context - 1) % chunk, 1);
  }
  return work;
}

StepWork prefill_work(int64_t begin, int64_t n, int64_t chunk) {
  StepWork work;
  work.n_rows = n;
  work.n_out = 1;
  add_stretch(work, AttentionKind::global, begin, n);
  for (int64_t p = begin; p < begin + n;) {
    const int64_t start = chunk == 0 ? 0 : p / chunk * chunk;
    const int64_t end = chunk == 0 ? begin + n : std::min(begin + n, start + chunk);
    add_stretch(work, AttentionKind::chunked, p - start, end - p);
    p = end;
  }
  return work;
}

double StepCost::bytes() const {
  double sum = 0;
  for (const Part& part : parts) sum += part.bytes;
  return sum;
}

double StepCost::flops() const {
  double sum = 0;
  for (const Part& part : parts) sum += part.flops;
  return sum;
}

double Part::seconds(const Rates& rates) const {
  return std::max(bytes / rates.read_bytes, (flops - fp8_flops) / rates.flops + fp8_flops / rates.fp8_flops);
}

Part linear_part(const std::string& name, const LinearSpec& spec, double n_rows, double share) {
  const double flops = share * 2 * n_rows * double(spec.n) * double(spec.k);
  const bool fp8 = spec.format == WeightFormat::fp8 && spec.input != InputFormat::as_is;
  return {name, share * double(weight_bytes(spec.format, spec.n, spec.k, spec.group)), flops, fp8 ? flops : 0};
}

double StepCost::limit_seconds(const Rates& rates) const {
  double sum = 0;
  for (const Part& part : parts) sum += part.seconds(rates) / tp;
  return sum;
}

const Part& StepCost::part(const std::string& name) const {
  const auto found = std::find_if(parts.begin(), parts.end(), [&](const Part& part) { return part.name == name; });
  L4_CHECK(found != parts.end(), name);
  return *found;
}

CostModel::CostModel(const ModelConfig& config, const Topology& topology, DType activation, DType kv,
                     const StoredWeights& stored)
    : tp_(topology.tp), n_experts_(config.text.n_experts), top_k_(config.text.n_experts_per_token) {
  const TextConfig& text = config.text;
  for (const AttentionKind kind : {AttentionKind::chunked, AttentionKind::global})
    n_layers_of_[int(kind)] = config.n_layers_of(kind);
  kv_token_bytes_ = double(l4::kv_token_bytes(text, text.n_kv_heads, kv));
  flops_per_pair_ = 4.0 * double(text.n_heads * text.head_dim);

  auto add = [](Linears& to, const LinearPlan& plan, double share = 1) {
    if (plan.spec.n == 0) return;
    const Part part = linear_part("", plan.spec, 1, share);
    to.bytes += part.bytes, to.flops += part.flops, to.fp8_flops += part.fp8_flops;
  };
  for (int rank = 0; rank < topology.world(); ++rank) {
    const WeightPlan plan = plan_weights(config, shard_of(config, topology, rank), activation, stored);
    for (const PartBytes& part : weight_bytes_by_part(plan, activation)) weight_bytes_ += double(part.bytes);
    for (const auto& layer : plan.layers) {
      add(attention_, layer.qkv);
      add(attention_, layer.o);
      add(shared_, layer.shared_up);
      add(shared_, layer.shared_down);
      add(router_, layer.router);
      // Of the experts hit a rank has as many as its share of all experts.
      const double here = double(layer.experts_up.spec.n_experts) / double(std::max<int64_t>(1, n_experts_));
      add(routed_, layer.experts_up, here);
      add(routed_, layer.experts_down, here);
    }
    add(head_, plan.lm_head);
  }
}

double CostModel::expected_experts(int64_t n_rows) const {
  if (n_experts_ == 0) return 0;
  const double e = double(n_experts_);
  return e * (1 - std::pow(1 - double(top_k_) / e, double(n_rows)));
}

// Read so many times, once for each expert that was hit.
Part CostModel::Linears::part(const char* name, double n_read, double n_rows) const {
  return {name, n_read * bytes, n_rows * flops, n_rows * fp8_flops};
}

StepCost CostModel::step(const StepWork& work, double experts) const {
  const double rows = double(work.n_rows), routed_rows = rows * double(top_k_), out = double(work.n_out);
  double read = 0, pairs = 0, written = 0;
  for (const AttentionKind kind : {AttentionKind::chunked, AttentionKind::global}) {
    const double layers = double(n_layers_of_[int(kind)]);
    read += layers * double(work.kv_read[int(kind)]);
    pairs += layers * double(work.kv_pairs[int(kind)]);
    written += layers * rows;
  }
  StepCost cost;
  cost.tp = tp_;
  // A router is whole on every rank, computed and read there.
  cost.parts = {attention_.part("attention", 1, rows),
                shared_.part("shared + dense", 1, rows),
                routed_.part("routed", experts, routed_rows),
                router_.part("router", 1, rows),
                head_.part("lm_head", work.n_out > 0 ? 1 : 0, out),
                {"KV", kv_token_bytes_ * read, flops_per_pair_ * pairs},
                {"KV written", kv_token_bytes_ * written, 0}};
  return cost;
}

}  // namespace l4::bench
