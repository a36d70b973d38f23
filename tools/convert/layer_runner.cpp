#include "tools/convert/layer_runner.h"

#include <algorithm>
#include <set>

#include "dist/comm.h"
#include "engine/executor.h"
#include "l4/load_plan.h"
#include "model/quantization.h"

namespace l4::convert {

namespace {

// A sequence in one step, from its first token.
StepPlan step_of(const TextConfig& text, std::span<const int32_t> ids, bool logits) {
  StepPlan step;
  const int64_t n = int64_t(ids.size()), page = kv_page_tokens(text);
  step.ids.assign(ids.begin(), ids.end());
  for (int64_t i = 0; i < n; ++i) {
    step.positions.push_back(int32_t(i));
    if (logits) step.out_rows.push_back(int32_t(i));
  }
  const auto add_spans = [&](KvPlan& kv, int64_t length) {
    for (int64_t begin = 0; begin < n; begin += length) {
      const int64_t rows = std::min(length, n - begin);
      kv.spans.push_back({int32_t(begin), int32_t(rows), 0, int32_t(kv.pages.size())});
      for (int64_t p = 0; p * page < rows; ++p) kv.pages.push_back(int32_t(begin / page + p));
    }
  };
  add_spans(step.of(AttentionKind::global), n);
  add_spans(step.of(AttentionKind::chunked), text.attention_chunk > 0 ? text.attention_chunk : n);
  return step;
}

int64_t longest(const Sequences& sequences) {
  size_t most = 0;
  for (const auto& ids : sequences) most = std::max(most, ids.size());
  return int64_t(most);
}

}  // namespace

// Each layer is a stage of a pipeline whose neighbours are the host's memory.
class LayerRunner::Stream : public Comm {
 public:
  Stream(Backend& backend, size_t n_sequences) : backend_(backend), kept_(n_sequences) {}
  int rank() const override { return 0; }
  int size() const override { return 1; }
  void recv(const View& x, int) override {
    L4_CHECK(kept_[sequence].size() == x.bytes());
    backend_.upload(x, kept_[sequence].data());
  }
  void send(const View& x, int) override {
    if (!keep) return;
    kept_[sequence].resize(x.bytes());
    backend_.download(kept_[sequence].data(), x);
  }
  void all_reduce_sum(const View&) override { refuse(); }
  void all_gather(const View&, const View&) override { refuse(); }
  void broadcast(const View&, int) override { refuse(); }
  void all_to_all(const View&, const View&) override { refuse(); }

  size_t sequence = 0;
  bool keep = false;

 private:
  static void refuse() { fail(ErrorKind::internal, "stages only send and receive"); }
  Backend& backend_;
  std::vector<std::vector<std::byte>> kept_;  // [tokens, D] of each sequence
};

LayerRunner::LayerRunner(const ModelConfig& config, Device device, int threads, const Sequences& sequences)
    : config_(config),
      sequences_(sequences),
      activation_(config.weights_dtype == "float32" ? DType::f32 : DType::bf16),
      alone_(make_single_comm()) {
  L4_CHECK(!sequences.empty() &&
           std::none_of(sequences.begin(), sequences.end(), [](const auto& s) { return s.empty(); }));
  config_.vision.reset();
  LoadOptions where;
  where.device = device;
  const std::vector<int> gpus = choose_gpus(where, list_cuda_devices());
  const int64_t rows = longest(sequences), page = kv_page_tokens(config.text);
  if (gpus.empty())
    backend_ = make_cpu_backend(threads);
  else
    backend_ = make_cuda_backend(gpus[0], {.max_rows = rows,
                                           .max_out_rows = rows,
                                           .max_table_pages = 2 * (rows / page + 1),
                                           .page_tokens = page,
                                           .graphs = false});
  device_name_ = backend_->device_name();
  stream_ = std::make_unique<Stream>(*backend_, sequences.size());
}

LayerRunner::~LayerRunner() = default;

void LayerRunner::load(int64_t layer, const WeightSource& weights) {
  model_.reset();
  kv_.reset();
  weights_ = {};
  Topology stages;
  stages.pp = int(config_.text.n_layers);
  shard_ = shard_of(config_, stages, int(layer));
  weights_ = weights.load(plan_weights(config_, shard_, activation_, weights.all_stored()), *backend_, activation_,
                          [](uint64_t) {});
  model_ = std::make_unique<TextModel>(config_, weights_, activation_);
  const int64_t pages = longest(sequences_) / kv_page_tokens(config_.text) + 1;
  int64_t n_pages[kNumAttentionKinds] = {pages, pages};
  const std::optional<Quantization> quantization = read_quantization(config_);
  const bool fp8 = quantization && quantization->fp8_cache;
  std::vector<KvScales> scales;
  if (fp8 && quantization->cache_scales) scales = weights.kv_scales(shard_.layers);
  kv_ = std::make_unique<KvCache>(*backend_, config_.text, shard_, fp8 ? DType::f8_e4m3 : activation_, n_pages, scales);
}

void LayerRunner::run(bool keep, InputObserver* observer) {
  run(keep, observer, {});
}

void LayerRunner::run_to_logits(const OnLogits& on_logits) {
  L4_CHECK(shard_.last_stage());
  run(false, nullptr, on_logits);
}

void LayerRunner::run(bool keep, InputObserver* observer, const OnLogits& on_logits) {
  // Scratch for the lengths that there are.
  Arena measured;
  std::set<size_t> lengths;
  for (const auto& ids : sequences_) {
    if (!lengths.insert(ids.size()).second) continue;
    const StepPlan step = step_of(config_.text, ids, bool(on_logits));
    backend_->begin_step(step);
    measured.reset();
    model_->forward({*backend_, *alone_, *stream_, shard_, measured, nullptr}, step, *kv_, {});
  }
  Arena work(backend_->allocate(measured.peak(), "activations"));

  std::optional<ObservedBackend> observed;
  if (observer) observed.emplace(*backend_, config_.text.n_experts, *observer);
  Backend& backend = observed ? static_cast<Backend&>(*observed) : *backend_;
  stream_->keep = keep;
  for (size_t i = 0; i < sequences_.size(); ++i) {
    stream_->sequence = i;
    const StepPlan step = step_of(config_.text, sequences_[i], bool(on_logits));
    backend.begin_step(step);
    const auto issue = [&] {
      work.reset();
      return model_->forward({backend, *alone_, *stream_, shard_, work, nullptr}, step, *kv_, {});
    };
    const View logits = backend.run_step(StepShape(step), issue, true);
    if (on_logits) {
      std::vector<float> values(static_cast<size_t>(logits.elements()));
      backend_->download(values.data(), logits);
      on_logits(i, values);
    }
  }
}

}  // namespace l4::convert
