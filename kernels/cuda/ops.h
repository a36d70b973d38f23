// The operations that the CUDA backend's stages are made of, one folder or file a family, each with the contract of its
// namesake in kernels/cpu/ops.h, which is what it is tested against. A is the activation type of the views: bfloat16 on
// the fast paths; every operation also takes float32 and any shape on a generic path, for tests and tiny models. Views
// and pointers are device memory unless said otherwise. Everything is issued to ctx.gpu.stream: no operation allocates,
// waits, or reads the device's memory on the host, so a step can be recorded as a graph.
//
// Float32 sums are in an order that depends on shapes alone, never on timing: the same step gives the same bits. Where
// ctx.invariant asks for it, not on the number of rows either: the same row gives the same bits in any step.
#pragma once

#include <functional>
#include <span>

#include "kernels/cuda/gpu.h"
#include "ops/op_args.h"

namespace l4::cuda {

struct PeerLinks;
struct DefectNotes;  // weight_defects.h

// ---- norm.cu --------------------------------------------------------------------------------------------------------

// rows: null, or [out.rows()] row numbers of `in`.
void rms_norm(const OpContext&, const View& in, const int32_t* rows, const View& weight, float eps, const View& out);
void layer_norm(const OpContext&, const View& in, const LayerNormWeights& norm, const View& out);
// x = round(x + y), y [T, D] A. With peers (peer_comm.h: links_for) y is this rank's part of the sum, which is made on the
// way; it is kept as it is. Where it has been sent (PeerLinks::sent), y is nothing.
void add_residual(const OpContext&, const View& y, const View& x, const PeerLinks* peers = nullptr);
// The end of attn_out and of ffn_down in one kernel: x = round(x + y); h = RMSNorm(x); route by the router [E, D] unless it
// is null. Whether h may be OpContext::published.
bool add_residual_norm_route(const OpContext&, const View& y, const View& x, const View& norm_weight, float eps,
                             const View& h, const PackedWeight* router, const Route& route,
                             const PeerLinks* peers = nullptr);

// ---- rope.cu --------------------------------------------------------------------------------------------------------

// The second half of the qkv stage: qkv [T, (H + 2K) * hd] A to args.q and the pages.
void finish_qkv(const OpContext&, const QkvArgs& args, const View& qkv);

// ---- matmul/ --------------------------------------------------------------------------------------------------------

// y[i] = x[i] W^T (+ b), y [M, n] f32 or A; each value is rounded to `round_to` before it is stored. One expert only.
// peers: a sum of y over ranks by these links is next; true if y has been sent to them (PeerLinks::sent) and not stored.
bool linear(const OpContext&, const View& x, const PackedWeight& w, const View& y, DType round_to,
            const PeerLinks* peers = nullptr);
// The stages whole. The CUDA backend keeps act_routed in the order of its expert groups where that is faster; only
// ffn_down reads it. y [T, D] A: this rank's part of the sum, rounded once (shared and routed added in float32). Of
// ffn_down the route must be older than the kernel before it, as it is after ffn_up: it is read before that one's end.
void ffn_up(const OpContext&, const FfnUpArgs&);
bool ffn_down(const OpContext&, const FfnDownArgs&, const View& y, const PeerLinks* peers = nullptr);
// What serves them (matmul/dispatch.h): "generic", which nobody should time, "small_m", "cublaslt", "grouped", "int4", ...
const char* linear_kernel_name(const LinearSpec&, DType x, int64_t n_rows, bool invariant = false);
const char* ffn_kernel_name(const FfnUpArgs&, bool invariant = false);

// ---- pack.cu --------------------------------------------------------------------------------------------------------

// Row-major [n, k], experts one after another, in spec.format, scales beside them (weight_layout.h). Gated weights whose half
// is a multiple of 8 are interleaved: 8 gate rows, then their 8 up rows, so that one thread of a matrix instruction holds a
// gate and its up. Biases are float32 [E, n], in the rows' order.
size_t packed_weight_bytes(const LinearSpec&);
// Its buffers, from `allocate`, with nothing in them yet.
using Allocate = std::function<Buffer(size_t bytes, const char* what)>;
PackedWeight empty_weight(const LinearSpec&, const Allocate& allocate);

enum class WeightPart : uint8_t {
  weights,     // values or codes
  whole_rows,  // values of which FP8 is made; a piece has all columns of its rows
  largest,     // the same where pieces have not: all of them come once as this, then finish_scales(), then as `weights`
  scales,
  bias,
};
// How the slices of a weight are to come: as weights, whole_rows or largest.
WeightPart part_of(const LinearSpec&, std::span<const WeightSlice> weight, std::span<const WeightSlice> scale);
// k and k_offset of a slice count its elements from here on, which of int4's codes are words.
WeightSlice counted_in_elements(WeightSlice slice);
// Before the first piece.
void clear_scales(cudaStream_t, const PackedWeight& to);
// A slice whose data is DEVICE memory to its place, converted. At least one of its strides is 1, k counts elements; slices of
// one weight may be issued in any order and to any stream. A slice is inside its weight (check_weight).
void pack_piece(cudaStream_t, const WeightSlice& piece, WeightPart part, const PackedWeight& to, const DefectNotes& defects);
void finish_scales(cudaStream_t, int64_t expert, int64_t first_row, int64_t n, const PackedWeight& to,
                   const DefectNotes& defects);

// ---- pack_weight.cu -------------------------------------------------------------------------------------------------

// What pack() asks of its arguments.
void check_weight(const LinearSpec&, std::span<const WeightSlice> weight, std::span<const WeightSlice> bias,
                  std::span<const WeightSlice> scale);
// A whole weight from slices in host memory: checks them, uploads, packs, and waits. Not for the load of a big model.
PackedWeight pack_weight(Gpu&, const LinearSpec&, std::span<const WeightSlice> weight, std::span<const WeightSlice> bias,
                         std::span<const WeightSlice> scale, const Allocate& allocate);

// ---- attention/ -----------------------------------------------------------------------------------------------------

void paged_attention(const OpContext&, const AttentionArgs&);
void tile_attention(const OpContext&, const VisionAttentionArgs&);

// ---- moe.cu ---------------------------------------------------------------------------------------------------------

void route_rows(const OpContext&, const View& logits, const Route& route);

// The (row, choice) pairs whose expert is one of n_experts from first_expert, grouped by expert, ascending slots within an
// expert; slot = row * top_k + choice. Expert e has entries [begin[e], begin[e + 1]). Device memory; null when measuring.
struct ExpertGroups {
  int64_t n_experts = 0, n_slots = 0;  // n_slots = T * top_k, the most there can be
  int32_t* begin = nullptr;            // [n_experts + 1]
  int32_t* slots = nullptr;            // [n_slots]
  int32_t* rows = nullptr;             // [n_slots] slot / top_k
  float* scores = nullptr;             // [n_slots]
};
ExpertGroups group_by_expert(Scratch&, const OpContext&, const Route&, int64_t first_expert, int64_t n_experts);

// ---- elementwise.cu -------------------------------------------------------------------------------------------------

// out = round(round(silu(g)) * u); gate_up [M, 2F] A or f32 in the layout that the weight's packing gave it.
void swiglu(const OpContext&, const View& gate_up, const LinearSpec& spec, const View& out);
void activate(const OpContext&, const View& z, Activation activation, const View& residual, const View& out);

// ---- embed.cu -------------------------------------------------------------------------------------------------------

void embed_tokens(const OpContext&, const EmbedArgs&);    // absent tokens: zero
void place_features(const OpContext&, const EmbedArgs&);  // rows of gpu.step.image_rows

// ---- vision.cu ------------------------------------------------------------------------------------------------------

void cut_patches(const OpContext&, const View& pixels, int64_t patch_size, const View& patches);
void add_positions(const OpContext&, const View& patches, const View& class_embedding, const View& position_embedding,
                   const View& x);
// rope: args.rope in device memory.
void split_vision_qkv(const OpContext&, const VisionQkvArgs& args, const float* rope, const View& qkv);
void pixel_shuffle(const OpContext&, const View& in, int64_t grid, int64_t shuffle, const View& out);

}  // namespace l4::cuda
