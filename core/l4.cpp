#include "l4.h"

#include <algorithm>
#include <mutex>
#include <utility>

#include "engine/engine_loop.h"
#include "engine/executor.h"
#include "formats/hf_checkpoint.h"
#include "l4/grammar_constraint.h"
#include "l4/kv_origin.h"
#include "l4/load_plan.h"
#include "l4/text_stream.h"
#include "model/kv_cache.h"
#include "ops/backend.h"

namespace l4 {

Device parse_device(std::string_view name) {
  if (name == "auto") return Device::automatic;
  if (name == "cpu") return Device::cpu;
  if (name == "cuda") return Device::cuda;
  fail(ErrorKind::usage, "device must be auto, cpu or cuda, not ", shown(name));
}

std::optional<DType> parse_dtype_option(std::string_view name) {
  if (name == "auto") return std::nullopt;
  if (name == "float32") return DType::f32;
  if (name == "bfloat16") return DType::bf16;
  fail(ErrorKind::usage, "dtype must be auto, float32 or bfloat16, not ", shown(name));
}

std::optional<DType> parse_kv_dtype_option(std::string_view name) {
  if (name == "auto") return std::nullopt;
  if (name == "bf16" || name == "bfloat16") return DType::bf16;
  if (name == "fp8" || name == "fp8_e4m3") return DType::f8_e4m3;
  fail(ErrorKind::usage, "KV cache dtype must be auto, bf16 or fp8, not ", shown(name));
}

bool parse_fp8_option(std::string_view name) {
  if (name == "auto") return false;
  if (name == "fp8") return true;
  fail(ErrorKind::usage, "expected auto or fp8, not ", shown(name));
}

const char* dtype_option_name(DType dtype) {
  return dtype == DType::f32 ? "float32" : dtype == DType::f8_e4m3 ? "fp8" : "bfloat16";
}

// ---- Generation -----------------------------------------------------------------------------------------------------

struct Generation::Impl {
  TextStream stream;
};

Generation::Generation() = default;
Generation::Generation(Generation&&) noexcept = default;
Generation& Generation::operator=(Generation&&) noexcept = default;
Generation::~Generation() = default;

std::optional<GenerationEvent> Generation::next() {
  return impl_ ? impl_->stream.next(std::nullopt) : std::nullopt;
}

std::optional<GenerationEvent> Generation::next(std::chrono::milliseconds timeout) {
  return impl_ ? impl_->stream.next(std::chrono::steady_clock::now() + timeout) : std::nullopt;
}

bool Generation::done() const {
  return !impl_ || impl_->stream.done();
}

void Generation::cancel() {
  if (impl_) impl_->stream.cancel();
}

// ---- Engine ---------------------------------------------------------------------------------------------------------

namespace {
// Of the host, or of the GPU that has the least.
uint64_t free_memory(const std::vector<int>& gpus) {
  if (gpus.empty()) return make_cpu_backend(1)->memory().free_bytes;
  uint64_t least = UINT64_MAX;
  for (int gpu : gpus) least = std::min(least, make_cuda_backend(gpu, {})->memory().free_bytes);
  return least;
}
}  // namespace

struct Engine::Impl {
  std::shared_ptr<const Frontend> frontend;
  LoadPlan plan;
  std::string device;
  std::unique_ptr<EngineLoop> loop;

