#include "l4/load_plan.h"

#include <algorithm>

#include "engine/sequence.h"
#include "model/kv_cache.h"

namespace l4 {

namespace {

constexpr int64_t kCpuBatchTokens = 512, kGpuBatchTokens = 8192;
constexpr int64_t kCpuSequences = 16, kGpuSequences = 256;
constexpr int64_t kCpuStepTiles = 4, kGpuStepTiles = 8;  // encoded at once
constexpr int kMaxThreads = 1024;
constexpr int64_t kLogitsBytes = int64_t(256) << 20;  // of one step on the host, decides max_out_rows

DType activation_type(const LoadOptions& options, const ModelConfig& config) {
  if (options.dtype) return *options.dtype;
  return config.weights_dtype == "float32" ? DType::f32 : DType::bf16;
}

// Everything but the context.
LoadPlan base_plan(const LoadOptions& options, const ModelConfig& config, int64_t max_image_tiles) {
  LoadPlan plan;
  ExecutorOptions& e = plan.executor;
  e.topology = options.topology;
  e.dtype = activation_type(options, config);
  e.quantize = {.attention = options.fp8_attention, .head = options.fp8_head};
  e.kv_dtype = kv_dtype_for(config, options.kv_dtype);
  e.gpus = options.gpus;
  e.cuda_graphs = options.cuda_graphs;
  e.batch_invariant = options.batch_invariant;
  e.cpu_threads = options.threads;
  e.on_progress = options.on_progress;

  EngineLimits& l = plan.limits;
  l.vocab = config.text.vocab;
  l.attention_chunk = config.text.attention_chunk;
  l.eos_ids = config.generation.eos_ids.empty() ? config.eos_ids : config.generation.eos_ids;
  if (config.vision) {
    const VisionConfig& v = *config.vision;
    l.image_token_id = config.image_token_id;
    l.tokens_per_tile = v.tokens_per_tile();
    l.tile_elements = v.n_channels * v.image_size * v.image_size;
    const int64_t tiles = options.max_image_tiles > 0 ? options.max_image_tiles : max_image_tiles;
    e.encoder_rows = l.encoder_rows = tiles * l.tokens_per_tile;
    // The vision tower's products on GPUs are invariant in no other way.
    const int64_t at_once = e.gpus.empty() ? kCpuStepTiles : e.batch_invariant ? 1 : kGpuStepTiles;
    e.max_step_tiles = l.max_step_tiles = std::min(tiles, at_once);
  }
  return plan;
}

constexpr int64_t kAllPages = 1024;
constexpr int64_t kTablePages = 1 << 18;  // of a step, where one sequence does not need more: a megabyte

// What one sequence of the longest context needs, and of what the others would need `share` of kAllPages.
void set_pages(LoadPlan& plan, const ModelConfig& config, int64_t share) {
  ExecutorOptions& e = plan.executor;
  EngineLimits& l = plan.limits;
  const PageCounts one =
      kv_pages_needed(l.max_context, l.max_step_rows, kv_page_tokens(config.text), l.attention_chunk);
  l.max_table_pages = e.max_table_pages =
      std::min(l.max_sequences * (one[0] + one[1]), std::max(one[0] + one[1], kTablePages));
  l.kv_pages = one;
  for (int64_t& pages : l.kv_pages) pages += pages * (l.max_sequences - 1) * share / kAllPages;
  l.kv_block_pages = kv_block_pages(config, e.topology);
  e.kv_one_slab = l.kv_block_pages > 0;
  if (e.kv_one_slab) {
    int64_t &chunked = l.kv_pages[size_t(AttentionKind::chunked)], &global = l.kv_pages[size_t(AttentionKind::global)];
    chunked += (global + l.kv_block_pages - 1) / l.kv_block_pages;
    global = chunked * l.kv_block_pages;
  }
  for (size_t kind = 0; kind < l.kv_pages.size(); ++kind) e.kv_pages[kind] = l.kv_pages[kind];
}

void set_context(LoadPlan& plan, const LoadOptions& options, const ModelConfig& config, int64_t context) {
  ExecutorOptions& e = plan.executor;
  EngineLimits& l = plan.limits;
  l.max_context = context;
  const int64_t batch_tokens = e.gpus.empty() ? kCpuBatchTokens : kGpuBatchTokens;
  l.max_step_rows = std::min(context, options.batch_tokens > 0 ? options.batch_tokens : batch_tokens);
  l.max_out_rows = std::clamp(kLogitsBytes / (l.vocab * int64_t(sizeof(float))), int64_t(1), l.max_step_rows);
  const int64_t sequences = e.gpus.empty() ? kCpuSequences : kGpuSequences;
  l.max_sequences =
      std::min({options.max_num_seqs > 0 ? options.max_num_seqs : sequences, l.max_step_rows, l.max_out_rows});
  e.max_step_rows = l.max_step_rows;
  e.max_out_rows = l.max_out_rows;
  e.rows_recorded_ahead = options.record_ahead ? l.max_sequences : 0;
  set_pages(plan, config, 0);
}

void count_memory(LoadPlan& plan, const ModelConfig& config, const StoredWeights& stored) {
  plan.ranks.clear();
  for (int rank = 0; rank < plan.executor.topology.world(); ++rank)
    plan.ranks.push_back(plan_memory(config, plan.executor, rank, stored));
}

void check_options(const LoadOptions& options, const ModelConfig& config) {
  auto refuse_negative = [](const char* what, int64_t value) {
    if (value < 0) fail(ErrorKind::usage, what, " must be 0 (chosen for you) or more, not ", value);
  };
  refuse_negative("context", options.max_context);
  refuse_negative("batch tokens", options.batch_tokens);
  refuse_negative("sequences", options.max_num_seqs);
  refuse_negative("drafts", options.ngram_speculation);
  if (!(options.step_limit_s >= 0)) fail(ErrorKind::usage, "a step's time limit must be 0 (none) or more seconds");
  refuse_negative("image tiles", options.max_image_tiles);
  refuse_negative("threads", options.threads);
  if (options.threads > kMaxThreads)
    fail(ErrorKind::usage, "threads must be at most ", kMaxThreads, ", not ", options.threads);
  if (options.dtype && *options.dtype != DType::f32 && *options.dtype != DType::bf16)
    fail(ErrorKind::usage, "dtype must be float32 or bfloat16");
  if (options.kv_dtype && *options.kv_dtype != DType::bf16 && *options.kv_dtype != DType::f8_e4m3)
    fail(ErrorKind::usage, "KV cache dtype must be bf16 or fp8");
  if (options.max_context > config.text.max_positions)
    fail(ErrorKind::usage, "a context of ", options.max_context, " tokens is longer than the ",
         config.text.max_positions, " of ", config.source);
}

}  // namespace

uint64_t LoadPlan::needed_bytes() const {
  uint64_t sum = 0, most = 0;
  for (const MemoryPlan& rank : ranks) sum += rank.total(), most = std::max(most, rank.total());
  return executor.gpus.empty() ? sum : most;
}

bool LoadPlan::fits(const MemoryBudget& budget) const {
  if (!budget.per_rank) return needed_bytes() <= budget.bytes;
  return std::all_of(ranks.begin(), ranks.end(), [&](const MemoryPlan& rank) { return rank.total() <= budget.bytes; });
}

std::vector<int> choose_gpus(const LoadOptions& options, const CudaDevices& found) {
  if (options.device == Device::cpu) return {};
  const size_t n_ranks = size_t(options.topology.world());
  std::vector<int> usable = options.gpus;
  for (const CudaDevice& device : found.devices)
    if (options.gpus.empty() && device.usable()) usable.push_back(device.index);
  if (usable.empty()) {
    if (options.device == Device::automatic) return {};
    if (!found.built) fail(ErrorKind::unsupported, "--device cuda: this build has no CUDA backend");
    const CudaDevice* old = found.devices.empty() ? nullptr : &found.devices[0];
    fail(ErrorKind::device, "--device cuda: ",
         old ? cat(old->name, " has compute capability ", old->major, ".", old->minor, ", 9.0 (H100, H200) is needed")
             : found.problem);
  }
  if (usable.size() < n_ranks)
    fail(ErrorKind::device, n_ranks, " ranks (-tp, -pp) need as many GPUs, ", usable.size(),
         usable.size() == 1 ? " is" : " are", " there; --device cpu runs them on the CPU");
  usable.resize(n_ranks);
  return usable;
}

int64_t largest_image_tiles(const fs::path& model_dir, const ModelConfig& config) {
  return config.vision ? load_tiling_config(model_dir, config.vision->image_size).max_tiles + 1 : 0;
}

int64_t context_that_fits(const LoadOptions& options, const ModelConfig& config, int64_t max_image_tiles,
                          const StoredWeights& stored, const MemoryBudget& budget, int64_t max_context) {
  LoadPlan plan = base_plan(options, config, max_image_tiles);
  auto fits = [&](int64_t context) {
    set_context(plan, options, config, context);
    count_memory(plan, config, stored);
    return plan.fits(budget);
  };
  if (fits(max_context)) return max_context;
  int64_t fitting = 0, too_much = max_context;
  while (too_much - fitting > 1) {
    const int64_t middle = fitting + (too_much - fitting) / 2;
    (fits(middle) ? fitting : too_much) = middle;
  }
  const int64_t page = kv_page_tokens(config.text);
  return fitting > page ? fitting / page * page : fitting;
}

LoadPlan plan_load(const LoadOptions& options, const ModelConfig& config, int64_t max_image_tiles,
                   const StoredWeights& stored, std::optional<uint64_t> free_bytes) {
  check_options(options, config);
  LoadPlan plan = base_plan(options, config, max_image_tiles);
  const int64_t wanted = options.max_context > 0 ? options.max_context : config.text.max_positions;
  set_context(plan, options, config, 1);
  count_memory(plan, config, stored);
  const uint64_t least = plan.needed_bytes();
  const bool on_gpus = !options.gpus.empty();
  const char* of_memory = on_gpus ? " of each GPU's memory, " : " of memory, ";
  if (free_bytes && least > *free_bytes)
    fail(ErrorKind::memory, config.source, ": the weights need ", human_bytes(least), of_memory,
         human_bytes(*free_bytes), " is free", on_gpus ? " (-tp N splits them over N GPUs)" : "");

  int64_t context = wanted;
  MemoryBudget budget{0, on_gpus};
  if (free_bytes) budget.bytes = least + (*free_bytes - least) / (on_gpus ? 20 : 2) * (on_gpus ? 19 : 1);
  if (free_bytes && options.max_context == 0)
    context = context_that_fits(options, config, max_image_tiles, stored, budget, wanted);
  set_context(plan, options, config, context);
  count_memory(plan, config, stored);
  if (options.kv_fills_memory) {
    auto fits = [&](int64_t share) {
      set_pages(plan, config, share);
      count_memory(plan, config, stored);
      return !free_bytes || plan.fits(budget);
    };
    int64_t fitting = 0, too_much = kAllPages + 1;
    while (too_much - fitting > 1) {
      const int64_t middle = fitting + (too_much - fitting) / 2;
      (fits(middle) ? fitting : too_much) = middle;
    }
    fits(fitting);
  }
  if (free_bytes && plan.needed_bytes() > *free_bytes)
    fail(ErrorKind::memory, config.source, ": a context of ", context, " tokens needs ",
         human_bytes(plan.needed_bytes()), of_memory, human_bytes(*free_bytes),
         " is free: ", context_that_fits(options, config, max_image_tiles, stored, {*free_bytes, on_gpus}, context),
         " tokens would fit");
  return plan;
}

int64_t sequences_that_fit(const EngineLimits& limits, int64_t page_tokens, int64_t n_tokens) {
  const auto pages = [&](int64_t n) { return std::max<int64_t>(1, (n + page_tokens - 1) / page_tokens); };
  const int64_t chunk = limits.attention_chunk > 0 ? limits.attention_chunk : n_tokens;
  const int64_t chunked = pages(std::min(n_tokens, chunk)), global = pages(n_tokens);
  const int64_t block = limits.kv_block_pages;
  const int64_t all_chunked = limits.kv_pages[size_t(AttentionKind::chunked)];
  const int64_t all_global = limits.kv_pages[size_t(AttentionKind::global)];
  const int64_t fit =
      block > 0 ? all_global / (chunked * block + global) : std::min(all_chunked / chunked, all_global / global);
  return std::min(fit, limits.max_sequences);
}

}  // namespace l4
