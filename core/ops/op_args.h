// Arguments of the backend's stages. Views live on the backend's device unless said otherwise; A is the activation type
// (float32 or bfloat16), and every tensor "rounded to A" is rounded where transformers' bf16 model rounds it
// (llama4-spec appendix B), which in float32 means not at all. Letters of shapes: tensor/view.h; hd is head_dim.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "base/file.h"
#include "ops/attention_kind.h"
#include "ops/random_weights.h"
#include "ops/step_plan.h"
#include "quant/format.h"
#include "tensor/arena.h"
#include "tensor/buffer.h"

namespace l4 {

class Comm;

// ---- weights --------------------------------------------------------------------------------------------------------

// A linear layer y = x W^T + b as the model knows it: logical shape, not memory layout.
struct LinearSpec {
  std::string name;             // for messages
  int64_t n = 0, k = 0;        // output and input width on this rank
  int64_t n_experts = 1;       // E stacked matrices of [n, k]
  bool gated = false;          // rows are gate (first n/2) and up (last n/2); a backend may interleave them
  bool bias = false;
  WeightFormat format = WeightFormat::bf16;
  int64_t group = 0;            // int4: columns that share a scale
  InputFormat input = InputFormat::as_is;
  float input_scale = 0;        // of fp8_static
};

// A rectangle of a checkpoint tensor and where it goes: element (i, j) of the slice is
// data[i * n_stride + j * k_stride] (strides in elements) and becomes W[expert][n_offset + i][k_offset + j].
// A bias slice has k == 1 and goes to b[n_offset + i].
// Codes of int4: words (I32) of eight, the lowest four bits first, code + 8 each; k and k_offset count codes and are multiples
// of 8, n_stride counts words, k_stride is 1.
// A slice of scales counts groups where a weight's counts columns: k == 1 where a row has one. A stride may be 0: rows, or
// groups, that share a scale.
struct WeightSlice {
  const void* data = nullptr;  // host memory
  DType dtype = DType::bf16;
  int64_t n = 0, k = 0;
  int64_t n_stride = 0, k_stride = 1;
  int64_t expert = 0, n_offset = 0, k_offset = 0;
  const MappedFile* file = nullptr;  // that `data` lies in, if it does: a backend may read it by other ways than the map
};

// The same where no file is needed: element (i, j) is element first + i * n_stride + j * k_stride of a made-up tensor
// (ops/random_weights.h), so it is the same however the tensor is cut. at.data is null.
struct RandomSlice {
  WeightSlice at;
  int64_t first = 0;
  RandomTensor tensor;
};

// A weight in the layout of the backend that packed it. Nobody else looks inside the buffers.
struct PackedWeight {
  LinearSpec spec;
  Buffer data, scales, bias;
  explicit operator bool() const { return bool(data); }
  size_t bytes() const { return data.bytes() + scales.bytes() + bias.bytes(); }
};

// ---- KV pages -------------------------------------------------------------------------------------------------------

// Where things lie in one layer's part of a page: K [K, page_tokens, hd], V the same, then, in formats with per-token
// scales, bf16 scales [K, page_tokens] of each. Offsets in bytes from the layer's part; -1 when absent.
// f8_e4m3: x is kept as the code nearest to x / s, beyond 448 the largest. A token's scale in a kv head is max|x| / 448
// rounded to bf16, 1 where that is 0, NaN where any x is.
struct KvLayout {
  DType dtype = DType::bf16;
  int64_t page_tokens = 0, n_kv_heads = 0, head_dim = 0;
  int64_t k_offset = 0, v_offset = 0, k_scale_offset = -1, v_scale_offset = -1;
  int64_t layer_bytes = 0;  // of one page of one layer, a multiple of 256
};

// One layer's pages: the layer's part of page p begins at base + p * page_stride.
struct KvLayer {
  AttentionKind kind = AttentionKind::global;
  KvLayout layout;
  void* base = nullptr;
  int64_t page_stride = 0;
  float k_scale = 0, v_scale = 0;  // f8_e4m3 with one scale for all tokens; 0: each token's lies in the page
};

// ---- text -----------------------------------------------------------------------------------------------------------

struct EmbedArgs {
  const StepPlan* step;
  View table;           // [V_local, D] A
  int64_t first_vocab;  // this rank holds tokens [first_vocab, first_vocab + V_local)
  View features;        // [F, D] A encoder cache; rows named by step->image_rows
  View x;               // out [T, D] A
  Comm* comm;           // sums the ranks' parts (each token lives on one rank)
  Arena* work;
};

// h = RMSNorm(x) with two roundings, of all rows, or of step->out_rows alone. Only where a stage of the pipeline begins
// and before the head of a step that does not want all rows' logits: all other norms belong to the sum before them.
struct NormArgs {
  const StepPlan* step;
  bool out_rows;
  View x;            // [T, D] A
  View norm_weight;  // [D] A
  float norm_eps;
  View h;            // out [T or n_out, D] A
  Arena* work;
};

// q, k, v = h W^T (+ b), rounded to A;
// RoPE layers: adjacent pairs rotated in fp32 and rounded, then (qk_norm) the weightless RMS norm over hd, rounded;
// NoPE layers: q scaled by 1 + attn_scale * log1p(floor((p + 1) / floor_scale)) in fp32 and rounded (temperature).
// k and v go to the pages, q to `q`.
struct QkvArgs {
  const StepPlan* step;
  View h;                    // [T, D] A
  const PackedWeight* w;     // [(H + 2K) * hd, D]: rows of q, then k, then v
  View inv_freq;             // [hd / 2] f32 in HOST memory; empty on NoPE layers
  bool qk_norm;
  float qk_norm_eps;
  bool temperature;          // apply temperature tuning (only ever true on NoPE layers)
  float floor_scale, attn_scale;
  KvLayer kv;
  View q;                    // out [T, H, hd] A
  Arena* work;
};

// softmax(q k^T * scale) v per query head (head h reads kv head h * K / H), causal within each span; fp32 scores and
// softmax, P rounded to A, fp32 sums, result rounded to A.
struct AttentionArgs {
  const StepPlan* step;
  View q;  // [T, H, hd] A
  KvLayer kv;
  float scale;
  View out;  // [T, H, hd] A
  Arena* work;
};

// Which experts a row goes to: the k largest bf16-rounded (in A = float32: unrounded) logits, lowest index on ties,
// ordered by logit; score = sigmoid(logit) rounded to A.
struct Route {
  int64_t top_k = 0;  // 0: a dense layer, no routing
  View expert;        // [T, top_k] i32
  View score;         // [T, top_k] f32
};

// y = attn W^T (+ b), summed over ranks, rounded to A; x = x + y rounded to A; h = RMSNorm(x); route by the router.
struct AttnOutArgs {
  View attn;                   // [T, H_local * hd] A
  const PackedWeight* w;       // [D, H_local * hd]
  View x;                      // in/out [T, D] A
  View norm_weight;            // [D] A
  float norm_eps;
  View h;                      // out [T, D] A
  const PackedWeight* router;  // [E, D], replicated; null in dense layers
  Route route;                 // out
  Comm* comm;
  Arena* work;
};

// shared (or dense):  a = round(round(silu(g)) * u) with g, u = h W^T rounded to A
// routed:             the same with input round(h * score), only for rows whose expert lives here
struct FfnUpArgs {
  View h;                        // [T, D] A
  const PackedWeight* shared;    // [2 * F_s, D] gated: shared expert, or the dense MLP
  const PackedWeight* experts;   // [E_local][2 * F_e, D] gated; null in dense layers
  int64_t first_expert;          // experts [first_expert, first_expert + E_local) live here
  Route route;
  View act_shared;               // out [T, F_s] A
  View act_routed;               // out [T * top_k, F_e] A; rows of absent experts are left undefined
  Arena* work;
};

// y = round(shared down) + round(sum over the row's local experts of round(down)), summed over ranks;
// x = x + y rounded to A; h = RMSNorm(x), for the next layer or the head.
struct FfnDownArgs {
  View act_shared;              // [T, F_s] A
  const PackedWeight* shared;   // [D, F_s]
  View act_routed;              // [T * top_k, F_e] A
  const PackedWeight* experts;  // [E_local][D, F_e]; null in dense layers
  int64_t first_expert;
  Route route;
  View x;                       // in/out [T, D] A
  View norm_weight;             // [D] A; empty: no h
  float norm_eps;
  View h;                       // out [T, D] A
  Comm* comm;
  Arena* work;
};

// logits = h W^T, rounded to A, written as float32, all ranks' vocabulary parts side by side.
struct HeadArgs {
  View h;                 // [n_out, D] A: the norm of step->out_rows
  const PackedWeight* w;  // [V_local, D]
  View logits;            // out [n_out, V] f32
  Comm* comm;
  Arena* work;
};

// ---- vision (N tiles, P patches a tile, S = P + 1 tokens, the class token last) -----------------------------------------

struct LayerNormWeights {
  View weight, bias;  // [Dv] A
  float eps = 1e-5f;
};

// Patches of size p in row-major order, vector index c * p * p + ky * p + kx; linear, class token appended last, position
// embedding added, LayerNorm. Each of linear, sum and norm is rounded to A.
struct VisionEmbedArgs {
  View pixels;               // [N, C, side, side] bf16
  int64_t patch_size;
  const PackedWeight* patch;  // [Dv, C * p * p]
  View class_embedding;       // [Dv] A
  View position_embedding;    // [S, Dv] A
  LayerNormWeights norm;
  View x;                     // out [N, S, Dv] A
  Arena* work;
};

// q, k, v = LayerNorm(x) W^T + b rounded to A; q and k rotated by the 2-D table in fp32 (adjacent pairs), rounded.
struct VisionQkvArgs {
  View x;                 // [N, S, Dv] A
  LayerNormWeights norm;
  const PackedWeight* w;  // [3 * Dv, Dv]: q, k, v
  View rope;              // [S, hd / 2, 2] f32 (cos, sin) in HOST memory
  View q, k, v;           // out [N, S, Hv, hd] A
  Arena* work;
};

// Full attention within each tile; precision as AttentionArgs.
struct VisionAttentionArgs {
  View q, k, v;  // [N, S, Hv, hd] A
  float scale;
  View out;      // [N, S, Hv, hd] A
  Arena* work;
};

enum class Activation : uint8_t { none, gelu };  // gelu: exact, 0.5 z (1 + erf(z / sqrt 2))

// out = act(round(norm?(in) W^T + b)), rounded; with a residual: out = round(residual + that). out may be residual.
struct LinearArgs {
  View in;                        // [M, K] A
  const LayerNormWeights* norm;   // null: none
  const PackedWeight* w;          // [N, K]
  Activation activation = Activation::none;
  View residual;                  // [M, N] A, or empty
  View out;                       // [M, N] A
  Arena* work;
};

// LayerNorm, class token dropped, pixel shuffle: out[(r, c)][dy * s * Dv + dx * Dv + ch] = in[(s r + dy, s c + dx)][ch].
struct VisionShuffleArgs {
  View x;  // [N, S, Dv] A
  LayerNormWeights norm;
  int64_t grid, shuffle;  // grid patches a side; s = shuffle
  View out;               // [N, P / s^2, Dv * s^2] A
  Arena* work;
};

}  // namespace l4
