#include "engine/executor.h"

#include <algorithm>
#include <cmath>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <numeric>
#include <thread>

#include "model/kv_cache.h"
#include "model/text_model.h"
#include "model/vision_model.h"

namespace l4 {

namespace {

StoredDType stored_in(const WeightSource& source) {
  return [&source](const std::string& name) { return source.stored(name); };
}

// A step of the largest size, for measuring scratch. Its page tables are never read.
StepPlan largest_step(const ExecutorOptions& options) {
  StepPlan step;
  step.ids.resize(size_t(options.max_step_rows));
  step.positions.resize(size_t(options.max_step_rows));
  for (KvPlan& kv : step.kv) kv.spans = {{0, int32_t(options.max_step_rows), 0, 0}};
  step.out_rows.resize(size_t(options.max_out_rows));
  std::iota(step.out_rows.begin(), step.out_rows.end(), 0);
  return step;
}

Shape pixel_shape(const VisionConfig& v, int64_t n_tiles) {
  return {n_tiles, v.n_channels, v.image_size, v.image_size};
}

bool encodes_images(const ModelConfig& config, const ExecutorOptions& options, const ShardPlan& shard) {
  return config.vision && shard.first_stage() && options.encoder_rows > 0;
}

// Runs the largest step and the largest encoder pass on shapes alone: what one rank's arena must hold.
uint64_t activation_bytes(const ModelConfig& config, const ExecutorOptions& options, Backend& backend,
                          const ShardPlan& shard, const WeightPlan& plan) {
  const Weights weights = shapes_of(plan, options.dtype);
  const KvCache kv(backend, config.text, shard, options.dtype, {0, 0});
  const auto tp = make_thread_comms(shard.topology.tp);  // for its size; a measuring run talks to nobody
  Arena work;
  const Rank rank{backend, *tp[size_t(shard.tp_rank)], *tp[0], shard, work, nullptr};
  View features;
  if (encodes_images(config, options, shard)) {
    features = {nullptr, options.dtype, {options.encoder_rows, config.text.hidden}};
    const int64_t rows = options.max_step_tiles * config.vision->tokens_per_tile();
    VisionModel(config, weights, options.dtype)
        .encode(rank, {nullptr, DType::bf16, pixel_shape(*config.vision, options.max_step_tiles)},
                {nullptr, options.dtype, {rows, config.text.hidden}});
    work.reset();
  }
  TextModel(config, weights, options.dtype).forward(rank, largest_step(options), kv, features);
  return work.peak();
}

// Everything one rank owns. Built, used and destroyed by its own worker thread.
struct Worker {
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Comm> tp, world;
  ShardPlan shard;
  Weights weights;
  std::unique_ptr<KvCache> kv;
  std::unique_ptr<TextModel> text;
  std::unique_ptr<VisionModel> vision;
  Tensor features;  // [encoder_rows, D] A; first stage
  Tensor pixels;    // [max_step_tiles, C, side, side] bf16; first stage
  Arena work;
  View logits;  // of the step just run; last stage

  Rank rank(const Trace* trace) { return {*backend, *tp, *world, shard, work, trace}; }
};

}  // namespace

struct Executor::Impl {
  ModelConfig config;
  ExecutorOptions options;
  std::vector<Worker> workers;
  Trace trace;

  // Worker threads wait here for a job, which every one of them runs once.
  std::mutex mutex;
  std::condition_variable wake, done;
  std::vector<std::thread> threads;
  const std::function<void(Worker&)>* job = nullptr;
  uint64_t round = 0;
  size_t running = 0;
  bool stopping = false;
  std::exception_ptr error;
  bool broken = false;  // a rank failed inside a job with collectives: the group is out of step for good

  void worker_loop(size_t index) {
    uint64_t seen = 0;
    std::unique_lock lock(mutex);
    while (true) {
      wake.wait(lock, [&] { return stopping || round != seen; });
      if (stopping) return;
      seen = round;
      const std::function<void(Worker&)>& run = *job;
      lock.unlock();
      std::exception_ptr failure;
      try {
        run(workers[index]);
      } catch (...) {
        failure = std::current_exception();
        // The first cause is kept; aborting makes the other ranks throw too.
        std::lock_guard guard(mutex);
        if (!error) error = failure;
      }
      if (failure) {
        if (workers[index].tp) workers[index].tp->abort();
        if (workers[index].world) workers[index].world->abort();
      }
      lock.lock();
      if (--running == 0) done.notify_one();
    }
  }

