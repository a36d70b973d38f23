// The seam: what a device must be able to do. The model is written once over this interface; kernels/cpu defines it
// with plain loops (the reference), kernels/cuda with fused kernels. It is cut where the fused layer is cut, so that a
// layer can be five kernels. Inside a step a backend allocates nothing, synchronises with nothing and decides nothing
// by data on the device. Scratch comes from args.work: with a measuring arena a stage takes its scratch and returns.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "ops/op_args.h"
#include "ops/sampling.h"

namespace l4 {

struct MemoryInfo {
  uint64_t total_bytes = 0, free_bytes = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;

  // ---- memory
  virtual std::string device_name() const = 0;  // "CPU, 2 threads", "NVIDIA H100 80GB HBM3"
  virtual MemoryInfo memory() const = 0;
  virtual Buffer allocate(size_t bytes, const char* what) = 0;  // Error{memory}; not initialised
  virtual void upload(const View& to, const void* host) = 0;    // to.bytes() bytes
  virtual void download(void* host, const View& from) = 0;      // waits for the work queued before it
  virtual void copy(const View& to, const View& from) = 0;      // same bytes, both on this device
  virtual void copy_pages(const KvLayer& first_layer, int64_t n_layers, std::span<const PageCopy> copies) = 0;

  // ---- weights: the backend owns packing, the model knows logical slices only
  // fp8 and int4: codes and their scales; or, fp8 without scales, weights of other types, of which each row becomes codes of
  // w / s with s = max|w| / 448 (1 in a row of zeros).
  virtual PackedWeight pack(const LinearSpec& spec, std::span<const WeightSlice> weight, std::span<const WeightSlice> bias,
                            std::span<const WeightSlice> scale) = 0;
  PackedWeight pack(const LinearSpec& spec, std::span<const WeightSlice> weight, std::span<const WeightSlice> bias) {
    return pack(spec, weight, bias, {});
  }
  virtual size_t packed_bytes(const LinearSpec& spec) const = 0;  // what pack() will allocate, for plans
  // upload() of bytes that lie in a mapped file.
  virtual void load(const View& to, const void* host, const MappedFile& file) = 0;
  // Of what lies in mapped files, pack() and load() may return before it is read; errors then come from later calls.
  // Files and weights stay until this has returned: everything is in its place.
  virtual void finish_loading() = 0;
  // Made-up weights, for measuring without a checkpoint; bit for bit the same on every backend. Here: made on the host,
  // then packed or uploaded.
  virtual PackedWeight pack_random(const LinearSpec& spec, std::span<const RandomSlice> weight,
                                   std::span<const RandomSlice> bias);
  virtual void fill_random(const View& to, const RandomTensor& tensor,
                           int64_t first);  // elements first, first + 1, ...

  // ---- a step
  virtual void begin_step(const StepPlan& step) = 0;  // takes what its kernels need of the plan to the device
  // The step that was begun: `issue` issues all its stages and returns what they leave, its logits. A backend may
  // record the stages of a decode step and replay them, without calling `issue`, for later steps with as many rows and
  // outputs. So those of a decode step must depend on these two numbers alone: the same arguments, the same memory.
  // `anew`: nothing is recorded or replayed (traces).
  virtual View run_step(const StepShape& step, const std::function<View()>& issue, bool anew) = 0;
  // With several ranks, all of them prepare a step of a new shape, after begin_step(), before any runs it. Kernels of a rank
  // wait for the other ranks' kernels, whose hosts may not be held up meanwhile: starting a kernel for the first time, as
  // allocating, can wait for the host's own device and keep the other hosts waiting too. `issue` is as above, of a run
  // that nobody traces.
  virtual bool is_prepared(const StepShape&) const { return true; }
  virtual void prepare(const StepShape&, const std::function<View()>& /*issue*/) {}
  virtual void embed(const EmbedArgs&) = 0;
  virtual void norm(const NormArgs&) = 0;
  virtual void qkv(const QkvArgs&) = 0;
  virtual void attention(const AttentionArgs&) = 0;
  virtual void attn_out(const AttnOutArgs&) = 0;
  virtual void ffn_up(const FfnUpArgs&) = 0;
  virtual void ffn_down(const FfnDownArgs&) = 0;
  virtual void head(const HeadArgs&) = 0;
  // What sample() keeps on the device; it is taken at the first choice if not before.
  virtual uint64_t sampling_bytes(int64_t /*vocab*/) const { return 0; }
  virtual void prepare_sampling(int64_t /*vocab*/) {}
  // One choice a row of logits [n, V] f32. A row that holds NaN gives Error{internal} naming it.
  virtual std::vector<TokenChoice> sample(const View& logits, std::span<const SamplingRow> rows) = 0;
  // How long the device worked on the last step, by its own clock: from begin_step() to the end of what was issued
  // since (sample() included). Nothing where the host is the device.
  virtual std::optional<double> step_seconds() { return std::nullopt; }

