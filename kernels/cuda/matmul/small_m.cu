#include "kernels/cuda/matmul/small_m.h"

#include "kernels/cuda/matmul/small_m_work.h"

namespace l4::cuda {

namespace {
using namespace small_m;

void start(const OpContext& ctx, Mode mode, Args& a, const PackedWeight& shared, const PackedWeight* routed) {
  if (mode == Mode::up) a.x_routed = a.x;
  a.x_scale = input_scale(shared.spec);
  if (routed) a.x_routed_scale = input_scale(routed->spec);
  switch (shared.spec.format) {
    case WeightFormat::fp8:
      return start_fp8(ctx, mode, a, shared, routed);
    case WeightFormat::int4:
      return start_int4(ctx, mode, a, shared, routed);
    default:
      return start_bf16(ctx, mode, a, shared, routed);
  }
}

// x where it is OpContext::published.
void take_x(Args& a, const OpContext& ctx, const View& x) {
  a.x = data<bf16>(x);
  if (ctx.published && ctx.published == x.data) a.ready = ctx.gpu.rows_ready;
  L4_CHECK(!a.ready ||
           (a.n_tokens <= Gpu::kPublishedRows && a.peers.size == 1));  // the number of the inbox is not there
}

void take_route(Args& a, const Route& route, int64_t first_expert, const PackedWeight& experts) {
  a.expert = route.expert.i32();
  a.score = route.score.f32();
  a.n_slots = int(a.n_tokens * route.top_k);
  a.top_k = int(route.top_k);
  a.first_expert = int(first_expert);
  a.n_experts = int(experts.spec.n_experts);
}
}  // namespace

bool small_m::is_one(Mode mode, const Args& a, const PackedWeight& shared, const PackedWeight* routed) {
  const int64_t of_expert = mode == Mode::down && routed ? routed->spec.k : 0;
  const bool same_codes = mode != Mode::up || !routed || a.x_scale == a.x_routed_scale;
  return a.n_tokens == 1 && a.n_slots <= 1 && shared.spec.k + of_expert <= kMostX && same_codes;
}

int64_t small_m_slab(const LinearSpec& spec) {
  const bool as_is = spec.input == InputFormat::as_is;
  switch (spec.format) {
    case WeightFormat::bf16:
      return as_is ? 64 : 0;
    case WeightFormat::fp8:
      return as_is ? 0 : 128;
    case WeightFormat::int4:
      return as_is && (spec.group == 32 || spec.group == 64 || spec.group == 128) ? 256 : 0;
    default:
      return 0;
  }
}

bool small_m_linear(const OpContext& ctx, const View& x, const PackedWeight& w, const View& y, DType round_to,
                    const PeerLinks* peers) {
  Args a;
  a.n_tokens = int(x.elements() / w.spec.k);
  if (w.spec.bias) a.bias = static_cast<const float*>(w.bias.data());
  a.y_is_f32 = y.dtype == DType::f32;
  a.y = a.y_is_f32 ? static_cast<void*>(data<float>(y)) : data<bf16>(y);
  a.round = round_to == DType::bf16;
  if (peers && y.dtype == DType::bf16) a.peers = *peers;
  take_x(a, ctx, x);
  start(ctx, Mode::linear, a, w, nullptr);
  return a.peers.size > 1;
}

void small_m_ffn_up(const OpContext& ctx, const FfnUpArgs& args) {
  Args a;
  a.n_tokens = int(args.h.rows());
  take_x(a, ctx, args.h);
  a.y = data<bf16>(args.act_shared);
  if (args.experts) {
    a.y_routed = data<bf16>(args.act_routed);
    take_route(a, args.route, args.first_expert, *args.experts);
  }
  start(ctx, Mode::up, a, *args.shared, args.experts);
}

bool small_m_ffn_down(const OpContext& ctx, const FfnDownArgs& args, const View& y, const PeerLinks* peers) {
  Args a;
  a.x = data<bf16>(args.act_shared);
  a.n_tokens = int(y.rows());
  a.y = data<bf16>(y);
  if (args.experts) {
    a.x_routed = data<bf16>(args.act_routed);
    take_route(a, args.route, args.first_expert, *args.experts);
  }
  if (peers) a.peers = *peers;
  start(ctx, Mode::down, a, *args.shared, args.experts);
  return a.peers.size > 1;
}

}  // namespace l4::cuda