  void on_all_ranks(const std::function<void(Worker&)>& body) {
    if (broken) fail(ErrorKind::device, "the model stopped after an earlier failure");
    std::unique_lock lock(mutex);
    job = &body;
    running = workers.size();
    error = nullptr;
    ++round;
    wake.notify_all();
    done.wait(lock, [&] { return running == 0; });
    job = nullptr;
    if (error) {
      broken = true;
      std::rethrow_exception(error);
    }
  }

  ~Impl() {
    {
      std::lock_guard lock(mutex);
      stopping = true;
    }
    wake.notify_all();
    for (std::thread& t : threads) t.join();
  }

  void build(Worker& w, const WeightSource& source, const std::function<void(uint64_t)>& on_bytes) {
    const TextConfig& text = config.text;
    const WeightPlan plan = plan_weights(config, w.shard, options.dtype, stored_in(source));
    w.weights = source.load(plan, *w.backend, options.dtype, on_bytes);
    w.kv = std::make_unique<KvCache>(*w.backend, text, w.shard, options.dtype, options.kv_pages);
    w.text = std::make_unique<TextModel>(config, w.weights, options.dtype, options.round_robin_experts);
    if (encodes_images(config, options, w.shard)) {
      w.vision = std::make_unique<VisionModel>(config, w.weights, options.dtype);
      w.features = tensor(*w.backend, options.dtype, {options.encoder_rows, text.hidden}, "the encoder cache");
      w.pixels =
          tensor(*w.backend, DType::bf16, pixel_shape(*config.vision, options.max_step_tiles), "the encoder's input");
    }
    w.work = Arena(w.backend->allocate(activation_bytes(config, options, *w.backend, w.shard, plan), "activations"));
  }

  static Tensor tensor(Backend& backend, DType dtype, Shape shape, const char* what) {
    Tensor t;
    t.view = {nullptr, dtype, shape};
    t.buffer = backend.allocate(t.view.bytes(), what);
    t.view.data = t.buffer.data();
    return t;
  }

  void encode(Worker& w, int64_t n_tiles, int64_t feature_row) {
    const int64_t rows = n_tiles * config.vision->tokens_per_tile();
    View out = w.features.view.slice(feature_row, std::min(rows, w.features.view.rows() - feature_row));
    L4_CHECK(out.rows() == rows, "encoder cache of ", w.features.view.rows(), " rows");
    w.work.reset();
    w.vision->encode(w.rank(w.shard.tp_rank == 0 ? &trace : nullptr), w.pixels.view.slice(0, n_tiles), out);
  }

  void forward(const StepPlan& step) {
    L4_CHECK(step.n_rows() > 0 && step.n_rows() <= options.max_step_rows, step.n_rows());
    L4_CHECK(step.n_out() <= options.max_out_rows, step.n_out());
    on_all_ranks([&](Worker& w) {
      w.backend->begin_step(step);
      w.kv->copy_pages(step.page_copies);
      w.work.reset();
      w.logits = w.text->forward(w.rank(w.shard.tp_rank == 0 ? &trace : nullptr), step, *w.kv, w.features.view);
    });
  }

