// A backend that passes everything on and remembers the calls of a step's stages, so that each can be run again by itself
// with the arguments that the model gave it. What the remembered arguments point to (step, weights, pages, arena) must
// live as long as they do.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "ops/backend.h"

namespace l4::bench {

class StageRecorder : public Backend {
 public:
  struct Call {
    std::function<void()> run;  // leaves the arena as it found it
    std::string kernel;         // Backend::kernel_of
  };

  explicit StageRecorder(Backend& to) : to_(to) {}

  // In the order of a layer; a stage's calls in the order of the layers.
  static const std::vector<std::string>& names();  // "qkv", "attention, chunked", "attention, global", "attn_out", ...
  const std::vector<Call>& calls(const std::string& name) const;

  std::string device_name() const override { return to_.device_name(); }
  MemoryInfo memory() const override { return to_.memory(); }
  Buffer allocate(size_t bytes, const char* what) override { return to_.allocate(bytes, what); }
  void upload(const View& to, const void* host) override { to_.upload(to, host); }
  void download(void* host, const View& from) override { to_.download(host, from); }
  void copy(const View& to, const View& from) override { to_.copy(to, from); }
  void copy_pages(const KvLayer& first, int64_t n_layers, std::span<const PageCopy> copies) override {
    to_.copy_pages(first, n_layers, copies);
  }
  PackedWeight pack(const LinearSpec& spec, std::span<const WeightSlice> weight, std::span<const WeightSlice> bias,
                    std::span<const WeightSlice> scale) override {
    return to_.pack(spec, weight, bias, scale);
  }
  size_t packed_bytes(const LinearSpec& spec) const override { return to_.packed_bytes(spec); }

  void load(const View& to, const void* host, const MappedFile& file) override { to_.load(to, host, file); }
  void finish_loading() override { to_.finish_loading(); }

  void begin_step(const StepPlan& step) override { to_.begin_step(step); }
  View run_step(const StepShape&, const std::function<View()>& issue, bool) override { return issue(); }
  void embed(const EmbedArgs& args) override { to_.embed(args); }
  void norm(const NormArgs& args) override { to_.norm(args); }
  void qkv(const QkvArgs& args) override;
  void attention(const AttentionArgs& args) override;
  void attn_out(const AttnOutArgs& args) override;
  void ffn_up(const FfnUpArgs& args) override;
  void ffn_down(const FfnDownArgs& args) override;
  void head(const HeadArgs& args) override;
  void experts_in_turn(const Route& route, int64_t n_experts) override { to_.experts_in_turn(route, n_experts); }
  std::vector<TokenChoice> sample(const View& logits, std::span<const SamplingRow> rows) override {
    return to_.sample(logits, rows);
  }

  void vision_embed(const VisionEmbedArgs& args) override { to_.vision_embed(args); }
  void vision_qkv(const VisionQkvArgs& args) override { to_.vision_qkv(args); }
  void vision_attention(const VisionAttentionArgs& args) override { to_.vision_attention(args); }
  void linear(const LinearArgs& args) override { to_.linear(args); }
  void vision_shuffle(const VisionShuffleArgs& args) override { to_.vision_shuffle(args); }

 private:
  template <class Args>
  void pass_on(const std::string& name, const Args& args, void (Backend::*stage)(const Args&));

  Backend& to_;
  std::map<std::string, std::vector<Call>> calls_;
};

}  // namespace l4::bench
