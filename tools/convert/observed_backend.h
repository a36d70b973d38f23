// A backend that shows what goes into each linear of the text model, on any device: it hands every call on to another
// backend and takes the stages' inputs to the host first. The forward runs as it is.
#pragma once

#include <span>

#include "ops/backend.h"

namespace l4::convert {

// Where an input goes. q, k and v share theirs, and so do gate and up; `shared` is the MLP of a dense layer too.
enum class Site : uint8_t { qkv, o, shared_up, shared_down, expert_up, expert_down };

// Told of one layer's stages, in order.
class InputObserver {
 public:
  virtual ~InputObserver() = default;
  // expert: -1 but at the experts' sites.
  virtual bool wants(Site site, int64_t expert) const = 0;
  // Rows [n, k], as the product takes them, a step's in any order: an expert's are those that were sent to it, times
  // their score going up.
  virtual void inputs(Site site, int64_t expert, std::span<const float> rows) = 0;
  // Largest |k| and |v| that a step wrote to the cache, which must not be FP8.
  virtual bool wants_cache() const = 0;
  virtual void cache(float k, float v) = 0;
};

class ObservedBackend : public Backend {
 public:
  ObservedBackend(Backend& backend, int64_t n_experts, InputObserver& observer)
      : backend_(backend), n_experts_(n_experts), observer_(observer) {}

  void qkv(const QkvArgs& a) override;
  void attn_out(const AttnOutArgs& a) override;
  void ffn_up(const FfnUpArgs& a) override;
  void ffn_down(const FfnDownArgs& a) override;

  std::string device_name() const override { return backend_.device_name(); }
  MemoryInfo memory() const override { return backend_.memory(); }
  Buffer allocate(size_t bytes, const char* what) override { return backend_.allocate(bytes, what); }
  void upload(const View& to, const void* host) override { backend_.upload(to, host); }
  void download(void* host, const View& from) override { backend_.download(host, from); }
  void copy(const View& to, const View& from) override { backend_.copy(to, from); }
  void copy_pages(const KvLayer& first, int64_t n, std::span<const PageCopy> copies) override {
    backend_.copy_pages(first, n, copies);
  }
  PackedWeight pack(const LinearSpec& spec, std::span<const WeightSlice> weight, std::span<const WeightSlice> bias,
                    std::span<const WeightSlice> scale) override {
    return backend_.pack(spec, weight, bias, scale);
  }
  size_t packed_bytes(const LinearSpec& spec) const override { return backend_.packed_bytes(spec); }
  void load(const View& to, const void* host, const MappedFile& file) override { backend_.load(to, host, file); }
  void finish_loading() override { backend_.finish_loading(); }
  void begin_step(const StepPlan& step) override { backend_.begin_step(step); }
  View run_step(const StepShape& step, const std::function<View()>& issue, bool anew) override {
    return backend_.run_step(step, issue, anew);
  }
  void embed(const EmbedArgs& a) override { backend_.embed(a); }
  void norm(const NormArgs& a) override { backend_.norm(a); }
  void attention(const AttentionArgs& a) override { backend_.attention(a); }
  void head(const HeadArgs& a) override { backend_.head(a); }
  std::vector<TokenChoice> sample(const View& logits, std::span<const SamplingRow> rows) override {
    return backend_.sample(logits, rows);
  }
  void vision_embed(const VisionEmbedArgs& a) override { backend_.vision_embed(a); }
  void vision_qkv(const VisionQkvArgs& a) override { backend_.vision_qkv(a); }
  void vision_attention(const VisionAttentionArgs& a) override { backend_.vision_attention(a); }
  void linear(const LinearArgs& a) override { backend_.linear(a); }
  void vision_shuffle(const VisionShuffleArgs& a) override { backend_.vision_shuffle(a); }

 private:
  std::vector<float> floats(const View& view);
  void observe(Site site, const View& rows);
  // Of the rows' choices those of each expert: gather(choice, its number in the order of experts, rows) appends its
  // input.
  template <class Gather>
  void observe_experts(Site site, const Route& route, int64_t width, const Gather& gather);

  Backend& backend_;
  int64_t n_experts_;
  InputObserver& observer_;
};

}  // namespace l4::convert
