#include "engine/executor.h"

#include <algorithm>
#include <cmath>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <numeric>
#include <thread>

#include "engine/decode_rows.h"
#include "model/kv_cache.h"
#include "model/quantization.h"
#include "model/text_model.h"
#include "model/vision_model.h"

namespace l4 {

namespace {

// Steps for measuring scratch; their page tables are never read.
StepPlan step_of(int64_t n_rows, int64_t n_out, bool decode) {
  StepPlan step;
  step.ids.resize(size_t(n_rows));
  step.positions.resize(size_t(n_rows));
  for (KvPlan& kv : step.kv) {
    if (!decode) kv.spans = {{0, int32_t(n_rows), 0, 0}};
    for (int64_t row = 0; decode && row < n_rows; ++row) kv.spans.push_back({int32_t(row), 1, 0, 0});
  }
  step.out_rows.resize(size_t(n_out));
  std::iota(step.out_rows.begin(), step.out_rows.end(), 0);
  return step;
}

// A kernel may take more scratch for a few rows, which it must divide among all multiprocessors, than for many. So one
// prompt and one token of each sequence, of every power of two of rows and of the most there can be.
std::vector<StepPlan> steps_to_measure(const ExecutorOptions& o) {
  std::vector<StepPlan> steps;
  for (int64_t rows = 1; rows < 2 * o.max_step_rows; rows *= 2) {
    const int64_t n = std::min(rows, o.max_step_rows), decoded = std::min(n, o.max_out_rows);
    steps.push_back(step_of(n, std::min(n, o.max_out_rows), false));
    steps.push_back(step_of(decoded, decoded, true));
  }
  return steps;
}

CudaOptions cuda_options(const ModelConfig& config, const ExecutorOptions& o) {
  const int64_t table_pages = o.max_table_pages > 0 ? o.max_table_pages : o.kv_pages[0] + o.kv_pages[1];
  return {.max_rows = o.max_step_rows,
          .max_out_rows = o.max_out_rows,
          .max_table_pages = table_pages,
          .page_tokens = kv_page_tokens(config.text),
          .graphs = o.cuda_graphs,
          .one_launch = o.one_launch,
          .fast_only = o.fast_kernels_only,
          .batch_invariant = o.batch_invariant};
}

// cuBLASLt's workspace, kernels' code, graphs, allocations rounded to 2 MB; with several ranks also NCCL's buffers.
// An estimate: what a program without weights was seen to take, and as much again.
constexpr uint64_t kGpuRuntimeBytes = uint64_t(1280) << 20, kNcclBytes = uint64_t(512) << 20;

Shape pixel_shape(const VisionConfig& v, int64_t n_tiles) {
  return {n_tiles, v.n_channels, v.image_size, v.image_size};
}

bool encodes_images(const ModelConfig& config, const ExecutorOptions& options, const ShardPlan& shard) {
  return config.vision && shard.first_stage() && options.encoder_rows > 0;
}

// Runs the steps to measure and the largest encoder pass on shapes alone: what one rank's arena must hold.
uint64_t activation_bytes(const ModelConfig& config, const ExecutorOptions& options, Backend& backend,
                          const ShardPlan& shard, const WeightPlan& plan) {
  const Weights weights = shapes_of(plan, options.dtype);
  const std::vector<KvScales> scales(has_fixed_kv_scales(config, options) ? size_t(shard.layers.size()) : 0, {1, 1});
  const KvCache kv(backend, config.text, shard, options.kv_type(), {0, 0}, scales);
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
  const TextModel text(config, weights, options.dtype);
  for (const StepPlan& step : steps_to_measure(options)) {
    backend.begin_step(step);
    text.forward(rank, step, kv, features);
    work.reset();
  }
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
  std::vector<MemoryPlan> plans;  // of the ranks
  std::vector<Worker> workers;
  Trace trace;
  StepPlan step;      // the one that was begun; on GPUs a decode step is padded
  int64_t n_out = 0;  // of its outputs, that were asked for
  std::function<void(Worker&)> run_step;

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
    start(body);
    wait();
  }

  // `body` must stay until wait() has returned.
  void start(const std::function<void(Worker&)>& body) {
    if (broken) fail(ErrorKind::device, "the model stopped after an earlier failure");
    std::lock_guard lock(mutex);
    L4_CHECK(running == 0);
    job = &body;
    running = workers.size();
    error = nullptr;
    ++round;
    wake.notify_all();
  }

