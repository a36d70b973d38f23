// Activations (contracts: kernels/cpu/ops.h). Compiled without contraction to fused multiply-adds. One thread a piece
// of the output; bytes a row of F: 6 F (swiglu), 4 to 6 F (activate).
#include "kernels/cuda/device/piece.h"
#include "kernels/cuda/one_thread_each.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/ptx/pdl.h"
#include "kernels/cuda/weight_layout.h"

namespace l4::cuda {

namespace {

// gate_up [M, 2 f] of G. interleaved: kGateBlock gates, then their ups; else all gates of a row, then its ups.
template <class G, class A, int n>
__global__ void __launch_bounds__(kThreadsEach)
    swiglu_kernel(const G* gate_up, bool interleaved, A* out, int f, int64_t n_outputs) {
  static_assert(n == 1 || n == kGateBlock);
  wait_for_predecessor();
  let_successor_start();
  const unsigned piece = blockIdx.x * kThreadsEach + threadIdx.x;  // 32 bits: divisions are dear
  const int64_t i = int64_t(piece) * n;
  if (i >= n_outputs) return;
  const unsigned row = piece / unsigned(f / n), j = piece % unsigned(f / n) * n;
  const G* gate = gate_up + int64_t(row) * 2 * f + (interleaved ? j / kGateBlock * 2 * kGateBlock + j % kGateBlock : j);
  float g[n], u[n];
  load(gate, g);
  load(gate + (interleaved ? kGateBlock : f), u);
#pragma unroll
  for (int k = 0; k < n; ++k) g[k] = round_to<A>(g[k] / (1.0f + expf(-g[k]))) * u[k];
  store(out + i, g);
}

template <class A, int n, bool gelu>
__global__ void __launch_bounds__(kThreadsEach)
    activate_kernel(const A* z, const A* residual, A* out, int64_t n_elements) {
  wait_for_predecessor();
  let_successor_start();
  const int64_t i = (int64_t(blockIdx.x) * kThreadsEach + threadIdx.x) * n;
  if (i >= n_elements) return;
  float v[n];
  load(z + i, v);
  if constexpr (gelu)
#pragma unroll
    for (int k = 0; k < n; ++k) v[k] = round_to<A>(0.5f * v[k] * (1.0f + erff(v[k] * 0.70710678118654752f)));
  if (residual) {
    float r[n];
    load(residual + i, r);
#pragma unroll
    for (int k = 0; k < n; ++k) v[k] += r[k];
  }
  store(out + i, v);
}
}  // namespace

void swiglu(const OpContext& ctx, const View& gate_up, const LinearSpec& spec, const View& out) {
  if (ctx.measuring()) return;
  const int64_t f = spec.n / 2;
  L4_CHECK(spec.gated && gate_up.elements() == 2 * out.elements() && out.elements() % f == 0);
  L4_CHECK(gate_up.dtype == out.dtype || gate_up.dtype == DType::f32, "swiglu of ", dtype_name(gate_up.dtype));
  const bool interleaved = interleaves_gate_up(spec);
  with_pieces(out.dtype, f, {gate_up, out}, [&](auto a, auto n) {
    using A = decltype(a);
    const Launch where = one_thread_each(ctx, out.elements() / n);
    if (gate_up.dtype == DType::f32)
      launch(where, swiglu_kernel<float, A, n>, data<float>(gate_up), interleaved, data<A>(out), int(f),
             out.elements());
    else
      launch(where, swiglu_kernel<A, A, n>, data<A>(gate_up), interleaved, data<A>(out), int(f), out.elements());
  });
}

void activate(const OpContext& ctx, const View& z, Activation activation, const View& residual, const View& out) {
  if (ctx.measuring()) return;
  L4_CHECK(z.elements() == out.elements() && (!residual || residual.elements() == out.elements()));
  with_pieces(out.dtype, out.elements(), {z, residual, out}, [&](auto a, auto n) {
    using A = decltype(a);
    const A* add = residual ? data<A>(residual) : nullptr;
    launch(one_thread_each(ctx, out.elements() / n),
           activation == Activation::gelu ? activate_kernel<A, n, true> : activate_kernel<A, n, false>, data<A>(z), add,
           data<A>(out), out.elements());
  });
}

}  // namespace l4::cuda
