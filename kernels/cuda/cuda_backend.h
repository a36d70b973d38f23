// The CUDA backend: every stage of ops/backend.h as a short list of the operations of kernels/cuda/ops.h, issued to one
// stream of one device. Nothing in a step allocates, waits for the device or looks at its data; a decode step is
// recorded as a graph (graph.h). A stage's scratch is taken from its arena again and again: operations of one stream
// run one after another, so the next one may write what the last one read.
//
// One thread at a time uses a backend, not always the same one: what talks to the device makes it the thread's current
// one.
#pragma once

#include <algorithm>
#include <memory>
#include <set>
#include <utility>

#include "kernels/cuda/graph.h"
#include "kernels/cuda/one_token/one_token.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/sample.h"
#include "kernels/cuda/step_buffer.h"
#include "kernels/cuda/weight_loader.h"
#include "ops/backend.h"

namespace l4 {

class CudaBackend : public Backend {
 public:
  CudaBackend(int device, const CudaOptions& options);
  ~CudaBackend() override;

  std::string device_name() const override;
  MemoryInfo memory() const override;
  Buffer allocate(size_t bytes, const char* what) override;
  void upload(const View& to, const void* host) override;
  void download(void* host, const View& from) override;
  void copy(const View& to, const View& from) override;
  void copy_pages(const KvLayer& first_layer, int64_t n_layers, std::span<const PageCopy> copies) override;

  PackedWeight pack(const LinearSpec& spec, std::span<const WeightSlice> weight, std::span<const WeightSlice> bias,
                    std::span<const WeightSlice> scale) override;
  size_t packed_bytes(const LinearSpec& spec) const override;
  PackedWeight pack_random(const LinearSpec& spec, std::span<const RandomSlice> weight,
                           std::span<const RandomSlice> bias) override;
  void fill_random(const View& to, const RandomTensor& tensor, int64_t first) override;
  void load(const View& to, const void* host, const MappedFile& file) override;
  void finish_loading() override;

  void begin_step(const StepPlan& step) override;
  View run_step(const StepShape& step, const std::function<View()>& issue, bool anew) override;
  bool is_prepared(const StepShape& shape) const override;
  void prepare(const StepShape& shape, const std::function<View()>& issue) override;
  void embed(const EmbedArgs&) override;
  void norm(const NormArgs&) override;
  void qkv(const QkvArgs&) override;
  void attention(const AttentionArgs&) override;
  void attn_out(const AttnOutArgs&) override;
  void ffn_up(const FfnUpArgs&) override;
  void ffn_down(const FfnDownArgs&) override;
  void head(const HeadArgs&) override;
  uint64_t sampling_bytes(int64_t vocab) const override;
  void prepare_sampling(int64_t vocab) override;
  std::vector<TokenChoice> sample(const View& logits, std::span<const SamplingRow> rows) override;
  std::optional<double> step_seconds() override;
  void experts_in_turn(const Route& route, int64_t n_experts) override;
  std::vector<double> time_runs(const std::function<void()>& issue, int n_runs) override;
  std::string kernel_of(const QkvArgs&) const override;
  std::string kernel_of(const AttentionArgs&) const override;
  std::string kernel_of(const AttnOutArgs&) const override;
  std::string kernel_of(const FfnUpArgs&) const override;
  std::string kernel_of(const FfnDownArgs&) const override;
  std::string kernel_of(const HeadArgs&) const override;

  void keep_rope(const View& host_table) override { on_device(host_table); }
  void vision_embed(const VisionEmbedArgs&) override;
  void vision_qkv(const VisionQkvArgs&) override;
  void vision_attention(const VisionAttentionArgs&) override;
  void linear(const LinearArgs&) override;
  void vision_shuffle(const VisionShuffleArgs&) override;

  cuda::Gpu& gpu() { return gpu_; }
  bool is_batch_invariant() const { return options_.batch_invariant; }
  void forget_recordings() { graphs_.clear(); }
  void make_current() const;  // gpu() is this thread's device from here on; what is issued next need not be a stage

 private:
  cuda::OpContext context(Arena* work) {
    return {gpu_, *work, std::exchange(published_, nullptr), options_.batch_invariant};
  }
  cuda::OpContext tile_context(Arena* work) { return {gpu_, *work, std::exchange(published_, nullptr)}; }
  template <class Args, class Make>
  void end_block(const Args& args, const PackedWeight* router, const Route& route, const Make& make);
  std::string linear_kernel_of(const PackedWeight& w, const View& x) const;
  const float* on_device(const View& host_table);
  void record(const StepShape& shape, const std::function<View()>& issue);
  cuda::WeightLoader& loader();
  template <class Args>
  void refuse_generic(const char* stage, const Args& args, int64_t n_rows) const;
  int64_t rows_sampled_at_once() const { return std::min<int64_t>(options_.max_out_rows, 64); }  // of 0.22 MB each
  bool is_recorded(const StepShape& shape) const { return options_.graphs && shape.is_decode(); }

  const CudaOptions options_;
  cuda::Gpu gpu_;
  struct FfnUp {
    const void* act_shared = nullptr;
    int64_t n_rows = 0;
    std::string kernel;
  } ffn_up_;  // the last one
  mutable const void* published_ = nullptr;  // OpContext::published of the next stage, if nothing comes between
  Buffer counters_;
  std::unique_ptr<cuda::StepBuffer> step_;
  cuda::StepGraphs graphs_;
  std::unique_ptr<cuda::OneToken> one_token_;  // null: every stage is launches of its own
  std::set<StepShape> prepared_;  // of those that are not recorded
  cudaEvent_t step_begin_ = nullptr, step_end_ = nullptr;
  std::unique_ptr<cuda::WeightLoader> loader_;  // while there is loading
  std::vector<float> rope_host_;                // the table that rope_ holds
  Buffer rope_;
  std::unique_ptr<cuda::Sampler> sampler_;  // where tokens are chosen
};

}  // namespace l4
