// All layers of a decode step of one token in one launch, weights in FP8 or INT4.
//
// Why: of a layer of batch 1 a fifth is turnover of blocks where every product is a kernel (NOTES.md): from the last
// stage that a block asks for to the first of its successor's the memory stands idle, four times a layer. Here one
// block a multiprocessor stays. Two threads fetch (fetch.h): everything that the block will multiply, product after
// product, as the ring has room, without knowing what it is multiplied by. Eight warps multiply (multiply.h), attend
// (attend.h), and between products look for what the other blocks found: meanwhile the ring fills, 165 KB a
// multiprocessor, 5 to 7 us of streaming. One warp more chooses the expert, empties what has been read, and brings the
// next layer's numbers.
//
// A layer: QKV | attention | O | up | down, each bar a wait for all blocks' words of what is before it (block.h). What
// comes after a product is done by those who need it, all of it by everybody where that is little: the sums of tiles
// that were cut are parts that the reader adds up; every block keeps the whole residual stream in its shared memory,
// adds what O and down found (with several ranks: all of theirs, which each sent to all), and norms it; the router's
// logits are a block's an expert, the choice each block's own, by the warp that cleans.
//
// Bytes and flops: small_m_kernel.h's. What is rounded where: as there, but that sums of q, k, v and of o and down come
// in parts of float32; the order of a sum depends on shapes and the number of multiprocessors alone.
//
// All blocks run at once: the launch is cooperative, one block a multiprocessor.
//
// Measured, lost and left: NOTES.md, "One token, one launch".
#pragma once

#include "kernels/cuda/device/shared.h"
#include "kernels/cuda/device/top_experts.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/one_token/attend.h"
#include "kernels/cuda/one_token/fetch.h"
#include "kernels/cuda/one_token/multiply.h"
#include "kernels/cuda/ptx/pdl.h"
#include "kernels/cuda/ptx/setmaxnreg.h"

namespace l4::cuda::one_token {

// Registers are few, and what is spilled goes to L2, since shared memory leaves no L1: the residual stream is in shared
// memory, a phase's columns of x live no longer than the phase, and these warps take the others' registers. The phases
// are unrolled all the same: what a loop over them keeps from one to the next is spilled within the products.
struct Worker : Multiplier {
  uint32_t first_layer = 0;

  // x = what came before the product, as this thread's columns: all blocks do the same.
  __device__ void begin_with_norm(int l, bool up, uint4 (&v)[kLoads]) {
    const Layer& layer = s.layers[l % 2];
    uint4 weights[kPieces], of_expert[kPieces];
    load_row(up ? layer.ffn_norm : layer.attn_norm, weights);
    const bool scores = up && layer.router && int(blockIdx.x) < layer.n_experts;
    if (scores) load_row(layer.router + int64_t(blockIdx.x) * a.width, of_expert);
    if (l > 0 || up) add(up ? layer.of(Phase::o) : s.layers[(l + 1) % 2].of(Phase::down), up ? 0 : 1);
    if (!up) {
      turn_of_words = (first_layer + uint32_t(l)) % 2;
      words = &a.memory[a.rank]->words[turn_of_words];
    }
    norm(weights, up ? layer.ffn_eps : layer.attn_eps, v);
    if (up && threadIdx.x == 0) mbarrier_arrive(&s.to_clean);
    if (up && layer.router) score_experts(layer, v, of_expert);
  }
  __device__ void begin_with_words(bool down, int k, uint4 (&v)[kLoads]) {
    const uint32_t* row = down ? words->activations : words->attention;
    receive(
        a, v, [&](int i) { return reinterpret_cast<const uint4*>(row + column(i) / 2); },
        [&](int i) { return column(i) < k; });
    sync_multiply();  // all warps are done with the last operands
  }
  template <class Weights>
  __device__ __forceinline__ void work(int l, const Product& p, Phase phase) {
    const int k_shared = int(p.shared.k), k = k_shared + (phase == Phase::down && p.routed.n ? int(p.routed.k) : 0);
    // Before anything of an expert: a block without its tiles of `up` has not heard which it is.
    if (phase == Phase::down) mbarrier_wait(&s.cleaned, uint32_t(l) % 2);
    Items items(p.deal, int(blockIdx.x), int(gridDim.x));  // four divisions, while others are waited for
    float of_rows[2 * kBlocks];                            // of the first item: a trip to memory less later
    if constexpr (Weights::kCodes)
      load_rows(p, phase == Phase::down && items.begin() >= p.shared.stages, items.tile(), of_rows);
    uint4 v[kLoads] = {};
    if (phase == Phase::qkv || phase == Phase::up)
      begin_with_norm(l, phase == Phase::up, v);
    else
      begin_with_words(phase == Phase::down, k, v);
    make<Weights>(v, p, k_shared, k, phase == Phase::down);
    if (threadIdx.x == 0) s.products_begun = kPhases * l + int(phase) + 1;
    multiply<Weights>(p, phase, items, of_rows);
  }
  template <class Cache>
  __device__ __forceinline__ void attend(const Layer& layer) {
    Attender<Cache>{a, s, ring, *reinterpret_cast<Meeting<kAttendWarps>*>(x), at, *words, a.parts[turn_of_words]}.run(
        layer);
  }

