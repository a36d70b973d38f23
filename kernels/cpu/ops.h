// The plain operations the CPU backend's stages are made of, one file a family, each tested alone. A is the activation
// type of the views (float32 or bfloat16): everything is computed in float32 and rounded to A where stated. Every row
// is computed by the same operations in the same order whatever the other rows and however many threads there are.
//
// Operations with a context take scratch from it and do nothing more when it measures.
#pragma once

#include <span>

#include "kernels/cpu/element.h"
#include "ops/op_args.h"
#include "ops/sampling.h"

namespace l4::cpu {

// ---- norm.cpp -------------------------------------------------------------------------------------------------------

// out[i] = round(round(x * rsqrt(mean(x^2) + eps)) * weight), x = in[rows ? rows[i] : i]; in, out [T, D] A, weight [D]
// A.
void rms_norm(const OpContext&, const View& in, const int32_t* rows, const View& weight, float eps, const View& out);
// out = round((x - mean) / sqrt(var + eps) * weight + bias); [M, D] A. `out` may be `in`.
void layer_norm(const OpContext&, const View& in, const LayerNormWeights& norm, const View& out);
// The RMS norm without a weight over one head, in place: v = round(v * rsqrt(mean(v^2) + eps)).
template <class A>
void qk_norm(A* v, int64_t n, float eps);

// ---- rope.cpp -------------------------------------------------------------------------------------------------------

// table[t][i] = (cos, sin) of fl32(float(positions[t]) * inv_freq[i]); inv_freq [hd / 2], table [T, hd / 2, 2] f32.
void rope_table(const OpContext&, std::span<const int32_t> positions, const View& inv_freq, const View& table);
// Adjacent pairs of v [hd] rotated by table [hd / 2, 2], rounded to A.
template <class A>
void rotate(A* v, int64_t hd, const float* table);
// 1 + attn_scale * log1p(floor((p + 1) / floor_scale)), in float32.
float query_temperature(int64_t position, float floor_scale, float attn_scale);
// The second half of the qkv stage: qkv [T, (H + 2K) * hd] A to args.q and the pages.
void finish_qkv(const OpContext&, const QkvArgs& args, const View& qkv);

// ---- linear.cpp -----------------------------------------------------------------------------------------------------

// y[y_row(i)] = x[x_row(i)] W[expert]^T (+ b) for i < n_rows, rounded to y's type. Sums are float32: chains of 512 (of
// codes 128) in order of k, added up in order. With x_scale the input is round(x * x_scale[i]) (rounded to x's type).
// Quantised input (LinearSpec::input) is codes q of x / s, x as it is, and x_scale multiplies s. FP8 weights: (sum of
// q * code) * (s * scale), or * scale where the input is as it is. INT4: each group's sum of x * code times its scale.
struct LinearJob {
  const PackedWeight* w = nullptr;
  int64_t expert = 0;
  View x;  // [*, k] f32 or bf16
  View y;  // [*, n] f32 or bf16
  int64_t n_rows = 0;
  const int32_t* x_rows = nullptr;  // null: row i
  const int32_t* y_rows = nullptr;
  const float* x_scale = nullptr;
};
void linear(const OpContext&, std::span<const LinearJob> jobs);
void linear(const OpContext&, const View& x, const PackedWeight& w, const View& y);

// pack.cpp: the layout linear() reads (panels.h).
PackedWeight pack_weight(ThreadPool&, const LinearSpec&, std::span<const WeightSlice> weight,
                         std::span<const WeightSlice> bias, std::span<const WeightSlice> scale = {});
size_t packed_weight_bytes(const LinearSpec&);
inline int64_t n_panels(const LinearSpec& spec) {
  return (spec.n + 31) / 32;
}

// ---- attention.cpp --------------------------------------------------------------------------------------------------

void paged_attention(const OpContext&, const AttentionArgs&);
void tile_attention(const OpContext&, const VisionAttentionArgs&);

// ---- elementwise.cpp ------------------------------------------------------------------------------------------------

// out = round(round(silu(g)) * u); gate_up [M, 2F] A (gate first), out [., F] A. Row i goes to out[rows ? rows[i] : i].
void swiglu(const OpContext&, const View& gate_up, const int32_t* rows, const View& out);
// x = round(x + y), y = round(parts[0]) or round(round(parts[0]) + round(parts[1])); parts [1 or 2, T, D] f32, x [T, D]
// A.
void add_residual(const OpContext&, const View& parts, const View& x);
// out = act(z) rounded, with a residual round(residual + that); all [M, N] A. `out` may be any of the inputs.
void activate(const OpContext&, const View& z, Activation activation, const View& residual, const View& out);
// v = round_A(v) in place, v f32, A given.
void round_values(const OpContext&, const View& v, DType to);

// ---- moe.cpp --------------------------------------------------------------------------------------------------------

// logits [T, E] A to the top_k experts and scores of each row (op_args.h, Route).
void route_rows(const OpContext&, const View& logits, const Route& route);

// The (row, choice) pairs whose expert is one of n_experts from first_expert, grouped by expert; slot = row * top_k +
// choice. Expert e has slots [begin[e], begin[e + 1]), ascending.
struct ExpertGroups {
  int64_t n_experts = 0;
  int32_t* begin = nullptr;  // [n_experts + 1]
  int32_t* slots = nullptr;  // [T * top_k]
  int32_t* rows = nullptr;   // [T * top_k] slot / top_k
  float* scores = nullptr;   // [T * top_k] of the slots, in this order
};
ExpertGroups group_by_expert(Scratch&, const OpContext&, const Route&, int64_t first_expert, int64_t n_experts);

// sums[t] = sum over the row's choices that live here of down[slot]; each rounded to A first if round_each.
// down [T * top_k, D] f32, sums [T, D] f32.
void combine_experts(const OpContext&, const View& down, const Route&, int64_t first_expert, int64_t n_experts, DType a,
                     bool round_each, const View& sums);

// ---- embed.cpp ------------------------------------------------------------------------------------------------------

void embed_tokens(ThreadPool&, const EmbedArgs&);  // absent tokens: zero
void place_features(ThreadPool&, const EmbedArgs&);

// ---- vision.cpp -----------------------------------------------------------------------------------------------------

// pixels [N, C, side, side] bf16 to patches [N * P, C * p * p] bf16.
void cut_patches(const OpContext&, const View& pixels, int64_t patch_size, const View& patches);
// x[n][s] = round((s < P ? patches[n][s] : class) + position[s]); patches [N * P, Dv] A, x [N, S, Dv] A.
void add_positions(const OpContext&, const View& patches, const View& class_embedding, const View& position_embedding,
                   const View& x);
// qkv [N * S, 3 * Dv] A to q, k (rotated by args.rope) and v.
void split_vision_qkv(const OpContext&, const VisionQkvArgs& args, const View& qkv);
void pixel_shuffle(const OpContext&, const View& in, int64_t grid, int64_t shuffle, const View& out);

// ---- sample.cpp -----------------------------------------------------------------------------------------------------

// See ops/sampling.h. Error{internal} for NaN or +infinity in the row (named by `row`) or when nothing is allowed.
struct SampleScratch {  // kept between calls, so that they need not allocate
  std::vector<float> values, weights;
  std::vector<int32_t> ids, counts;
};
TokenChoice sample_row(std::span<const float> logits, const SamplingRow& params, int64_t row, SampleScratch& scratch);

}  // namespace l4::cpu
