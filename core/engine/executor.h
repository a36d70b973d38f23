// Runs the model on all ranks: one worker thread a rank, each with its backend, communicator, weights and KV cache.
// Everything above sees one device that takes a StepPlan and gives tokens or logits.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "dist/topology.h"
#include "engine/step_runner.h"
#include "model/config.h"
#include "model/rank.h"
#include "model/weight_source.h"

namespace l4 {

struct ExecutorOptions {
  Topology topology;
  DType dtype = DType::bf16;                      // activations: bf16, or f32 (--dtype float32)
  QuantizeAtLoad quantize;
  std::optional<DType> kv_dtype;                  // K and V in pages: bf16 or f8_e4m3; nothing: as activations
  std::vector<int> gpus;                          // CUDA device of each rank; empty: all ranks on the CPU backend
  bool cuda_graphs = true;                        // record decode steps and replay them
  int cpu_threads = 0;                            // of the CPU backend, all ranks together; 0: one per core
  int64_t kv_pages[kNumAttentionKinds] = {0, 0};  // pages of each kind
  bool kv_one_slab = false;                       // both kinds in the same memory: see kv_block_pages()
  int64_t max_table_pages = 0;                    // of all page tables of a step together; 0: all kv_pages
  int64_t max_step_rows = 0;                      // rows of the largest step
  int64_t max_out_rows = 0;                       // of which with logits
  int64_t max_step_tiles = 0;                     // tiles encoded at once
  int64_t encoder_rows = 0;                       // rows of the encoder cache (image features waiting to be used)
  bool round_robin_experts = false;               // for measuring: see Backend
  int64_t rows_recorded_ahead = 0;                // on GPUs: decode steps of up to so many rows, when loaded
  bool batch_invariant = false;                   // on GPUs (CudaOptions); asks for max_step_tiles 1
  bool one_launch = true;                         // for measuring: CudaOptions
  bool fast_kernels_only = false;                 // for measuring: Error{unsupported} where a GPU would use generic ones
  // From the loading threads, now and then; calls do not overlap.
  std::function<void(uint64_t bytes_done, uint64_t bytes_total)> on_progress;

  DType kv_type() const { return kv_dtype.value_or(dtype); }
};
// ExecutorOptions::kv_dtype for who has `chosen` one, or none: then FP8 where config.json asks for it.
std::optional<DType> kv_dtype_for(const ModelConfig& config, std::optional<DType> chosen);
// Keys and values are kept in FP8 with the scales that the checkpoint has for them.
bool has_fixed_kv_scales(const ModelConfig& config, const ExecutorOptions& options);

// How many global pages are as large as a chunked one, on every rank: then both may lie in one slab (BlockPool). 0: it is
// no whole number, or not everywhere the same.
int64_t kv_block_pages(const ModelConfig& config, const Topology& topology);

class Executor : public StepRunner {
 public:
  // Checks that everything fits (Error{memory} before anything is read), then loads. A failure on any rank fails the load.
  Executor(const ModelConfig& config, const WeightSource& source, const ExecutorOptions& options);
  Executor(const ModelConfig& config, const HfCheckpoint& checkpoint, const ExecutorOptions& options)
      : Executor(config, CheckpointWeights(config, checkpoint), options) {}
  ~Executor() override;
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  void begin_step(const StepPlan& step) override;
  std::vector<ChosenRow> end_step(std::span<const SamplingRow> rows) override;
  std::vector<float> end_step_with_logits() override;
  void encode_tiles(std::span<const BFloat16> pixels, int64_t n_tiles, int64_t feature_row) override;
  int64_t page_tokens() const override;
  int64_t page_bytes(AttentionKind kind) const override;
  void read_page(AttentionKind kind, int32_t page, std::span<std::byte> out) override;
  void write_page(AttentionKind kind, int32_t page, std::span<const std::byte> bytes) override;

  // Activations of the following steps whose names end so, from the first rank of each stage; an empty function: off.
  // Steps are not replayed meanwhile.
  void set_trace(TraceSink sink, std::string suffix = "");

  std::string device_name() const;
  // Of the step that was just ended: the longest of the ranks' Backend::step_seconds().
  std::optional<double> step_seconds();
  MemoryInfo memory() const;  // of the first rank's device

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Bytes of one rank, computed before anything is loaded and without a device. Error{unsupported}: the device it is for
// cannot do what the options ask.
struct MemoryPlan {
  std::vector<PartBytes> weights;
  uint64_t weight_bytes = 0, kv_bytes = 0;
  uint64_t encoder_bytes = 0;     // the encoder cache and its input
  uint64_t activation_bytes = 0;  // of the largest step, as its backend takes them
  uint64_t runtime_bytes = 0;     // on GPUs, about: what libraries, graphs, sampling and rounding to pages take
  uint64_t total() const { return weight_bytes + kv_bytes + encoder_bytes + activation_bytes + runtime_bytes; }
};
MemoryPlan plan_memory(const ModelConfig& config, const ExecutorOptions& options, int rank, const StoredWeights& stored);
ShardPlan shard_of(const ModelConfig& config, const Topology& topology, int rank);

}  // namespace l4