  Worker& last() { return workers[size_t(options.topology.tp * (options.topology.pp - 1))]; }
};

ShardPlan shard_of(const ModelConfig& config, const Topology& topology, int rank) {
  const TextConfig& t = config.text;
  ShardDims dims{t.n_layers, t.n_heads, t.n_kv_heads, t.ffn, t.dense_ffn, t.n_experts, t.vocab, false};
  for (const LayerConfig& layer : t.layers) dims.any_dense |= !layer.moe;
  return make_shard_plan(dims, topology, rank);
}

MemoryPlan plan_memory(const ModelConfig& config, const ExecutorOptions& options, int rank, const StoredDType& stored) {
  const ShardPlan shard = shard_of(config, options.topology, rank);
  MemoryPlan plan;
  const WeightPlan weights = plan_weights(config, shard, options.dtype, stored);
  plan.weights = weight_bytes_by_part(weights, options.dtype);
  for (const PartBytes& part : plan.weights) plan.weight_bytes += part.bytes;
  for (AttentionKind kind : {AttentionKind::chunked, AttentionKind::global})
    plan.kv_bytes += uint64_t(options.kv_pages[int(kind)]) * kv_page_bytes(config.text, shard, options.dtype, kind);
  if (encodes_images(config, options, shard))
    plan.encoder_bytes = uint64_t(options.encoder_rows * config.text.hidden) * dtype_bytes(options.dtype) +
                         View{nullptr, DType::bf16, pixel_shape(*config.vision, options.max_step_tiles)}.bytes();
  plan.activation_bytes = activation_bytes(config, options, *make_cpu_backend(1), shard, weights);
  return plan;
}

Executor::Executor(const ModelConfig& config, const WeightSource& source, const ExecutorOptions& options)
    : impl_(std::make_unique<Impl>()) {
  Impl& im = *impl_;
  im.config = config;
  im.options = options;
  source.check(config);
  const StoredDType stored = stored_in(source);
  const Topology& topology = options.topology;

  int threads = options.cpu_threads > 0 ? options.cpu_threads : int(std::max(1u, std::thread::hardware_concurrency()));
  const int threads_per_rank = std::max(1, threads / topology.world());
  uint64_t needed = 0, total = 0, done = 0;
  auto world = make_thread_comms(topology.world());
  std::vector<std::vector<std::unique_ptr<Comm>>> stages;
  for (int stage = 0; stage < topology.pp; ++stage) stages.push_back(make_thread_comms(topology.tp));
  for (int rank = 0; rank < topology.world(); ++rank) {
    Worker w;
    w.shard = shard_of(config, topology, rank);
    w.backend = make_cpu_backend(threads_per_rank);
    w.tp = topology.tp == 1 ? make_single_comm() : std::move(stages[size_t(w.shard.stage)][size_t(w.shard.tp_rank)]);
    w.world = std::move(world[size_t(rank)]);
    needed += plan_memory(config, options, rank, stored).total();
    total += source_bytes(plan_weights(config, w.shard, options.dtype, stored), stored);
    im.workers.push_back(std::move(w));
  }
  const MemoryInfo memory = im.workers[0].backend->memory();  // all CPU ranks share it
  if (needed > memory.free_bytes)
    fail(ErrorKind::memory, config.source, ": needs ", human_bytes(needed), " of memory (weights, KV cache), ",
         human_bytes(memory.free_bytes), " is free");

  for (size_t i = 0; i < im.workers.size(); ++i) im.threads.emplace_back([&im, i] { im.worker_loop(i); });
  std::mutex progress_mutex;
  auto on_bytes = [&](uint64_t bytes) {
    std::lock_guard lock(progress_mutex);
    done += bytes;
    if (options.on_progress) options.on_progress(done, total);
  };
  im.on_all_ranks([&](Worker& w) { im.build(w, source, on_bytes); });
}

Executor::~Executor() = default;

std::vector<TokenChoice> Executor::step(const StepPlan& step, std::span<const SamplingRow> rows) {
  L4_CHECK(int64_t(rows.size()) == step.n_out());
  impl_->forward(step);
  if (rows.empty()) return {};
  // Here, not on the worker's thread: NaN logits are this step's failure, not the group's.
  Worker& w = impl_->last();
  try {
    return w.backend->sample(w.logits, rows);
  } catch (const Error& e) {
    throw Error(e.kind(), cat(impl_->config.source, ": ", e.message()));
  }
}

std::vector<float> Executor::logits(const StepPlan& step) {
  impl_->forward(step);
  Worker& w = impl_->last();
  std::vector<float> out(size_t(step.n_out() * impl_->config.text.vocab));
  if (!out.empty()) w.backend->download(out.data(), w.logits);
  const int64_t vocab = impl_->config.text.vocab;
  for (int64_t i = 0; i < int64_t(out.size()); ++i)
    if (std::isnan(out[size_t(i)]))
      fail(ErrorKind::internal, impl_->config.source, ": the model's logits at position ",
           step.positions[size_t(step.out_rows[size_t(i / vocab)])], " are NaN");
  return out;
}

void Executor::encode_tiles(std::span<const BFloat16> pixels, int64_t n_tiles, int64_t feature_row) {
  Impl& im = *impl_;
  L4_CHECK(n_tiles > 0 && n_tiles <= im.options.max_step_tiles, n_tiles);
  L4_CHECK(int64_t(pixels.size()) == pixel_shape(*im.config.vision, n_tiles).elements());
  im.on_all_ranks([&](Worker& w) {
    if (!w.vision) return;
    w.backend->upload(w.pixels.view.slice(0, n_tiles), pixels.data());
    im.encode(w, n_tiles, feature_row);
  });
}

int64_t Executor::page_tokens() const {
  return kv_page_tokens(impl_->config.text);
}

void Executor::set_trace(TraceSink sink, std::string suffix) {
  impl_->trace = {std::move(sink), std::move(suffix)};
}

std::string Executor::device_name() const {
  return impl_->workers[0].backend->device_name();
}

std::optional<double> Executor::step_seconds() {
  std::optional<double> longest;
  for (Worker& w : impl_->workers)
    if (const std::optional<double> seconds = w.backend->step_seconds())
      longest = std::max(longest.value_or(0), *seconds);
  return longest;
}

MemoryInfo Executor::memory() const {
  return impl_->workers[0].backend->memory();
}

}  // namespace l4
