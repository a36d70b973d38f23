// RMS norm and layer norm (llama4-spec 2.1, 2.4, 3.1). Sums run in 16 lanes, then one tree.
#include <cmath>

#include "kernels/cpu/ops.h"

namespace l4::cpu {

namespace {
// Sum of term(x[i]) in an order that depends on n only.
template <class A, class Term>
float lane_sum(const A* x, int64_t n, Term&& term) {
  constexpr int kLanes = 16;
  float lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int j = 0; j < kLanes; ++j) lanes[j] += term(get(x[i + j]));
  for (int j = 0; i + j < n; ++j) lanes[j] += term(get(x[i + j]));
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int j = 0; j < half; ++j) lanes[j] += lanes[j + half];
  return lanes[0];
}

template <class A>
float inverse_rms(const A* x, int64_t n, float eps) {
  float squares = lane_sum(x, n, [](float v) { return v * v; });
  return 1.0f / std::sqrt(squares / float(n) + eps);
}
}  // namespace

void rms_norm(const OpContext& ctx, const View& in, const int32_t* rows, const View& weight, float eps,
              const View& out) {
  if (ctx.measuring()) return;
  const int64_t d = weight.elements();
  L4_CHECK(in.dtype == out.dtype && in.dtype == weight.dtype && out.cols() == d);
  with_activation(in.dtype, [&](auto tag) {
    using A = decltype(tag);
    const A* w = data<A>(weight);
    ctx.pool.parallel_for(out.rows(), row_grain(d), [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        const A* x = data<A>(in) + (rows ? rows[t] : t) * d;
        A* y = data<A>(out) + t * d;
        float scale = inverse_rms(x, d, eps);
        for (int64_t i = 0; i < d; ++i) y[i] = rounded<A>(round_to<A>(get(x[i]) * scale) * get(w[i]));
      }
    });
  });
}

void layer_norm(const OpContext& ctx, const View& in, const LayerNormWeights& norm, const View& out) {
  if (ctx.measuring()) return;
  const int64_t d = norm.weight.elements();
  L4_CHECK(in.dtype == out.dtype && in.dtype == norm.weight.dtype && in.elements() == out.elements());
  with_activation(in.dtype, [&](auto tag) {
    using A = decltype(tag);
    const A *w = data<A>(norm.weight), *b = data<A>(norm.bias);
    ctx.pool.parallel_for(in.elements() / d, row_grain(d), [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        const A* x = data<A>(in) + t * d;
        A* y = data<A>(out) + t * d;
        float mean = lane_sum(x, d, [](float v) { return v; }) / float(d);
        float variance = lane_sum(x, d, [=](float v) { return (v - mean) * (v - mean); }) / float(d);
        float scale = 1.0f / std::sqrt(variance + norm.eps);
        for (int64_t i = 0; i < d; ++i) y[i] = rounded<A>((get(x[i]) - mean) * scale * get(w[i]) + get(b[i]));
      }
    });
  });
}

template <class A>
void qk_norm(A* v, int64_t n, float eps) {
  float scale = inverse_rms(v, n, eps);
  for (int64_t i = 0; i < n; ++i) v[i] = rounded<A>(get(v[i]) * scale);
}
template void qk_norm(float*, int64_t, float);
template void qk_norm(BFloat16*, int64_t, float);

}  // namespace l4::cpu
