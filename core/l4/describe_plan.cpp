// describe_plan(): the memory of a model that need not be there.
#include <algorithm>
#include <numeric>

#include "dist/shard_plan.h"
#include "l4/load_plan.h"
#include "model/kv_cache.h"
#include "model/check_tensors.h"
#include "model/quantization.h"
#include "model/tensor_names.h"
#include "ops/backend.h"

namespace l4 {

namespace {

std::string padded(std::string text, size_t width) {
  if (text.size() < width) text.insert(0, width - text.size(), ' ');
  return text;
}

std::string line(std::string label, const std::vector<std::string>& columns) {
  label.resize(std::max<size_t>(label.size(), 24), ' ');
  for (const std::string& column : columns) label += padded(column, 14);
  return label + "\n";
}

// Memory as nvidia-smi gives it (llama4-spec 7), less what activations, libraries and graphs take.
struct Gpu {
  const char* name;
  uint64_t memory_bytes;
};
constexpr Gpu kGpus[] = {{"H100", uint64_t(81559) << 20}, {"H200", uint64_t(143771) << 20}};
constexpr uint64_t kUsablePercent = 90;
constexpr uint64_t kFreePercent = 99;  // where the plan counts those: what the driver leaves

bool same(const MemoryPlan& a, const MemoryPlan& b) {
  return a.weight_bytes == b.weight_bytes && a.kv_bytes == b.kv_bytes && a.encoder_bytes == b.encoder_bytes &&
         a.activation_bytes == b.activation_bytes;
}

// Ranks that need the same are one column.
struct Column {
  int first, last;
  const MemoryPlan* plan;
  std::string title() const { return first == last ? cat("rank ", first) : cat("ranks ", first, "-", last); }
};

std::vector<Column> columns_of(const std::vector<MemoryPlan>& ranks) {
  std::vector<Column> columns;
  for (int rank = 0; rank < int(ranks.size()); ++rank) {
    if (!columns.empty() && same(*columns.back().plan, ranks[size_t(rank)]))
      columns.back().last = rank;
    else
      columns.push_back({rank, rank, &ranks[size_t(rank)]});
  }
  return columns;
}

uint64_t part_bytes(const MemoryPlan& plan, const std::string& part) {
  for (const PartBytes& p : plan.weights)
    if (p.part == part) return p.bytes;
  return 0;
}

// Bytes of one more token (global layers) and of a token within the current chunk (chunked layers), all ranks together.
uint64_t kv_token_bytes(const LoadPlan& plan, const ModelConfig& config, AttentionKind kind) {
  uint64_t bytes = 0;
  for (int rank = 0; rank < plan.executor.topology.world(); ++rank)
    bytes += kv_page_bytes(config.text, shard_of(config, plan.executor.topology, rank), plan.executor.kv_type(), kind,
                           has_fixed_kv_scales(config, plan.executor));
  return bytes / uint64_t(kv_page_tokens(config.text));
}

// How a quantised checkpoint's weights are stored, which only its tensors say; nothing of an unquantised one, for whose plan the
// config is enough.
StoredMap tensors_of(const fs::path& dir, const ModelConfig& config) {
  if (!read_quantization(config)) return {};
  return check_tensors(config, HfCheckpoint(dir));
}

// asked_by_config: the cache's type is neither the user's choice nor that of the activations.
std::string model_lines(const ModelConfig& config, const LoadPlan& plan, bool asked_by_config) {
  const TextConfig& t = config.text;
  const int64_t n_chunked = config.n_layers_of(AttentionKind::chunked);
  std::string text = cat(config.source, "\n");
  text += cat("  ", human_count(uint64_t(parameter_count(expected_tensors(config)))), " parameters; ", t.n_layers,
              " layers (", n_chunked, " chunked", t.attention_chunk ? cat(" by ", t.attention_chunk) : "", ", ",
              t.n_layers - n_chunked, " global), ", t.n_experts, " experts, ", t.n_experts_per_token, " a token",
              config.vision ? ", images" : "", "\n");
  text += cat("  computed in ", dtype_option_name(plan.executor.dtype), ", K and V kept in ",
              dtype_option_name(plan.executor.kv_type()), has_fixed_kv_scales(config, plan.executor) ? " with the checkpoint's scales" : "",
              asked_by_config ? " (as its config asks; --kv-cache-dtype bf16 keeps them in bfloat16)" : "", "\n");
  return text;
}

}  // namespace

std::string describe_plan(const LoadOptions& asked) {
  // The GPUs need not be there, but the kernels, which say how much scratch they take.
  const CudaDevices cuda = list_cuda_devices();
  const bool any_gpu = std::any_of(cuda.devices.begin(), cuda.devices.end(), [](auto& d) { return d.usable(); });
  LoadOptions on_cpu = asked, on_gpus = asked;
  on_cpu.gpus.clear();
  if (cuda.built && on_gpus.gpus.empty()) {
    on_gpus.gpus.resize(size_t(asked.topology.world()));
    std::iota(on_gpus.gpus.begin(), on_gpus.gpus.end(), 0);
  }
  const bool want_gpus = asked.device == Device::cuda || (asked.device == Device::automatic && any_gpu);
  const LoadOptions& options = want_gpus ? on_gpus : on_cpu;
  const ModelConfig config = load_model_config(options.model_dir);
  const int64_t max_image_tiles = largest_image_tiles(options.model_dir, config);
  const StoredMap tensors = tensors_of(options.model_dir, config);
  const DType stored_type = config.weights_dtype == "float32" ? DType::f32 : DType::bf16;
  const StoredWeights stored = [&](const std::string& name) {
    const auto found = tensors.find(name);
    return found == tensors.end() ? StoredWeight(stored_type) : found->second;
  };

  // The context: what was asked for, or the model's, whatever this machine has.
  const LoadPlan plan = plan_load(options, config, max_image_tiles, stored, std::nullopt);
  const std::vector<Column> columns = columns_of(plan.ranks);
  const size_t n_ranks = plan.ranks.size();
  auto row = [&](const std::string& label, auto bytes_of) {
    std::vector<std::string> cells;
    uint64_t sum = 0;
    for (const Column& column : columns) cells.push_back(human_bytes(bytes_of(*column.plan)));
    for (const MemoryPlan& rank : plan.ranks) sum += bytes_of(rank);
    if (n_ranks > 1) cells.push_back(human_bytes(sum));
    return line(label, cells);
  };

  std::string text = model_lines(config, plan, !asked.kv_dtype && plan.executor.kv_dtype);
  std::vector<std::string> titles;
  for (const Column& column : columns) titles.push_back(column.title());
  if (n_ranks > 1) titles.push_back("together");
  text += line("", titles);
  std::vector<std::string> parts;
  for (const MemoryPlan& rank : plan.ranks)
    for (const PartBytes& part : rank.weights)
      if (std::find(parts.begin(), parts.end(), part.part) == parts.end()) parts.push_back(part.part);
  for (const std::string& part : parts) text += row(part, [&](const MemoryPlan& m) { return part_bytes(m, part); });
  text += row("weights", [](const MemoryPlan& m) { return m.weight_bytes; });
  text += row("KV cache", [](const MemoryPlan& m) { return m.kv_bytes; });
  if (config.vision) text += row("image features", [](const MemoryPlan& m) { return m.encoder_bytes; });
  text += row("activations", [](const MemoryPlan& m) { return m.activation_bytes; });
  if (!options.gpus.empty()) text += row("libraries, graphs", [](const MemoryPlan& m) { return m.runtime_bytes; });
  text += row("total", [](const MemoryPlan& m) { return m.total(); });

  const uint64_t global = kv_token_bytes(plan, config, AttentionKind::global);
  const uint64_t chunked = kv_token_bytes(plan, config, AttentionKind::chunked);
  text += cat("KV cache: for a context of ", human_count(uint64_t(plan.limits.max_context)), " tokens; a token takes ",
              human_bytes(global + chunked), ", of which ", human_bytes(global), " stay when its chunk has ended\n");

  auto room = [&](const std::string& where, const LoadOptions& place, const MemoryBudget& budget) {
    try {
      const int64_t fits = context_that_fits(place, config, max_image_tiles, stored, budget, config.text.max_positions);
      text += cat(where, ": ",
                  fits == 0 ? "too little for the weights"
                            : cat("room for a context of ", human_count(uint64_t(fits)), " tokens"),
                  "\n");
    } catch (const Error& e) {  // a device other than the one planned for, which cannot do all that it can
      if (e.kind() != ErrorKind::unsupported) throw;
      text += cat(where, ": ", e.message(), "\n");
    }
  };
  const uint64_t free_bytes = make_cpu_backend(1)->memory().free_bytes;
  room(cat("this machine's memory, ", human_bytes(free_bytes), " free"), on_cpu, {free_bytes});
  for (const Gpu& gpu : kGpus) {
    const uint64_t bytes = gpu.memory_bytes / 100 * (cuda.built ? kFreePercent : kUsablePercent);
    room(cat("one ", gpu.name, " a rank, ", human_bytes(bytes), " of it used"), on_gpus, {bytes, true});
  }
  return text;
}

}  // namespace l4