  fs::path model_dir;
  std::mutex origin_mutex;
  std::optional<KvOrigin> known_origin;  // once somebody has asked: it takes a look at every tensor
  KvOrigin origin() {
    std::lock_guard lock(origin_mutex);
    if (!known_origin) known_origin = kv_origin(model_dir, frontend->config(), plan.executor);
    return *known_origin;
  }
};

Engine::Engine() : impl_(std::make_unique<Impl>()) {}
Engine::~Engine() = default;

std::unique_ptr<Engine> Engine::load(const LoadOptions& options) {
  LoadOptions placed = options;
  placed.gpus = choose_gpus(options, list_cuda_devices());
  std::unique_ptr<Engine> engine(new Engine);
  Impl& im = *engine->impl_;
  im.frontend =
      options.frontend ? options.frontend : Frontend::load(options.model_dir, options.chat_template, options.ids_only);
  im.model_dir = options.model_dir;
  const ModelConfig& config = im.frontend->config();
  const int64_t image_tiles = largest_image_tiles(options.model_dir, config);

  const HfCheckpoint checkpoint(options.model_dir);
  const CheckpointWeights weights(config, checkpoint);
  im.plan = plan_load(placed, config, image_tiles, weights.all_stored(), free_memory(placed.gpus));
  auto executor = std::make_unique<Executor>(config, weights, im.plan.executor);
  im.device = executor->device_name();
  if (options.on_activation) executor->set_trace(options.on_activation);
  EngineOptions serving;
  serving.prefix_cache = options.prefix_cache;
  serving.ngram_drafts = options.ngram_speculation;
  serving.step_limit_s = options.step_limit_s;
  serving.on_stall = options.on_stall;
  im.loop = std::make_unique<EngineLoop>(std::move(executor), im.plan.limits, serving);
  return engine;
}

const Frontend& Engine::frontend() const {
  return *impl_->frontend;
}

const ModelConfig& Engine::config() const {
  return impl_->frontend->config();
}

int64_t Engine::max_context() const {
  return impl_->plan.limits.max_context;
}

int64_t Engine::concurrent_sequences(int64_t n_tokens) const {
  return sequences_that_fit(impl_->plan.limits, kv_page_tokens(config().text), n_tokens);
}

std::string Engine::device() const {
  return impl_->device;
}

std::string Engine::summary() const {
  uint64_t weights = 0, kv = 0;
  for (const MemoryPlan& rank : impl_->plan.ranks) {
    weights += rank.weight_bytes;
    kv += rank.kv_bytes;
  }
  const ExecutorOptions& e = impl_->plan.executor;
  const int n_ranks = e.topology.world();
  return cat(impl_->device, n_ranks > 1 ? cat(" (", n_ranks, " ranks)") : "", ", ", dtype_option_name(e.dtype),
             ", weights ", human_bytes(weights), ", KV cache ", human_bytes(kv),
             e.kv_type() == e.dtype ? "" : cat(" (", dtype_option_name(e.kv_type()), ")"), ", context ",
             human_count(uint64_t(max_context())), " tokens");
}

namespace {
Request request_of(Prompt prompt, const GenerationOptions& options) {
  Request request;
  request.ids = std::move(prompt.ids);
  request.images = std::move(prompt.images);
  request.sampling = options.sampling;
  request.max_tokens = options.max_tokens;
  request.min_tokens = options.min_tokens;
  request.ignore_eos = options.ignore_eos;
  request.stop_ids = options.stop_ids;
  request.logit_bias = options.logit_bias;
  request.prompt_logprobs = options.prompt_logprobs;
  request.priority = options.priority;
  request.cache_salt = options.cache_salt;
  if (options.grammar) request.constraint = std::make_shared<GrammarConstraint>(options.grammar);
  return request;
}
}  // namespace

Generation Engine::start(Prompt prompt, const GenerationOptions& options, std::function<void()> wake) {
  return std::move(start(std::move(prompt), options, 1, std::move(wake)).front());
}

std::vector<Generation> Engine::start(Prompt prompt, const GenerationOptions& options, int n,
                                      std::function<void()> wake) {
  if (n < 1) fail(ErrorKind::usage, "n must be 1 or more, not ", n);
  if (!options.stop.empty()) impl_->frontend->tokenizer();  // without one no text can be found
  std::vector<Generation> generations;
  for (RequestHandle& handle : impl_->loop->submit(request_of(std::move(prompt), options), n, std::move(wake))) {
    generations.emplace_back();
    generations.back().impl_.reset(
        new Generation::Impl{TextStream(std::move(handle), impl_->frontend, options)});
  }
  return generations;
}

int64_t Engine::save_prompt(const Prompt& prompt, const fs::path& file, const std::string& cache_salt) {
  return impl_->loop->save_prompt(prompt.ids, prompt.images, cache_salt, file, impl_->origin());
}

int64_t Engine::load_prompt(const fs::path& file, const std::string& cache_salt) {
  return impl_->loop->load_prompt(file, impl_->origin(), cache_salt);
}

EngineStats Engine::stats() const {
  return impl_->loop->stats();
}

void Engine::logits(Prompt prompt, const std::function<void(int64_t first, std::span<const float> rows)>& on_rows) {
  impl_->loop->logits(std::move(prompt.ids), std::move(prompt.images), on_rows);
}

}  // namespace l4
