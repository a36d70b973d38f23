// Runs the model on all ranks: one worker thread a rank, each with its backend, communicator, weights and KV cache.
// Everything above sees one device that takes a StepPlan and gives tokens or logits.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "dist/topology.h"
#include "engine/step_runner.h"
#include "formats/hf_checkpoint.h"
#include "model/config.h"
#include "ops/sampling.h"
#include "ops/step_plan.h"
#include "tensor/dtype.h"

namespace l4 {

struct LoadProgress {
  uint64_t bytes_done = 0, bytes_total = 0;
};

struct ExecutorOptions {
  Topology topology;
  DType dtype = DType::bf16;         // activations and KV: bf16, or f32 (--dtype float32)
  int cpu_threads = 0;               // of the CPU backend in all; 0: one per core
  int64_t kv_pages[kNumAttentionKinds] = {0, 0};  // pages of each kind
  int64_t max_step_rows = 0;         // rows of the largest step
  int64_t max_out_rows = 0;          // of which with logits
  int64_t max_context = 0;           // longest sequence, for scratch sizes
  int64_t max_step_tiles = 0;        // tiles encoded at once (larger images go in several passes)
  int64_t encoder_rows = 0;          // rows of the encoder cache (image features waiting to be used)
  std::function<void(const LoadProgress&)> on_progress;  // called from one loading thread
};

// Names an activation and hands it over on the host as float32: ("layers.3.attn", rank 0 only, values, shape).
using TraceSink = std::function<void(const std::string& name, const std::vector<float>& values, const Shape& shape)>;

class Executor final : public StepRunner {
 public:
  // Checks that it fits (Error{memory} before anything is read), then loads. A failure on any rank fails the load.
  Executor(const ModelConfig& config, const HfCheckpoint& checkpoint, const ExecutorOptions& options);
  ~Executor() override;
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  std::vector<TokenChoice> step(const StepPlan& step, std::span<const SamplingRow> rows) override;
  std::vector<float> logits(const StepPlan& step) override;
  void encode_tiles(std::span<const BFloat16> pixels, int64_t n_tiles, int64_t feature_row) override;

  // Activations of the following steps by name; empty function: off. For comparing with the reference, not for speed.
  void set_trace(TraceSink sink);

  int64_t page_tokens() const override;
  uint64_t weight_bytes() const;  // all ranks
  uint64_t kv_bytes() const;
  std::string device_name() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Bytes of one rank, computed before anything is loaded.
struct MemoryPlan {
  uint64_t weights = 0, kv = 0, activations = 0, encoder = 0;
  uint64_t total() const { return weights + kv + activations + encoder; }
};
MemoryPlan plan_memory(const ModelConfig& config, const ExecutorOptions& options, int rank);
// KV bytes of one page of a kind on one rank.
uint64_t kv_page_bytes(const ModelConfig& config, const ExecutorOptions& options, AttentionKind kind, int rank);
// Largest power of two <= 128 that divides the attention chunk (128 where there is no chunking).
int64_t kv_page_tokens(const ModelConfig& config);

}  // namespace l4
