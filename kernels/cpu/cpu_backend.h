// The CPU backend: every stage of ops/backend.h as a sequence of the plain operations of kernels/cpu/ops.h. It is the
// reference the CUDA kernels are compared with, and what runs where there is no GPU.
//
// Promise: a row's results are the same bits whatever other rows are in the step and however many threads there are
// (on one machine: instruction sets without fused multiply-add round differently).
#pragma once

#include "kernels/cpu/ops.h"
#include "ops/backend.h"

namespace l4 {

class CpuBackend : public Backend {
 public:
  explicit CpuBackend(int n_threads);

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
  void load(const View& to, const void* host, const MappedFile& file) override;
  void finish_loading() override {}

  void begin_step(const StepPlan& step) override;
  View run_step(const StepShape& step, const std::function<View()>& issue, bool anew) override;
  void embed(const EmbedArgs&) override;
  void norm(const NormArgs&) override;
  void qkv(const QkvArgs&) override;
  void attention(const AttentionArgs&) override;
  void attn_out(const AttnOutArgs&) override;
  void ffn_up(const FfnUpArgs&) override;
  void ffn_down(const FfnDownArgs&) override;
  void head(const HeadArgs&) override;
  std::vector<TokenChoice> sample(const View& logits, std::span<const SamplingRow> rows) override;

  void vision_embed(const VisionEmbedArgs&) override;
  void vision_qkv(const VisionQkvArgs&) override;
  void vision_attention(const VisionAttentionArgs&) override;
  void linear(const LinearArgs&) override;
  void vision_shuffle(const VisionShuffleArgs&) override;

 private:
  ThreadPool pool_;
  std::vector<cpu::SampleScratch> sample_scratch_;  // one a thread
};

}  // namespace l4