  void wait() {
    std::unique_lock lock(mutex);
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

  // Backends, after a look at whether everything fits, and communicators of all ranks.
  void start_on_cpu() {
    const Topology& topology = options.topology;
    const int cores = int(std::max(1u, std::thread::hardware_concurrency()));
    const int n_threads = options.cpu_threads > 0 ? options.cpu_threads : cores;
    uint64_t needed = 0;
    for (const MemoryPlan& plan : plans) needed += plan.total();
    for (Worker& w : workers) w.backend = make_cpu_backend(std::max(1, n_threads / topology.world()));
    const MemoryInfo memory = workers[0].backend->memory();  // all CPU ranks share it
    if (needed > memory.free_bytes)
      fail(ErrorKind::memory, config.source, ": needs ", human_bytes(needed), " of memory (weights, KV cache), ",
           human_bytes(memory.free_bytes), " is free");
    connect([](std::span<Backend* const> backends) { return make_thread_comms(int(backends.size())); });
  }

  void start_on_gpus() {
    L4_CHECK(options.gpus.size() == workers.size(), options.gpus.size(), " GPUs, ", workers.size(), " ranks");
    for (size_t rank = 0; rank < workers.size(); ++rank) {
      Worker& w = workers[rank];
      const MemoryPlan& plan = plans[rank];
      w.backend = make_cuda_backend(options.gpus[rank], cuda_options(config, options));
      const uint64_t free_bytes = w.backend->memory().free_bytes;
      if (plan.total() > free_bytes)
        fail(ErrorKind::memory, config.source, ": needs ", human_bytes(plan.total()), " of GPU ", options.gpus[rank],
             "'s memory (weights ", human_bytes(plan.weight_bytes), ", KV cache ", human_bytes(plan.kv_bytes),
             ", activations ", human_bytes(plan.activation_bytes + plan.encoder_bytes), ", libraries ",
             human_bytes(plan.runtime_bytes), "), ", human_bytes(free_bytes), " is free");
    }
    connect(make_cuda_comms);
  }

  // Each stage's ranks among themselves, and all ranks where stages hand over to each other.
  template <class MakeComms>
  void connect(const MakeComms& make_comms) {
    const Topology& topology = options.topology;
    auto group = [&](int begin, int size, std::unique_ptr<Comm> Worker::*member) {
      std::vector<Backend*> backends;
      for (int rank = begin; rank < begin + size; ++rank) backends.push_back(workers[size_t(rank)].backend.get());
      std::vector<std::unique_ptr<Comm>> comms;
      if (size > 1) comms = make_comms(backends);
      for (int rank = begin; rank < begin + size; ++rank)
        workers[size_t(rank)].*member = size > 1 ? std::move(comms[size_t(rank - begin)]) : make_single_comm();
    };
    for (int stage = 0; stage < topology.pp; ++stage) group(stage * topology.tp, topology.tp, &Worker::tp);
    group(0, topology.pp > 1 ? topology.world() : 1, &Worker::world);
    for (Worker& w : workers)
      if (!w.world) w.world = make_single_comm();  // never used
  }

  void build(Worker& w, const WeightSource& source, const std::function<void(uint64_t)>& on_bytes) {
    const TextConfig& text = config.text;
    const WeightPlan plan = plan_weights(config, w.shard, options.dtype, quantized_at_load(source.all_stored(), options.quantize));
    w.weights = source.load(plan, *w.backend, options.dtype, on_bytes);
    std::vector<KvScales> scales;
    if (has_fixed_kv_scales(config, options)) scales = source.kv_scales(w.shard.layers);
    w.kv = std::make_unique<KvCache>(*w.backend, text, w.shard, options.kv_type(), options.kv_pages, scales,
                                     options.kv_one_slab);
    w.text = std::make_unique<TextModel>(config, w.weights, options.dtype, options.round_robin_experts);
    if (encodes_images(config, options, w.shard)) {
      w.vision = std::make_unique<VisionModel>(config, w.weights, options.dtype);
      w.vision->prepare(*w.backend);
      w.features = tensor(*w.backend, options.dtype, {options.encoder_rows, text.hidden}, "the encoder cache");
      w.pixels =
          tensor(*w.backend, DType::bf16, pixel_shape(*config.vision, options.max_step_tiles), "the encoder's input");
    }
    if (&w == &last()) w.backend->prepare_sampling(text.vocab);
    // On the CPU scratch depends on the number of threads, which the plan does not know.
    const uint64_t bytes = options.gpus.empty() ? activation_bytes(config, options, *w.backend, w.shard, plan)
                                                : plans[size_t(w.shard.rank)].activation_bytes;
    w.work = Arena(w.backend->allocate(bytes, "activations"));
  }

  static Tensor tensor(Backend& backend, DType dtype, Shape shape, const char* what) {
    Tensor t;
    t.view = {nullptr, dtype, shape};
    t.buffer = backend.allocate(t.view.bytes(), what);
    t.view.data = t.buffer.data();
    return t;
  }

  // The trace of a rank; every rank has the same results.
  const Trace* traced(const Worker& w) const { return w.shard.tp_rank == 0 ? &trace : nullptr; }

  void encode(std::span<const BFloat16> pixels, int64_t n_tiles, int64_t feature_row) {
    const StepShape shape = StepShape::of_tiles(n_tiles);
    auto issue = [&](Worker& w, const Trace* to) {
      const int64_t rows = n_tiles * config.vision->tokens_per_tile();
      View out = w.features.view.slice(feature_row, std::min(rows, w.features.view.rows() - feature_row));
      L4_CHECK(out.rows() == rows, "encoder cache of ", w.features.view.rows(), " rows");
      w.work.reset();
      w.vision->encode(w.rank(to), w.pixels.view.slice(0, n_tiles), out);
      return View();
    };
    on_all_ranks([&](Worker& w) {
      if (!w.vision) return;
      w.backend->upload(w.pixels.view.slice(0, n_tiles), pixels.data());
      if (workers.size() > 1 && !w.backend->is_prepared(shape)) w.backend->prepare(shape, [&] { return issue(w, nullptr); });
    });
    on_all_ranks([&](Worker& w) {
      if (w.vision) issue(w, traced(w));
    });
  }

  View issue(Worker& w, const Trace* to) {
    w.work.reset();
    return w.text->forward(w.rank(to), step, *w.kv, w.features.view);
  }

  // Each rank's part of a page, and where in the whole page it begins.
  void on_page_parts(AttentionKind kind, int32_t page,
                     const std::function<void(Worker& w, const View& part, size_t offset)>& body) {
    on_all_ranks([&](Worker& w) {
      size_t offset = 0;
      for (const Worker* before = workers.data(); before != &w; ++before)
        offset += before->kv->page(kind, page).bytes();
      if (const View part = w.kv->page(kind, page); part.bytes() > 0) body(w, part, offset);
    });
  }

  void begin(Worker& w) {
    w.backend->begin_step(step);
    w.kv->copy_pages(step.page_copies);
  }

  void begin_step(const StepPlan& plan) {
    L4_CHECK(plan.n_rows() > 0 && plan.n_rows() <= options.max_step_rows, plan.n_rows());
    L4_CHECK(plan.n_out() <= options.max_out_rows, plan.n_out());
    step = plan;
    n_out = plan.n_out();
    // Whether it is recorded or not, so that both give the same bits.
    if (!options.gpus.empty() && !trace.sink)
      pad_decode_step(step, std::min(options.max_step_rows, options.max_out_rows));
    const StepShape shape(step);
    const bool prepare = workers.size() > 1 && !workers[0].backend->is_prepared(shape);
    if (prepare)
      on_all_ranks([&](Worker& w) {
        begin(w);
        w.backend->prepare(shape, [&] { return issue(w, nullptr); });
      });
    run_step = [this, shape, prepare](Worker& w) {
      if (!prepare) begin(w);
      w.logits = w.backend->run_step(shape, [&] { return issue(w, traced(w)); }, bool(trace.sink));
    };
    start(run_step);
  }

  // Nothing of these steps is run, so any page will do.
  void record_ahead() {
    const int64_t most = std::min(options.max_step_rows, options.max_out_rows);
    const int64_t ahead = std::min(options.rows_recorded_ahead, most);
    for (int64_t rows = 1; rows <= ahead; ++rows) {
      if (rows < ahead && padded_decode_rows(rows, most) != rows) continue;
      const int64_t padded = padded_decode_rows(rows, most);
      step = step_of(padded, padded, true);
      for (KvPlan& kv : step.kv) kv.pages = {0};
      on_all_ranks([&](Worker& w) {
        begin(w);
        w.backend->prepare(StepShape(step), [&] { return issue(w, nullptr); });
      });
    }
  }

  Worker& last() { return workers[size_t(options.topology.tp * (options.topology.pp - 1))]; }
};

std::optional<DType> kv_dtype_for(const ModelConfig& config, std::optional<DType> chosen) {
  if (chosen) return chosen;
  const std::optional<Quantization> quantization = read_quantization(config);
  return quantization && quantization->fp8_cache ? std::optional(DType::f8_e4m3) : std::nullopt;
}

bool has_fixed_kv_scales(const ModelConfig& config, const ExecutorOptions& options) {
  if (options.kv_type() != DType::f8_e4m3) return false;
  const std::optional<Quantization> quantization = read_quantization(config);
  return quantization && quantization->cache_scales;
}

int64_t kv_block_pages(const ModelConfig& config, const Topology& topology) {
  int64_t pages = -1;
  for (int rank = 0; rank < topology.world(); ++rank) {
    const auto layers = shard_of(config, topology, rank).layers;
    int64_t n[kNumAttentionKinds] = {0, 0};
    for (int64_t l = layers.begin; l < layers.end; ++l) ++n[size_t(config.text.layers[size_t(l)].attention)];
    const int64_t n_chunked = n[size_t(AttentionKind::chunked)], n_global = n[size_t(AttentionKind::global)];
    if (n_global == 0 || n_chunked == 0 || n_chunked % n_global != 0) return 0;
    if (pages >= 0 && pages != n_chunked / n_global) return 0;
    pages = n_chunked / n_global;
  }
  return pages;
}

ShardPlan shard_of(const ModelConfig& config, const Topology& topology, int rank) {
  const TextConfig& t = config.text;
  ShardDims dims{t.n_layers, t.n_heads, t.n_kv_heads, t.ffn, t.dense_ffn, t.n_experts, t.vocab, false};
  for (const LayerConfig& layer : t.layers) dims.any_dense |= !layer.moe;
  return make_shard_plan(dims, topology, rank);
}

MemoryPlan plan_memory(const ModelConfig& config, const ExecutorOptions& options, int rank, const StoredWeights& stored) {
  const bool on_gpu = !options.gpus.empty();
  const ShardPlan shard = shard_of(config, options.topology, rank);
  MemoryPlan plan;
  const WeightPlan weights = plan_weights(config, shard, options.dtype, quantized_at_load(stored, options.quantize));
  plan.weights = weight_bytes_by_part(weights, options.dtype);
  for (const PartBytes& part : plan.weights) plan.weight_bytes += part.bytes;
  for (AttentionKind kind : {AttentionKind::chunked, AttentionKind::global})
    if (kind == AttentionKind::chunked || !options.kv_one_slab) plan.kv_bytes += uint64_t(options.kv_pages[int(kind)]) *
                     kv_page_bytes(config.text, shard, options.kv_type(), kind, has_fixed_kv_scales(config, options));
  if (encodes_images(config, options, shard))
    plan.encoder_bytes = uint64_t(options.encoder_rows * config.text.hidden) * dtype_bytes(options.dtype) +
                         View{nullptr, DType::bf16, pixel_shape(*config.vision, options.max_step_tiles)}.bytes();
  const auto backend = on_gpu ? make_cuda_backend(kNoCudaDevice, cuda_options(config, options)) : make_cpu_backend(1);
  try {
    plan.activation_bytes = activation_bytes(config, options, *backend, shard, weights);
  } catch (const Error& e) {
    throw Error(e.kind(), cat(config.source, ": ", e.message()));
  }
  if (on_gpu)  // of sampling every rank, for which one does it need not be known here
    plan.runtime_bytes = kGpuRuntimeBytes + (options.topology.world() > 1 ? kNcclBytes : 0) +
                         backend->sampling_bytes(config.text.vocab);
  return plan;
}

Executor::Executor(const ModelConfig& config, const WeightSource& source, const ExecutorOptions& options)
    : impl_(std::make_unique<Impl>()) {
  Impl& im = *impl_;
  im.config = config;
  im.options = options;
  const StoredWeights stored = quantized_at_load(source.all_stored(), options.quantize);
  const Topology& topology = options.topology;

  uint64_t total = 0, done = 0;
  for (int rank = 0; rank < topology.world(); ++rank) {
    Worker w;
    w.shard = shard_of(config, topology, rank);
    im.plans.push_back(plan_memory(config, options, rank, source.all_stored()));
    total += source_bytes(plan_weights(config, w.shard, options.dtype, stored), stored);
    im.workers.push_back(std::move(w));
  }
  options.gpus.empty() ? im.start_on_cpu() : im.start_on_gpus();

  for (size_t i = 0; i < im.workers.size(); ++i) im.threads.emplace_back([&im, i] { im.worker_loop(i); });
  std::mutex progress_mutex;
  auto on_bytes = [&](uint64_t bytes) {
    std::lock_guard lock(progress_mutex);
    done += bytes;
    if (options.on_progress) options.on_progress(done, total);
  };
  im.on_all_ranks([&](Worker& w) { im.build(w, source, on_bytes); });
  if (!options.gpus.empty() && options.cuda_graphs) im.record_ahead();
}

Executor::~Executor() = default;

void Executor::begin_step(const StepPlan& step) {
  impl_->begin_step(step);
}

// Choices are made here, not on the worker's thread: NaN logits are their rows' failure, not the group's.
std::vector<ChosenRow> Executor::end_step(std::span<const SamplingRow> rows) {
  L4_CHECK(int64_t(rows.size()) == impl_->n_out);
  impl_->wait();
  std::vector<ChosenRow> chosen;
  if (rows.empty()) return chosen;
  Worker& w = impl_->last();
  auto named = [&](const Error& e) { return Error(e.kind(), cat(impl_->config.source, ": ", e.message())); };
  auto sample = [&](int64_t first, int64_t n) {
    for (TokenChoice& choice : w.backend->sample(w.logits.slice(first, n), rows.subspan(size_t(first), size_t(n))))
      chosen.push_back({std::move(choice), std::nullopt});
  };
  try {
    sample(0, int64_t(rows.size()));
    return chosen;
  } catch (const Error& e) {
    if (e.kind() != ErrorKind::internal) throw named(e);
  }
  for (int64_t row = 0; row < int64_t(rows.size()); ++row) {  // which of them it is
    try {
      sample(row, 1);
    } catch (const Error& e) {
      if (e.kind() != ErrorKind::internal) throw named(e);
      chosen.push_back({{}, named(e)});
    }
  }
  return chosen;
}

std::vector<float> Executor::end_step_with_logits() {
  impl_->wait();
  const StepPlan& step = impl_->step;
  Worker& w = impl_->last();
  std::vector<float> out(size_t(impl_->n_out * impl_->config.text.vocab));
  if (!out.empty()) w.backend->download(out.data(), w.logits.slice(0, impl_->n_out));
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
  im.encode(pixels, n_tiles, feature_row);
}

int64_t Executor::page_tokens() const {
  return kv_page_tokens(impl_->config.text);
}

int64_t Executor::page_bytes(AttentionKind kind) const {
  int64_t bytes = 0;
  for (const Worker& w : impl_->workers) bytes += w.kv->page(kind, 0).rows();
  return bytes;
}

void Executor::read_page(AttentionKind kind, int32_t page, std::span<std::byte> out) {
  impl_->on_page_parts(
      kind, page, [&](Worker& w, const View& part, size_t offset) { w.backend->download(out.data() + offset, part); });
}

void Executor::write_page(AttentionKind kind, int32_t page, std::span<const std::byte> bytes) {
  impl_->on_page_parts(
      kind, page, [&](Worker& w, const View& part, size_t offset) { w.backend->upload(part, bytes.data() + offset); });
}

void Executor::set_trace(TraceSink sink, std::string suffix) {
  impl_->trace = {std::move(sink), std::move(suffix)};
}

std::string Executor::device_name() const {
  const std::string name = impl_->workers[0].backend->device_name();
  const size_t n_gpus = impl_->options.gpus.size();
  return n_gpus > 1 ? cat(n_gpus, " x ", name) : name;
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
