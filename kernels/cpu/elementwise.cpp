// Activations, residual sums and roundings (llama4-spec 2.7, 3.2, appendix B).
#include <algorithm>
#include <cmath>

#include "kernels/cpu/ops.h"
#include "kernels/cpu/simd/kernels.h"

namespace l4::cpu {

namespace {
float gelu(float z) {
  return 0.5f * z * (1.0f + std::erf(z * 0.70710678118654752f));
}
}  // namespace

void swiglu(const OpContext& ctx, const View& gate_up, const int32_t* rows, const View& out) {
  if (ctx.measuring()) return;
  const int64_t f = out.shape[out.shape.rank() - 1];
  const int64_t n_rows = gate_up.elements() / (2 * f);
  const SimdKernels& simd = simd_kernels();
  with_activation(out.dtype, [&](auto tag) {
    using A = decltype(tag);
    ctx.pool.parallel_for(n_rows, row_grain(4 * f), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const A *gate = data<A>(gate_up) + i * 2 * f, *up = gate + f;
        A* to = data<A>(out) + (rows ? rows[i] : i) * f;
        constexpr int64_t kPiece = 256;
        float piece[kPiece];
        for (int64_t j = 0; j < f; j += kPiece) {
          const int64_t n = std::min(kPiece, f - j);
          for (int64_t k = 0; k < n; ++k) piece[k] = get(gate[j + k]);
          simd.silu(piece, piece, n);
          for (int64_t k = 0; k < n; ++k) to[j + k] = rounded<A>(round_to<A>(piece[k]) * get(up[j + k]));
        }
      }
    });
  });
}

void add_residual(const OpContext& ctx, const View& parts, const View& x) {
  if (ctx.measuring()) return;
  const int64_t n = x.elements();
  const float *first = parts.f32(), *second = first + n;
  const bool two = parts.shape[0] == 2;
  with_activation(x.dtype, [&](auto tag) {
    using A = decltype(tag);
    ctx.pool.parallel_for(n, row_grain(1), [&](int64_t begin, int64_t end) {
      A* to = data<A>(x);
      if (two) {
        for (int64_t i = begin; i < end; ++i)
          to[i] = rounded<A>(get(to[i]) + round_to<A>(round_to<A>(first[i]) + round_to<A>(second[i])));
      } else {
        for (int64_t i = begin; i < end; ++i) to[i] = rounded<A>(get(to[i]) + round_to<A>(first[i]));
      }
    });
  });
}

void activate(const OpContext& ctx, const View& z, Activation activation, const View& residual, const View& out) {
  if (ctx.measuring()) return;
  L4_CHECK(z.elements() == out.elements() && (!residual || residual.elements() == out.elements()));
  with_activation(out.dtype, [&](auto tag) {
    using A = decltype(tag);
    const A *from = data<A>(z), *add = residual ? data<A>(residual) : nullptr;
    A* to = data<A>(out);
    ctx.pool.parallel_for(out.elements(), row_grain(8), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        float v = get(from[i]);
        if (activation == Activation::gelu) v = round_to<A>(gelu(v));
        to[i] = rounded<A>(add ? get(add[i]) + v : v);
      }
    });
  });
}

void round_values(const OpContext& ctx, const View& v, DType to) {
  if (ctx.measuring() || to == DType::f32) return;
  float* values = v.f32();
  ctx.pool.parallel_for(v.elements(), row_grain(1), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) values[i] = round_bf16(values[i]);
  });
}

}  // namespace l4::cpu
