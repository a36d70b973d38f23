// What one_token's kernel works through: the layers of a decode step of one token, as data.
#pragma once

#include "kernels/cuda/attention/choose.h"
#include "kernels/cuda/gpu.h"
#include "kernels/cuda/matmul/small_m_one.h"
#include "kernels/cuda/one_token/deal.h"
#include "kernels/cuda/peer_links.h"

namespace l4::cuda::one_token {

using small_m::Matrix;

// Warps that multiply; of a warpgroup more, which gives them registers, one fetches, another cleans, two are idle.
constexpr int kWarps = 8, kThreads = 32 * (kWarps + 4);
constexpr int kRegisters = 208, kOthers = 88;  // of a thread that multiplies, and of the others
static_assert(kWarps * kRegisters + 4 * kOthers <= (kWarps + 4) * (65536 / kThreads / 8 * 8), "they wait for ever");
// The ring's stages are small: what the ring holds hides what blocks wait for, and none of it may be padding. By turns
// they are one half's of the warps and the other's.
constexpr int kTeams = 2, kTeamWarps = kWarps / kTeams;
constexpr int kRing = 10;              // stages; even, so that a place is always the same team's
constexpr int kCodesBytes = 16 << 10;  // of a stage: codes, or keys, or values ...
constexpr int kScaleBytes = 512;       // ... and, after all of them, scales
constexpr int kStageBytes = kCodesBytes + kScaleBytes;
// Stages of a team asked for and not there, as measured: of products whose x is waited for, and of the one that is
// multiplied.
constexpr int kWindow = 1, kWideWindow = 2;
constexpr int kGroup = 128;  // of INT4
template <class Weights>
using Variant = small_m::Variant<Weights, 1, 32, kTeamWarps, kRing, kTeamWarps>;
constexpr int kFp8Slab = Variant<small_m::Fp8One>::kSlabK, kInt4Slab = Variant<small_m::Int4One>::kSlabK;  // columns

constexpr int kMostWidth = 6144;              // D
constexpr int kMostX = int(small_m::kMostX);  // columns of a product, with those of an expert
constexpr int kMostParts = 3;                 // that a row's sum comes in, mostly two
constexpr int kMostExperts = 128, kMostRanks = kMaxPeers, kMostKvHeads = 64, kMostQkv = 16 << 10;

// A linear product, or the two of ffn_up or ffn_down.
struct Product {
  CUtensorMap shared_map, routed_map;
  CUtensorMap shared_scales, routed_scales;  // INT4: [E * n / 16][groups * 16]
  Matrix shared, routed;                     // routed.n 0: no experts
  Deal deal;
  float x_scale = 0, x_routed_scale = 0;  // FP8: of the input; 0: its own
};

struct Attention {
  CUtensorMap k_map, v_map;  // [pages][halves][tokens of all heads][128 bytes]
  int32_t kind = 0, n_heads = 0, n_kv = 0, group = 0;
  std::byte* pages = nullptr;
  int64_t page_stride = 0, k_offset = 0, v_offset = 0, k_scale_offset = -1, v_scale_offset = -1;
  float k_scale = 1, v_scale = 1;  // of all tokens, where they have none of their own
  float scale = 0;                 // of scores, times log2(e)
  bool rope = false, qk_norm = false, temperature = false;
  float qk_norm_eps = 0, floor_scale = 1, attn_scale = 0;
};

enum class Phase { qkv, o, up, down };
constexpr int kPhases = 4;

struct Layer {
  Product products[kPhases];
  L4_HOST_DEVICE Product& of(Phase phase) { return products[int(phase)]; }
  L4_HOST_DEVICE const Product& of(Phase phase) const { return products[int(phase)]; }
  Attention attention;
  const bf16 *attn_norm = nullptr, *ffn_norm = nullptr;  // [D]
  const bf16* router = nullptr;                          // [E, D]; null: a dense layer
  float attn_eps = 0, ffn_eps = 0;
  int32_t n_experts = 0, n_logits = 0;  // rounded up to four
  int32_t in_turn = 0;                  // not 0: expert 0 whatever the router says (l4-bench --routing uniform)
};

// A block's share of a query head's keys, unnormalised; the maximum in base 2.
struct alignas(16) HeadPart {
  float values[kFastHeadDim];
  float top, sum, unused[2];
};
struct Part {  // of the one kv head of which a block has keys, but not the first
  HeadPart heads[kMaxGroup];
};

// What blocks, and ranks, hand to each other, in words that say by themselves that they are there: a word is when it is
// not kNotThere, which is never sent (peer_links.h). Of each GPU, in its memory; other ranks write `sums`.
struct Words {  // of a layer
  alignas(16) float qkv[kMostParts][kMostQkv];
  alignas(16) float logits[kMostExperts];
  alignas(16) uint32_t attention[kMostX / 2];                     // pairs of bfloat16
  alignas(16) uint32_t activations[kMostX / 2];                   // the shared expert's, then the chosen one's
  alignas(16) float sums[2][kMostRanks][kMostParts][kMostWidth];  // of o and of down: every rank's
};
struct Memory {
  Words words[2];        // layers take turns
  uint32_t layers_done;  // since this memory was made; it says whose turn it is
};

struct Program {
  const Layer* layers = nullptr;
  int32_t n_layers = 0, width = 0;
  bf16* x = nullptr;                // the residual stream, before and after
  const bf16* last_norm = nullptr;  // null: no h
  float last_eps = 0;
  bf16* h = nullptr;
  const int32_t* position = nullptr;
  struct Kv {
    const KvSpan* span;
    const int32_t* pages;
  } kv[kNumAttentionKinds] = {};
  float inv_freq[kFastHeadDim / 2] = {};
  Part* parts[2] = {};  // [blocks], in turns
  Memory* memory[kMostRanks] = {};
  int32_t rank = 0, ranks = 1;
  // What layers use of Words, at most: for who cleans.
  int32_t qkv_parts = 0, qkv_width = 0, attention_words = 0, activation_words = 0, sum_parts = 0, n_logits = 0;
  const uint32_t* aborted = nullptr;  // host memory, of more than one rank
};

}  // namespace l4::cuda::one_token
