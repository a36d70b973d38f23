#include "kernels/cpu/cpu_backend.h"

#include <cstring>

#include "dist/comm.h"
#include "kernels/cpu/host_memory.h"

namespace l4 {

using namespace cpu;

std::unique_ptr<Backend> make_cpu_backend(int n_threads) {
  return std::make_unique<CpuBackend>(n_threads);
}

CpuBackend::CpuBackend(int n_threads) : pool_(n_threads), sample_scratch_(size_t(pool_.size())) {}

// ---- memory ---------------------------------------------------------------------------------------------------------

std::string CpuBackend::device_name() const {
  return cat("CPU, ", pool_.size(), pool_.size() == 1 ? " thread" : " threads");
}
MemoryInfo CpuBackend::memory() const {
  return host_memory();
}
Buffer CpuBackend::allocate(size_t bytes, const char* what) {
  return huge_buffer(bytes, what);
}
void CpuBackend::upload(const View& to, const void* host) {
  std::memcpy(to.data, host, to.bytes());
}
void CpuBackend::download(void* host, const View& from) {
  std::memcpy(host, from.data, from.bytes());
}
void CpuBackend::copy(const View& to, const View& from) {
  L4_CHECK(to.bytes() == from.bytes(), "copy of ", from.bytes(), " bytes to ", to.bytes());
  std::memmove(to.data, from.data, to.bytes());
}
// The layers of a kind lie one after another in a page, so a page is one piece.
void CpuBackend::copy_pages(const KvLayer& first_layer, int64_t n_layers, std::span<const PageCopy> copies) {
  const int64_t bytes = n_layers * first_layer.layout.layer_bytes;
  std::byte* base = static_cast<std::byte*>(first_layer.base);
  for (const PageCopy& c : copies)
    if (c.kind == first_layer.kind)
      std::memmove(base + c.to * first_layer.page_stride, base + c.from * first_layer.page_stride, size_t(bytes));
}

// ---- weights --------------------------------------------------------------------------------------------------------

PackedWeight CpuBackend::pack(const LinearSpec& spec, std::span<const WeightSlice> weight,
                              std::span<const WeightSlice> bias, std::span<const WeightSlice> scale) {
  return pack_weight(pool_, spec, weight, bias, scale);
}
size_t CpuBackend::packed_bytes(const LinearSpec& spec) const {
  return packed_weight_bytes(spec);
}
void CpuBackend::load(const View& to, const void* host, const MappedFile&) {
  upload(to, host);
}

// ---- a step ---------------------------------------------------------------------------------------------------------

void CpuBackend::begin_step(const StepPlan&) {}  // the plan is in this memory already
View CpuBackend::run_step(const StepShape&, const std::function<View()>& issue, bool) {
  return issue();
}

void CpuBackend::embed(const EmbedArgs& args) {
  if (args.work->measuring()) return;
  embed_tokens(pool_, args);
  args.comm->all_reduce_sum(args.x);
  place_features(pool_, args);
}

void CpuBackend::norm(const NormArgs& args) {
  rms_norm({pool_, *args.work}, args.x, args.out_rows ? args.step->out_rows.data() : nullptr, args.norm_weight,
           args.norm_eps, args.h);
}

void CpuBackend::qkv(const QkvArgs& args) {
  OpContext ctx{pool_, *args.work};
  Scratch scratch(ctx.work);
  View qkv = scratch.take(args.h.dtype, {args.h.rows(), args.w->spec.n});
  cpu::linear(ctx, args.h, *args.w, qkv);
  finish_qkv(ctx, args, qkv);
}

void CpuBackend::attention(const AttentionArgs& args) {
  paged_attention({pool_, *args.work}, args);
}

void CpuBackend::attn_out(const AttnOutArgs& args) {
  OpContext ctx{pool_, *args.work};
  Scratch scratch(ctx.work);
  View sums = scratch.take(DType::f32, {1, args.x.rows(), args.x.cols()});
  cpu::linear(ctx, args.attn, *args.w, sums);
  if (!ctx.measuring()) args.comm->all_reduce_sum(sums);
  add_residual(ctx, sums, args.x);
  rms_norm(ctx, args.x, nullptr, args.norm_weight, args.norm_eps, args.h);
  if (!args.router) return;
  View logits = scratch.take(args.x.dtype, {args.x.rows(), args.router->spec.n});
  cpu::linear(ctx, args.h, *args.router, logits);
  route_rows(ctx, logits, args.route);
}

namespace {
// `first`, then one job make(begin, n) for each expert's run of slots [begin, begin + n), all in one go. A measuring
// run does not know the routing: its scratch is that of all slots going to one expert.
template <class Make>
void linear_experts(const OpContext& ctx, Scratch& scratch, const ExpertGroups& groups, const LinearJob& first,
                    const PackedWeight* experts, int64_t n_slots, const Make& make) {
  auto job_of = [&](int64_t e, int64_t begin, int64_t n) {
    LinearJob job = make(begin, n);
    job.w = experts;
    job.expert = e;
    return job;
  };
  LinearJob* jobs = scratch.take_array<LinearJob>(1 + groups.n_experts);
  if (ctx.measuring()) {
    std::vector<LinearJob> all{first};
    for (int64_t e = 0; e < groups.n_experts; ++e) all.push_back(job_of(e, 0, e == 0 ? n_slots : 0));
    cpu::linear(ctx, all);
    return;
  }
  jobs[0] = first;
  for (int64_t e = 0; e < groups.n_experts; ++e)
    jobs[1 + e] = job_of(e, groups.begin[e], groups.begin[e + 1] - groups.begin[e]);
  cpu::linear(ctx, {jobs, size_t(1 + groups.n_experts)});
}
}  // namespace

void CpuBackend::ffn_up(const FfnUpArgs& args) {
  OpContext ctx{pool_, *args.work};
  Scratch scratch(ctx.work);
  const DType a = args.h.dtype;
  const int64_t n_rows = args.h.rows(), n_slots = args.experts ? n_rows * args.route.top_k : 0;
  View shared = scratch.take(a, {n_rows, args.shared->spec.n});
  LinearJob shared_job{.w = args.shared, .x = args.h, .y = shared, .n_rows = n_rows};
  if (!args.experts) {
    cpu::linear(ctx, {&shared_job, 1});
    swiglu(ctx, shared, nullptr, args.act_shared);
    return;
  }
  View routed = scratch.take(a, {n_slots, args.experts->spec.n});  // grouped by expert
  ExpertGroups groups = group_by_expert(scratch, ctx, args.route, args.first_expert, args.experts->spec.n_experts);
  linear_experts(ctx, scratch, groups, shared_job, args.experts, n_slots, [&](int64_t begin, int64_t n) {
    return LinearJob{.x = args.h,
                     .y = routed.slice(begin, n),
                     .n_rows = n,
                     .x_rows = groups.rows + begin,
                     .x_scale = groups.scores + begin};
  });
  swiglu(ctx, shared, nullptr, args.act_shared);
  swiglu(ctx, ctx.measuring() ? routed : routed.slice(0, groups.begin[groups.n_experts]), groups.slots,
         args.act_routed);
}

void CpuBackend::ffn_down(const FfnDownArgs& args) {
  OpContext ctx{pool_, *args.work};
  Scratch scratch(ctx.work);
  const int64_t n_rows = args.x.rows(), d = args.x.cols();
  View sums = scratch.take(DType::f32, {args.experts ? 2 : 1, n_rows, d});  // of the shared and the routed experts
  LinearJob shared_job{.w = args.shared, .x = args.act_shared, .y = sums.slice(0, 1), .n_rows = n_rows};
  if (!args.experts) {
    cpu::linear(ctx, {&shared_job, 1});
  } else {
    const int64_t n_slots = n_rows * args.route.top_k, n_experts = args.experts->spec.n_experts;
    View down = scratch.take(DType::f32, {n_slots, d});
    ExpertGroups groups = group_by_expert(scratch, ctx, args.route, args.first_expert, n_experts);
    linear_experts(ctx, scratch, groups, shared_job, args.experts, n_slots, [&](int64_t begin, int64_t n) {
      return LinearJob{
          .x = args.act_routed, .y = down, .n_rows = n, .x_rows = groups.slots + begin, .y_rows = groups.slots + begin};
    });
    // With several ranks `down` may hold parts of sums: they are rounded when they are whole.
    const bool round_each = args.comm->size() == 1;
    combine_experts(ctx, down, args.route, args.first_expert, n_experts, args.x.dtype, round_each,
                    sums.slice(1, 1).reshape({n_rows, d}));
  }
  if (!ctx.measuring()) args.comm->all_reduce_sum(sums);
  add_residual(ctx, sums, args.x);
  if (args.norm_weight) rms_norm(ctx, args.x, nullptr, args.norm_weight, args.norm_eps, args.h);
}

void CpuBackend::head(const HeadArgs& args) {
  OpContext ctx{pool_, *args.work};
  Scratch scratch(ctx.work);
  const int64_t n_out = args.h.rows(), v_local = args.w->spec.n, ranks = args.comm->size();
  L4_CHECK(args.logits.elements() == n_out * v_local * ranks);
  if (ranks == 1) {
    cpu::linear(ctx, args.h, *args.w, args.logits);
    round_values(ctx, args.logits, args.h.dtype);
    return;
  }
  View part = scratch.take(DType::f32, {n_out, v_local});
  View parts = scratch.take(DType::f32, {ranks, n_out, v_local});
  cpu::linear(ctx, args.h, *args.w, part);
  round_values(ctx, part, args.h.dtype);
  if (ctx.measuring()) return;
  args.comm->all_gather(part, parts);
  for (int64_t i = 0; i < n_out; ++i)
    for (int64_t r = 0; r < ranks; ++r)
      std::memcpy(args.logits.f32() + (i * ranks + r) * v_local, parts.f32() + (r * n_out + i) * v_local,
                  size_t(v_local) * sizeof(float));
}

std::vector<TokenChoice> CpuBackend::sample(const View& logits, std::span<const SamplingRow> rows) {
  L4_CHECK(logits.rows() == int64_t(rows.size()), logits.rows(), " rows of logits, ", rows.size(), " of parameters");
  std::vector<TokenChoice> choices(rows.size());
  const int64_t v = logits.cols();
  pool_.parallel_items(logits.rows(), [&](int64_t slot, int64_t i) {
    choices[size_t(i)] =
        sample_row({logits.f32() + i * v, size_t(v)}, rows[size_t(i)], i, sample_scratch_[size_t(slot)]);
  });
  return choices;
}

// ---- vision ---------------------------------------------------------------------------------------------------------

void CpuBackend::vision_embed(const VisionEmbedArgs& args) {
  OpContext ctx{pool_, *args.work};
  Scratch scratch(ctx.work);
  const int64_t n_patches = args.x.shape[0] * (args.x.shape[1] - 1);
  View patches = scratch.take(DType::bf16, {n_patches, args.patch->spec.k});
  View embedded = scratch.take(args.x.dtype, {n_patches, args.patch->spec.n});
  cut_patches(ctx, args.pixels, args.patch_size, patches);
  cpu::linear(ctx, patches, *args.patch, embedded);
  add_positions(ctx, embedded, args.class_embedding, args.position_embedding, args.x);
  layer_norm(ctx, args.x, args.norm, args.x);
}

void CpuBackend::vision_qkv(const VisionQkvArgs& args) {
  OpContext ctx{pool_, *args.work};
  Scratch scratch(ctx.work);
  const int64_t n_rows = args.x.shape[0] * args.x.shape[1], d = args.x.shape[2];
  View h = scratch.take(args.x.dtype, {n_rows, d});
  View qkv = scratch.take(args.x.dtype, {n_rows, 3 * d});
  layer_norm(ctx, args.x, args.norm, h);
  cpu::linear(ctx, h, *args.w, qkv);
  split_vision_qkv(ctx, args, qkv);
}

void CpuBackend::vision_attention(const VisionAttentionArgs& args) {
  tile_attention({pool_, *args.work}, args);
}

void CpuBackend::linear(const LinearArgs& args) {
  OpContext ctx{pool_, *args.work};
  Scratch scratch(ctx.work);
  View in = args.in;
  if (args.norm) {
    in = scratch.take(args.in.dtype, {args.in.rows(), args.in.cols()});
    layer_norm(ctx, args.in, *args.norm, in);
  }
  if (args.activation == Activation::none && !args.residual) {
    cpu::linear(ctx, in, *args.w, args.out);
    return;
  }
  View z = scratch.take(args.out.dtype, {args.out.rows(), args.out.cols()});
  cpu::linear(ctx, in, *args.w, z);
  activate(ctx, z, args.activation, args.residual, args.out);
}

void CpuBackend::vision_shuffle(const VisionShuffleArgs& args) {
  OpContext ctx{pool_, *args.work};
  Scratch scratch(ctx.work);
  View normed = scratch.take(args.x.dtype, {args.x.shape[0], args.x.shape[1], args.x.shape[2]});
  layer_norm(ctx, args.x, args.norm, normed);
  pixel_shuffle(ctx, normed, args.grid, args.shuffle, args.out);
}

}  // namespace l4
