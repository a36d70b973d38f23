// What happens to q, k and v between the projection and the cache: rotation, QK norm, temperature
// (llama4-spec 2.3-2.5).
#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/cpu/kv_pages.h"
#include "kernels/cpu/ops.h"

namespace l4::cpu {

void rope_table(const OpContext& ctx, std::span<const int32_t> positions, const View& inv_freq, const View& table) {
  if (ctx.measuring()) return;
  const int64_t pairs = inv_freq.elements();
  const float* frequency = inv_freq.f32();
  ctx.pool.parallel_for(int64_t(positions.size()), row_grain(pairs * 32), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      float* row = table.f32() + t * pairs * 2;
      for (int64_t i = 0; i < pairs; ++i) {
        // The product is rounded to float32 as the reference does; cosf and sinf reduce the full range.
        float angle = float(positions[size_t(t)]) * frequency[i];
        row[2 * i] = std::cos(angle);
        row[2 * i + 1] = std::sin(angle);
      }
    }
  });
}

template <class A>
void rotate(A* v, int64_t hd, const float* table) {
  for (int64_t i = 0; i < hd; i += 2) {
    float a = get(v[i]), b = get(v[i + 1]), c = table[i], s = table[i + 1];
    v[i] = rounded<A>(a * c - b * s);
    v[i + 1] = rounded<A>(a * s + b * c);
  }
}
template void rotate(float*, int64_t, const float*);
template void rotate(BFloat16*, int64_t, const float*);

float query_temperature(int64_t position, float floor_scale, float attn_scale) {
  float steps = std::floor((float(position) + 1.0f) / floor_scale);
  return std::log1p(steps) * attn_scale + 1.0f;
}

void finish_qkv(const OpContext& ctx, const QkvArgs& args, const View& qkv) {
  Scratch scratch(ctx.work);
  const StepPlan& step = *args.step;
  const int64_t n_rows = step.n_rows(), hd = args.kv.layout.head_dim, n_kv = args.kv.layout.n_kv_heads;
  const int64_t n_heads = args.q.cols() / hd;
  const bool rope = bool(args.inv_freq);
  View table = scratch.take(DType::f32, {rope ? n_rows : 0, hd / 2, 2});
  if (rope) rope_table(ctx, step.positions, args.inv_freq, table);
  if (ctx.measuring()) return;
  L4_CHECK(qkv.cols() == (n_heads + 2 * n_kv) * hd && (!rope || args.inv_freq.elements() == hd / 2));

  const KvPages pages(args.kv, step.of(args.kv.kind));
  with_activation(qkv.dtype, [&](auto tag) {
    using A = decltype(tag);
    ctx.pool.parallel_for(n_rows, row_grain(qkv.cols() * 4), [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        A* q = data<A>(qkv) + t * qkv.cols();
        A *k = q + n_heads * hd, *v = k + n_kv * hd;
        if (rope) {
          for (int64_t h = 0; h < n_heads + n_kv; ++h) rotate(q + h * hd, hd, table.f32() + t * hd);
          if (args.qk_norm)
            for (int64_t h = 0; h < n_heads + n_kv; ++h) qk_norm(q + h * hd, hd, args.qk_norm_eps);
        } else if (args.temperature) {
          float scale = query_temperature(step.positions[size_t(t)], args.floor_scale, args.attn_scale);
          for (int64_t i = 0; i < n_heads * hd; ++i) q[i] = rounded<A>(get(q[i]) * scale);
        }
        std::memcpy(data<A>(args.q) + t * n_heads * hd, q, size_t(n_heads * hd) * sizeof(A));
        pages.write(t, k, v);
      }
    });
  });
}

}  // namespace l4::cpu