  template <class AttentionWeights, class FfnWeights, class Cache>
  __device__ void run() {
    Memory& memory = *a.memory[a.rank];
    first_layer = memory.layers_done;
#pragma unroll
    for (int i = 0; i < kPieces; ++i)
      s.residual[i][threadIdx.x] = column(i) < a.width ? *reinterpret_cast<const uint4*>(a.x + column(i)) : uint4{};
#pragma unroll 1
    for (int l = 0; l < a.n_layers; ++l) {
      const Layer& layer = s.layers[l % 2];
#pragma unroll
      for (int number = 0; number < kPhases; ++number) {
        const Phase phase = Phase(number);
        if (phase == Phase::o) attend<Cache>(layer);
        if (phase == Phase::qkv || phase == Phase::o)
          work<AttentionWeights>(l, layer.of(phase), phase);
        else
          work<FfnWeights>(l, layer.of(phase), phase);
      }
    }
    uint4 weights[kPieces], v[kLoads];
    const Layer& last = s.layers[(a.n_layers - 1) % 2];
    load_row(a.last_norm ? a.last_norm : last.attn_norm, weights);
    add(last.of(Phase::down), 1);
    if (blockIdx.x != 0) return;
    norm(weights, a.last_eps, v);
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      if (column(i) >= a.width) continue;
      *reinterpret_cast<uint4*>(a.x + column(i)) = s.residual[i][threadIdx.x];
      if (a.last_norm) *reinterpret_cast<uint4*>(a.h + column(i)) = v[i];
    }
    // All blocks have begun long ago, and so read whose turn it was.
    if (threadIdx.x == 0) memory.layers_done = first_layer + uint32_t(a.n_layers);
  }

