#include "kernels/cuda/cuda_backend.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "dist/comm.h"
#include "kernels/cuda/copy_pages.h"
#include "kernels/cuda/libraries.h"
#include "kernels/cuda/matmul/dispatch.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/peer_comm.h"
#include "ops/cuda_devices.h"

namespace l4 {

using namespace cuda;

// ---- the device -----------------------------------------------------------------------------------------------------

std::unique_ptr<Backend> make_cuda_backend(int device, const CudaOptions& options) {
  return std::make_unique<CudaBackend>(device, options);
}

namespace {
// Error{device} unless it is there and one that our kernels are compiled for.
void check_device(int index) {
  const CudaDevices found = list_cuda_devices();
  if (found.devices.empty()) fail(ErrorKind::device, "no GPU to run on: ", found.problem);
  if (index < 0 || index >= int(found.devices.size()))
    fail(ErrorKind::device, "GPU ", index, ": there ",
         found.devices.size() == 1 ? "is 1" : cat("are ", found.devices.size()));
  const CudaDevice& device = found.devices[size_t(index)];
  if (!device.usable())
    fail(ErrorKind::device, "GPU ", index, ", ", device.name, ": compute capability ", device.major, ".", device.minor,
         ", 9.0 (H100, H200) needed");
}
}  // namespace

CudaBackend::CudaBackend(int device, const CudaOptions& options) : options_(options) {
  gpu_.index = device;
  if (device == kNoCudaDevice) {  // scratch sizes are those of the GPUs that the kernels are compiled for
    gpu_.n_sms = 132;
    gpu_.max_shared_bytes = 232'448;
    gpu_.cublas_lt = reinterpret_cast<cublasLtHandle_t>(this);  // there, for its workspace; nobody calls it
    return;
  }
  check_device(device);
  make_current();
  cudaDeviceProp properties;
  L4_CUDA(cudaGetDeviceProperties(&properties, device));
  gpu_.n_sms = properties.multiProcessorCount;
  gpu_.max_shared_bytes = properties.sharedMemPerBlockOptin;
  L4_CUDA(cudaStreamCreateWithFlags(&gpu_.stream, cudaStreamNonBlocking));
  L4_CUDA(cublas_lt().cublasLtCreate(&gpu_.cublas_lt));
  counters_ = device_buffer(Gpu::kAllCounters * sizeof(uint32_t), "counters");
  gpu_.set_counters(static_cast<uint32_t*>(counters_.data()));
  L4_CUDA(cudaMemsetAsync(counters_.data(), 0, counters_.bytes(), gpu_.stream));
  step_ = std::make_unique<StepBuffer>(options);
  if (options.graphs && options.one_launch && !options.batch_invariant) one_token_ = std::make_unique<OneToken>(gpu_);
  L4_CUDA(cudaEventCreate(&step_begin_));
  L4_CUDA(cudaEventCreate(&step_end_));
}

CudaBackend::~CudaBackend() {
  loader_.reset();
  sampler_.reset();
  if (!gpu_.stream) return;
  cudaSetDevice(gpu_.index);
  cudaStreamSynchronize(gpu_.stream);
  cublas_lt().cublasLtDestroy(gpu_.cublas_lt);
  for (cudaEvent_t event : {step_begin_, step_end_})
    if (event) cudaEventDestroy(event);
  cudaStreamDestroy(gpu_.stream);
}

void CudaBackend::make_current() const {
  published_ = nullptr;
  L4_CHECK(gpu_.index != kNoCudaDevice, "a backend for plans was asked to work");
  L4_CUDA(cudaSetDevice(gpu_.index));
}

std::string CudaBackend::device_name() const {
  const CudaDevices found = list_cuda_devices();
  return gpu_.index >= 0 && gpu_.index < int(found.devices.size()) ? found.devices[size_t(gpu_.index)].name : "no GPU";
}

// ---- memory ---------------------------------------------------------------------------------------------------------

MemoryInfo CudaBackend::memory() const {
  make_current();
  size_t free_bytes = 0, total_bytes = 0;
  L4_CUDA(cudaMemGetInfo(&free_bytes, &total_bytes));
  return {.total_bytes = total_bytes, .free_bytes = free_bytes};
}
Buffer CudaBackend::allocate(size_t bytes, const char* what) {
  make_current();
  return device_buffer(bytes, what);
}
void CudaBackend::upload(const View& to, const void* host) {
  make_current();
  L4_CUDA(cudaMemcpyAsync(to.data, host, to.bytes(), cudaMemcpyHostToDevice, gpu_.stream));
  L4_CUDA(cudaStreamSynchronize(gpu_.stream));
}
void CudaBackend::download(void* host, const View& from) {
  make_current();
  L4_CUDA(cudaStreamSynchronize(gpu_.stream));  // a copy to pageable memory could wait with the other hosts locked out
  L4_CUDA(cudaMemcpyAsync(host, from.data, from.bytes(), cudaMemcpyDeviceToHost, gpu_.stream));
  L4_CUDA(cudaStreamSynchronize(gpu_.stream));
}
void CudaBackend::copy(const View& to, const View& from) {
  L4_CHECK(to.bytes() == from.bytes(), "copy of ", from.bytes(), " bytes to ", to.bytes());
  make_current();
  L4_CUDA(cudaMemcpyAsync(to.data, from.data, to.bytes(), cudaMemcpyDeviceToDevice, gpu_.stream));
}
void CudaBackend::copy_pages(const KvLayer& first_layer, int64_t n_layers, std::span<const PageCopy> copies) {
  make_current();
  cuda::copy_pages(gpu_.stream, first_layer, n_layers, copies);
}

// ---- weights --------------------------------------------------------------------------------------------------------

PackedWeight CudaBackend::pack(const LinearSpec& spec, std::span<const WeightSlice> weight,
                               std::span<const WeightSlice> bias, std::span<const WeightSlice> scale) {
  make_current();
  auto in_file = [](std::span<const WeightSlice> slices) {
    return std::all_of(slices.begin(), slices.end(), [](const WeightSlice& s) { return s.file != nullptr; });
  };
  if (!in_file(weight) || !in_file(bias) || !in_file(scale))
    return pack_weight(gpu_, spec, weight, bias, scale, device_buffer);
  PackedWeight packed = empty_weight(spec, device_buffer);
  check_weight(spec, weight, bias, scale);
  loader().pack(weight, bias, scale, packed);
  return packed;
}
void CudaBackend::load(const View& to, const void* host, const MappedFile& file) {
  loader().load(to, static_cast<const std::byte*>(host), file);
}
void CudaBackend::finish_loading() {
  if (const std::unique_ptr<WeightLoader> loader = std::move(loader_)) loader->finish();
}
WeightLoader& CudaBackend::loader() {
  make_current();
  if (!loader_) loader_ = std::make_unique<WeightLoader>(gpu_.index);
  return *loader_;
}
size_t CudaBackend::packed_bytes(const LinearSpec& spec) const {
  return packed_weight_bytes(spec);
}

// ---- a step ---------------------------------------------------------------------------------------------------------

void CudaBackend::begin_step(const StepPlan& step) {
  if (gpu_.index != kNoCudaDevice) {
    make_current();
    L4_CUDA(cudaEventRecord(step_begin_, gpu_.stream));
    gpu_.step = step_->upload(step, gpu_.stream);
    return;
  }
  const StepShape shape(step);
  gpu_.step = {};  // a measuring run gets the numbers alone
  gpu_.step.n_rows = int32_t(shape.n_rows);
  gpu_.step.n_out = int32_t(shape.n_out);
  gpu_.step.n_image_rows = int32_t(shape.n_image_rows);
  for (int kind = 0; kind < kNumAttentionKinds; ++kind) {
    gpu_.step.kv[kind].n_spans = int32_t(shape.n_spans[kind]);
    gpu_.step.kv[kind].max_rows = int32_t(shape.max_rows[kind]);
  }
}

bool CudaBackend::is_prepared(const StepShape& shape) const {
  return is_recorded(shape) ? graphs_.has(shape) : prepared_.contains(shape);
}

void CudaBackend::prepare(const StepShape& shape, const std::function<View()>& issue) {
  make_current();
  if (is_recorded(shape)) return record(shape, issue);
  const Recording loads_kernels(gpu_.stream, [&] { issue(); });
  constexpr size_t kMostShapes = 1 << 16;
  if (prepared_.size() == kMostShapes) prepared_.clear();
  prepared_.insert(shape);
}

// Of one token: noted while it is recorded, and recorded again where one launch does what was noted.
void CudaBackend::record(const StepShape& shape, const std::function<View()>& issue) {
  if (!one_token_ || shape.n_rows != 1) return graphs_.record(shape, gpu_.stream, issue);
  const OneToken::Recording recording(*one_token_);
  graphs_.record(shape, gpu_.stream, issue);
  if (!one_token_->is_one_launch()) return;
  graphs_.forget(shape);
  graphs_.record(shape, gpu_.stream, issue);
}

View CudaBackend::run_step(const StepShape& step, const std::function<View()>& issue, bool anew) {
  make_current();
  const bool replay = !anew && is_recorded(step);
  if (replay && !graphs_.has(step)) record(step, issue);
  const View result = replay ? graphs_.replay(step) : issue();
  L4_CUDA(cudaEventRecord(step_end_, gpu_.stream));
  return result;
}

std::optional<double> CudaBackend::step_seconds() {
  make_current();
  float ms = 0;
  L4_CUDA(cudaEventSynchronize(step_end_));
  L4_CUDA(cudaEventElapsedTime(&ms, step_begin_, step_end_));
  return ms * 1e-3;
}

void CudaBackend::embed(const EmbedArgs& args) {
  if (args.work->measuring()) return;
  const OpContext ctx = context(args.work);
  embed_tokens(ctx, args);
  args.comm->all_reduce_sum(args.x);
  place_features(ctx, args);
}

void CudaBackend::norm(const NormArgs& args) {
  if (one_token_ && one_token_->takes(args)) return;
  rms_norm(context(args.work), args.x, args.out_rows ? gpu_.step.out_rows : nullptr, args.norm_weight, args.norm_eps,
           args.h);
}

template <class Args>
void CudaBackend::refuse_generic(const char* stage, const Args& args, int64_t n_rows) const {
  if (options_.fast_only && args.work->measuring() && kernel_of(args).find("generic") != std::string::npos)
    fail(ErrorKind::unsupported, stage, " of ", n_rows, n_rows == 1 ? " row" : " rows",
         " runs on the generic path, which is right for any shape and slow; it is not timed");
}

void CudaBackend::qkv(const QkvArgs& args) {
  if (one_token_ && one_token_->takes(args)) return;
  refuse_generic("qkv", args, args.h.rows());
  const OpContext ctx = context(args.work);
  Scratch scratch(ctx.work);
  View qkv = scratch.take(args.h.dtype, {args.h.rows(), args.w->spec.n});
  cuda::linear(ctx, args.h, *args.w, qkv, args.h.dtype);
  finish_qkv(ctx, args, qkv);
}

void CudaBackend::attention(const AttentionArgs& args) {
  if (one_token_ && one_token_->takes(args)) return;
  refuse_generic("attention", args, args.q.shape[0]);
  paged_attention(context(args.work), args);
}

// The end of attention's or the feed-forward block: this rank's part of its output, which make(ctx, y, links) puts into y
// or, saying so, sends; the sum over ranks; the residual stream, the next norm and the routing. The ranks' parts are rounded
// to A before they are added: half the bytes, and what tensor parallel transformers does. Small sums are made by whoever adds
// them to the residual stream.
template <class Args, class Make>
void CudaBackend::end_block(const Args& args, const PackedWeight* router, const Route& route, const Make& make) {
  const OpContext ctx = context(args.work);
  Scratch scratch(ctx.work);
  const View y = scratch.take(args.x.dtype, {args.x.rows(), args.x.cols()});
  const bool is_part = !ctx.measuring() && args.comm->size() > 1;
  std::optional<PeerLinks> links;
  // The fused sum is for few rows; Comm's own has the same order and roundings, but nobody need rely on it.
  if (is_part && !ctx.invariant) links = links_for(*args.comm, y);
  PeerLinks* const peers = links ? &*links : nullptr;
  const bool sent = make(ctx, y, peers);
  if (peers)
    peers->sent = sent;
  else if (is_part)
    args.comm->all_reduce_sum(y);
  if (!args.norm_weight)
    add_residual(ctx, y, args.x, peers);
  else if (add_residual_norm_route(ctx, y, args.x, args.norm_weight, args.norm_eps, args.h, router, route, peers))
    published_ = args.h.data;
}

void CudaBackend::attn_out(const AttnOutArgs& args) {
  if (one_token_ && one_token_->takes(args)) return;
  refuse_generic("attn_out", args, args.x.rows());
  end_block(args, args.router, args.route, [&](const OpContext& ctx, const View& y, const PeerLinks* peers) {
    return cuda::linear(ctx, args.attn, *args.w, y, args.x.dtype, peers);
  });
}

void CudaBackend::ffn_up(const FfnUpArgs& args) {
  if (one_token_ && one_token_->takes(args)) return;
  refuse_generic("ffn_up", args, args.h.rows());
  ffn_up_ = {args.act_shared.data, args.h.rows(), kernel_of(args)};
  cuda::ffn_up(context(args.work), args);
}

void CudaBackend::ffn_down(const FfnDownArgs& args) {
  if (one_token_ && one_token_->takes(args)) return;
  refuse_generic("ffn_down", args, args.x.rows());
  // Kernels differ in the order in which up leaves rows of experts to down.
  const FfnUp up{args.act_shared.data, args.x.rows(), kernel_of(args)};
  if (args.experts && up.act_shared == ffn_up_.act_shared && up.n_rows == ffn_up_.n_rows && !have_same_order(ffn_up_.kernel, up.kernel))
    fail(ErrorKind::unsupported, args.shared->spec.name, ": the CUDA backend wants the weights of a feed-forward block's two ",
         "halves in formats that one kernel serves: up has ", ffn_up_.kernel, ", down ", up.kernel);
  end_block(args, nullptr, {}, [&](const OpContext& ctx, const View& y, const PeerLinks* peers) {
    return cuda::ffn_down(ctx, args, y, peers);
  });
}

void CudaBackend::head(const HeadArgs& args) {
  refuse_generic("head", args, args.h.rows());
  const OpContext ctx = context(args.work);
  Scratch scratch(ctx.work);
  const int64_t n_out = args.h.rows(), v_local = args.w->spec.n, ranks = args.comm->size();
  L4_CHECK(args.logits.elements() == n_out * v_local * ranks);
  if (ranks == 1) {
    cuda::linear(ctx, args.h, *args.w, args.logits, args.h.dtype);
    return;
  }
  View part = scratch.take(DType::f32, {n_out, v_local});
  View parts = scratch.take(DType::f32, {ranks, n_out, v_local});
  cuda::linear(ctx, args.h, *args.w, part, args.h.dtype);
  if (ctx.measuring()) return;
  args.comm->all_gather(part, parts);
  const size_t width = size_t(v_local) * sizeof(float);
  for (int64_t r = 0; r < ranks; ++r)  // rank r's columns, side by side with the others'
    L4_CUDA(cudaMemcpy2DAsync(args.logits.f32() + r * v_local, width * size_t(ranks), parts.f32() + r * n_out * v_local,
                              width, width, size_t(n_out), cudaMemcpyDeviceToDevice, gpu_.stream));
}

uint64_t CudaBackend::sampling_bytes(int64_t vocab) const {
  return Sampler::device_bytes(rows_sampled_at_once(), vocab);
}
void CudaBackend::prepare_sampling(int64_t vocab) {
  make_current();
  if (!sampler_) sampler_ = std::make_unique<Sampler>(gpu_, rows_sampled_at_once(), vocab);
}

std::vector<TokenChoice> CudaBackend::sample(const View& logits, std::span<const SamplingRow> rows) {
  if (rows.empty()) return {};
  make_current();
  L4_CHECK(logits.rows() == int64_t(rows.size()), logits.rows(), " rows of logits, ", rows.size(), " of parameters");
  prepare_sampling(logits.cols());
  std::vector<TokenChoice> choices = sampler_->sample(logits, rows);
  L4_CUDA(cudaEventRecord(step_end_, gpu_.stream));
  return choices;
}

// ---- vision ---------------------------------------------------------------------------------------------------------

void CudaBackend::vision_embed(const VisionEmbedArgs& args) {
  const OpContext ctx = tile_context(args.work);
  Scratch scratch(ctx.work);
  const int64_t n_patches = args.x.shape[0] * (args.x.shape[1] - 1);
  View patches = scratch.take(DType::bf16, {n_patches, args.patch->spec.k});
  View embedded = scratch.take(args.x.dtype, {n_patches, args.patch->spec.n});
  cut_patches(ctx, args.pixels, args.patch_size, patches);
  cuda::linear(ctx, patches, *args.patch, embedded, args.x.dtype);
  add_positions(ctx, embedded, args.class_embedding, args.position_embedding, args.x);
  layer_norm(ctx, args.x, args.norm, args.x);
}

void CudaBackend::vision_qkv(const VisionQkvArgs& args) {
  const OpContext ctx = tile_context(args.work);
  Scratch scratch(ctx.work);
  const int64_t n_rows = args.x.shape[0] * args.x.shape[1], d = args.x.shape[2];
  View h = scratch.take(args.x.dtype, {n_rows, d});
  View qkv = scratch.take(args.x.dtype, {n_rows, 3 * d});
  layer_norm(ctx, args.x, args.norm, h);
  cuda::linear(ctx, h, *args.w, qkv, args.x.dtype);
  split_vision_qkv(ctx, args, ctx.measuring() ? nullptr : on_device(args.rope), qkv);
}

// The rotation table of the vision tower: the same for all layers and images, so it is sent once.
const float* CudaBackend::on_device(const View& host_table) {
  const float* values = host_table.f32();
  const size_t n = size_t(host_table.elements());
  if (rope_host_.size() != n || std::memcmp(rope_host_.data(), values, n * sizeof(float)) != 0) {
    rope_host_.assign(values, values + n);
    rope_ = allocate(n * sizeof(float), "the vision tower's rotations");
    upload({rope_.data(), DType::f32, host_table.shape}, values);
  }
  return static_cast<const float*>(rope_.data());
}

void CudaBackend::vision_attention(const VisionAttentionArgs& args) {
  tile_attention(tile_context(args.work), args);
}

void CudaBackend::linear(const LinearArgs& args) {
  const OpContext ctx = tile_context(args.work);
  Scratch scratch(ctx.work);
  View in = args.in;
  if (args.norm) {
    in = scratch.take(args.in.dtype, {args.in.rows(), args.in.cols()});
    layer_norm(ctx, args.in, *args.norm, in);
  }
  if (args.activation == Activation::none && !args.residual) {
    cuda::linear(ctx, in, *args.w, args.out, args.out.dtype);
    return;
  }
  View z = scratch.take(args.out.dtype, {args.out.rows(), args.out.cols()});
  cuda::linear(ctx, in, *args.w, z, args.out.dtype);
  activate(ctx, z, args.activation, args.residual, args.out);
}

void CudaBackend::vision_shuffle(const VisionShuffleArgs& args) {
  const OpContext ctx = tile_context(args.work);
  Scratch scratch(ctx.work);
  View normed = scratch.take(args.x.dtype, {args.x.shape[0], args.x.shape[1], args.x.shape[2]});
  layer_norm(ctx, args.x, args.norm, normed);
  pixel_shuffle(ctx, normed, args.grid, args.shuffle, args.out);
}

}  // namespace l4