  // ---- for measuring
  // Choice i of row t becomes expert (t * top_k + i) mod E, whatever the router chose; the scores stay. Here: uploaded.
  virtual void experts_in_turn(const Route& route, int64_t n_experts);
  // Seconds of each of n runs of what `issue` issues, by the device's own clock where it has one; one run before them is
  // not counted. A backend that can record what is issued replays it.
  virtual std::vector<double> time_runs(const std::function<void()>& issue, int n_runs);
  // Which kernel serves a stage. "generic" is right for any shape, and slow. Empty: there is no choice.
  virtual std::string kernel_of(const QkvArgs&) const { return ""; }
  virtual std::string kernel_of(const AttentionArgs&) const { return ""; }
  virtual std::string kernel_of(const AttnOutArgs&) const { return ""; }
  virtual std::string kernel_of(const FfnUpArgs&) const { return ""; }
  virtual std::string kernel_of(const FfnDownArgs&) const { return ""; }
  virtual std::string kernel_of(const HeadArgs&) const { return ""; }

  // ---- vision
  // Sends the table that VisionQkvArgs::rope will name to the device ahead of its first use. Allocating then could wait for
  // devices whose kernels wait for this rank.
  virtual void keep_rope(const View& /*host_table*/) {}
  virtual void vision_embed(const VisionEmbedArgs&) = 0;
  virtual void vision_qkv(const VisionQkvArgs&) = 0;
  virtual void vision_attention(const VisionAttentionArgs&) = 0;
  virtual void linear(const LinearArgs&) = 0;
  virtual void vision_shuffle(const VisionShuffleArgs&) = 0;
};

// Defined by kernels/cpu. n_threads 0: one per core.
std::unique_ptr<Backend> make_cpu_backend(int n_threads);

// The largest step that a CUDA backend will be given: what it keeps of steps is allocated once.
struct CudaOptions {
  int64_t max_rows = 1, max_out_rows = 1;
  int64_t max_table_pages = 0;  // page tables of all spans of both kinds together
  int64_t page_tokens = 1;
  bool graphs = true;  // record decode steps and replay them
  bool one_launch = true;  // a recorded step of one token is one launch where a model's formats allow it
  bool fast_only = false;  // measuring runs refuse what generic kernels would serve, Error{unsupported}
  // What the text stages give a row has the same bits whatever other rows a step has, and wherever a prompt is cut into
  // steps; slower. The vision tower's results depend on how many tiles are encoded at once: it is for who calls to
  // encode one at a time.
  bool batch_invariant = false;
};
// A backend without a device: only measuring runs and packed_bytes(), on any machine that has the CUDA build.
constexpr int kNoCudaDevice = -1;
// Defined by kernels/cuda. `device` as in list_cuda_devices(). Error{device} when there is no such device, it is not
// one of ours, or this build has no CUDA.
std::unique_ptr<Backend> make_cuda_backend(int device, const CudaOptions& options);

}  // namespace l4