 private:
  __device__ void load_row(const bf16* row, uint4 (&v)[kPieces]) const {
#pragma unroll
    for (int i = 0; i < kPieces; ++i)
      v[i] = column(i) < a.width ? __ldg(reinterpret_cast<const uint4*>(row + column(i))) : uint4{};
  }
  // What O (which 0) or down (1) of all ranks found, added to the residual stream: each rank's part rounded, then their
  // sum, then the stream.
  __device__ void add(const Product& p, int which) {
    const int n_parts = p.deal.parts;
    float all[kPieces][8] = {};
#pragma unroll 1
    for (int r = 0; r < a.ranks; ++r) {
      float v[kPieces][8] = {};
      constexpr int kTogether = 2;  // parts, so that one trip brings them
#pragma unroll 1
      for (int part = 0; part < n_parts; part += kTogether) {
        uint4 of[kTogether * kPieces * 2];
        receive(
            a, of,
            [&](int i) {
              const float* sums = words->sums[which][r][part + i / (2 * kPieces)];
              return reinterpret_cast<const uint4*>(sums + column(i / 2 % kPieces)) + i % 2;
            },
            [&](int i) { return part + i / (2 * kPieces) < n_parts && column(i / 2 % kPieces) < a.width; });
#pragma unroll
        for (int j = 0; j < kTogether; ++j)
#pragma unroll
          for (int i = 0; i < 2 * kPieces; ++i)
            if (part + j < n_parts) add_words(v[i / 2] + i % 2 * 4, of[2 * j * kPieces + i]);
      }
#pragma unroll
      for (int i = 0; i < kPieces; ++i)
#pragma unroll
        for (int j = 0; j < 8; ++j) all[i][j] += round_to<bf16>(v[i][j]);
    }
#pragma unroll
    for (int i = 0; i < kPieces; ++i)
      if (column(i) < a.width) {
        uint4& old = s.residual[i][threadIdx.x];
        old = (Piece<bf16, 8>{old} + Piece<bf16, 8>::of(all[i])).stored;
      }
  }
  // h = RMSNorm(residual), with norm.cu's two roundings.
  __device__ void norm(const uint4 (&weights)[kPieces], float eps, uint4 (&h)[kLoads]) {
    float squares = 0;
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      float v[8];
      widen(s.residual[i][threadIdx.x], v);  // zeros beyond the width
#pragma unroll
      for (float of_eight : v) squares += of_eight * of_eight;
    }
    const float scale = 1.0f / sqrtf(sum_of_all(s, squares, 0) / float(a.width) + eps);
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      float v[8];
      widen(s.residual[i][threadIdx.x], v);
#pragma unroll
      for (float& of_eight : v) of_eight *= scale;
      h[i] = (Piece<bf16, 8>::of(v) * Piece<bf16, 8>{weights[i]}).stored;
    }
  }
  // Logits of experts blockIdx.x, blockIdx.x + blocks, ..., of which the first one's weights are here; those of no
  // expert fill up a load.
  __device__ void score_experts(const Layer& layer, const uint4 (&h)[kLoads], uint4 (&weights)[kPieces]) {
#pragma unroll 1
    for (int e = int(blockIdx.x); e < layer.n_logits; e += int(gridDim.x)) {
      float sum = 0;
      if (e >= int(gridDim.x) && e < layer.n_experts) load_row(layer.router + int64_t(e) * a.width, weights);
#pragma unroll
      for (int i = 0; i < kPieces; ++i) {
        if (column(i) >= a.width || e >= layer.n_experts) continue;
        float v[8], w[8];
        widen(h[i], v);
        widen(weights[i], w);
#pragma unroll
        for (int j = 0; j < 8; ++j) sum = fmaf(v[j], w[j], sum);
      }
      sum = sum_of_all(s, sum, 1);
      if (threadIdx.x == 0) send(words->logits + e, e < layer.n_experts ? round_to<bf16>(sum) : -INFINITY);
      sync_multiply();
    }
  }
};

// The warp that chooses the layer's expert, empties this block's share of the words of the layer before, and brings
// what the next layer is.
struct Cleaner {
  const Program& a;
  Shared& s;
  __device__ void run() const {
    Memory& memory = *a.memory[a.rank];
    const uint32_t first = memory.layers_done;
    for (int l = 0; l < a.n_layers; ++l) {
      const uint32_t turn = (first + uint32_t(l) + 1) % 2;
      mbarrier_wait(&s.to_clean, uint32_t(l) % 2);
      if (s.layers[l % 2].router) route(s.layers[l % 2], memory.words[turn ^ 1]);
      if (threadIdx.x % 32 == 0) mbarrier_arrive(&s.routed);  // by who chose
      if (l + 1 < a.n_layers) bring(l + 1);
      clean(memory.words[turn], a.parts[turn]);
      a.ranks > 1 ? __threadfence_system() : __threadfence();
      __syncwarp();
      if (threadIdx.x % 32 == 0) mbarrier_arrive(&s.cleaned);
    }
  }

 private:
  // Before this layer's O was there, the words may have been those of the layer before the last.
  __device__ void route(const Layer& layer, const Words& words) const {
    const int lane = int(threadIdx.x % 32), first = 4 * lane;
    static_assert(kMostExperts <= 4 * 32);
    if (first < layer.n_experts) {
      uint4 four[1];
      receive_together(
          a, four, [&](int) { return reinterpret_cast<const uint4*>(words.logits + first); }, [](int) { return true; });
      *reinterpret_cast<uint4*>(s.logits + first) = four[0];
    }
    __syncwarp();
    route_row<bf16>(
        s.logits, 0,
        {.n_experts = layer.in_turn ? 1 : layer.n_experts, .top_k = 1, .expert = &s.expert, .score = &s.score});
  }
  // Norms and router were read a step ago, so they are in memory again.
  __device__ void bring(int l) const {
    Layer& layer = s.layers[l % 2];
    const int lane = int(threadIdx.x % 32);
    copy_layer(layer, a.layers[l], lane, 32);
    __syncwarp();
    const uint32_t bytes = uint32_t(a.width) * sizeof(bf16);
    if (lane == 0 && int(blockIdx.x) < layer.n_experts)
      bulk_prefetch(layer.router + int64_t(blockIdx.x) * a.width, bytes);
    if (lane == 1 && blockIdx.x + 1 == gridDim.x) bulk_prefetch(layer.attn_norm, bytes);
    if (lane == 2 && blockIdx.x + 1 == gridDim.x) bulk_prefetch(layer.ffn_norm, bytes);
  }
  __device__ void empty(void* words, int n) const {
    const int begin = n * int(blockIdx.x) / int(gridDim.x), end = n * int(blockIdx.x + 1) / int(gridDim.x);
#pragma unroll 1
    for (int i = begin + int(threadIdx.x % 32); i < end; i += 32)
      store_relaxed_gpu(static_cast<uint32_t*>(words) + i, kNotThere);
  }
  __device__ void clean(Words& of, Part* parts) const {
#pragma unroll 1
    for (int p = 0; p < a.qkv_parts; ++p) empty(of.qkv[p], a.qkv_width);
    empty(of.logits, a.n_logits);
    empty(of.attention, a.attention_words);
    empty(of.activations, a.activation_words);
#pragma unroll 1
    for (int i = 0; i < 2 * a.ranks * a.sum_parts; ++i)
      empty(of.sums[i % 2][i / 2 % a.ranks][i / 2 / a.ranks], a.width);
    uint4* mine = reinterpret_cast<uint4*>(parts + blockIdx.x);
#pragma unroll 1
    for (int i = int(threadIdx.x % 32); i < int(sizeof(Part) / sizeof(uint4)); i += 32)
      mine[i] = {kNotThere, kNotThere, kNotThere, kNotThere};
  }
};

template <class AttentionWeights, class FfnWeights, class Cache>
__global__ void __launch_bounds__(kThreads, 1) one_token_kernel(const __grid_constant__ Program a) {
  __shared__ Shared s;
  unsigned char* ring = dynamic_shared();
  const int warp = int(threadIdx.x / 32);
  wait_for_predecessor();
  if (threadIdx.x == 32 * kWarps) {
    for (int i = 0; i < kRing; ++i) {
      mbarrier_init(&s.empty[i], kWarps);
      mbarrier_init(&s.full[i], 1);
    }
    for (int i = 0; i < kMeetings; ++i) mbarrier_init(&s.handed[i], kWarps), mbarrier_init(&s.taken[i], 1);
    mbarrier_init(&s.to_clean, 1), mbarrier_init(&s.cleaned, 1), mbarrier_init(&s.routed, 1);
    s.products_begun = 0;
    mbarrier_init_fence();
    fence_proxy_async();
  }
  copy_layer(s.layers[0], a.layers[0], int(threadIdx.x), kThreads);
  if (threadIdx.x < kHd / 2) {
    const float angle = float(*a.position) * a.inv_freq[threadIdx.x];
    s.cosine[threadIdx.x] = cosf(angle);
    s.sine[threadIdx.x] = sinf(angle);
  }
  __syncthreads();
  if (warp < kWarps) {
    take_registers<kRegisters>();
    return Worker{{a, s, ring, ring + size_t(kRing) * kStageBytes}}.run<AttentionWeights, FfnWeights, Cache>();
  }
  give_registers<kOthers>();
  const int helper = warp - kWarps;
  if (helper == kTeams) return Cleaner{a, s}.run();
  if (helper < kTeams && threadIdx.x % 32 == 0) Fetcher<Cache>{a, s, ring, helper}.run();
}

template <class AttentionWeights, class FfnWeights>
void start(const Gpu& gpu, const Program& a, bool fp8_cache) {
  const Launch where{.grid = unsigned(gpu.n_sms),
                     .block = kThreads,
                     .shared_bytes = kSharedBytes,
                     .stream = gpu.stream,
                     .cooperative = true};
  if (fp8_cache)
    launch(where, one_token_kernel<AttentionWeights, FfnWeights, Fp8Unit>, a);
  else
    launch(where, one_token_kernel<AttentionWeights, FfnWeights, Bf16Unit>, a);
}

}  // namespace l4::cuda::one_token
