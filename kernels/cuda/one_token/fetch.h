// The thread that fetches: all stages of all layers, one after another, as the ring has room. It does not wait for what
// the weights are multiplied by, so the memory works on while blocks wait for each other; only of experts it must know
// which.
#pragma once

#include "kernels/cuda/one_token/attend.h"
#include "kernels/cuda/one_token/block.h"
#include "kernels/cuda/ptx/tma.h"

namespace l4::cuda::one_token {

template <class Cache>
struct Fetcher {
  const Program& a;
  Shared& s;
  unsigned char* ring;
  const uint64_t read_once = cache_evict_first();  // code, activations and pages stay in L2
  Turn at, oldest;  // the next stage to ask for; that of the oldest piece that may not be there
  int oldest_piece = 0;
  int on_its_way = 0;  // pieces

  __device__ void run() {
    for (int l = 0; l < a.n_layers; ++l) {
      if (l > 0) mbarrier_wait(&s.cleaned, uint32_t(l - 1) % 2);  // it is there
      const Layer &layer = s.layers[l % 2], &in_memory = a.layers[l];
#pragma unroll 1
      for (int phase = 0; phase < kPhases; ++phase) {
        if (Phase(phase) == Phase::o) keys(layer.attention, in_memory.attention);
        product(l, layer, in_memory.of(Phase(phase)), Phase(phase));
      }
    }
  }

 private:
  struct Codes {  // of a matrix: what is fetched
    int k, n, groups;
    const bf16* scales;
  };
  __device__ unsigned char* open() {
    mbarrier_wait(&s.empty[at.stage], at.parity ^ 1);
    return ring + at.stage * kStageBytes;
  }
  __device__ void close() {
    at.next(kRing);
  }
  // Before a piece is asked for: no more of them are on their way than keep the memory busy. Every other access waits
  // behind them; while what is fetched is multiplied at once, nobody waits for another.
  __device__ void pace(bool at_once) {
    const int most = at_once ? a.wide_window : a.window;
    for (; on_its_way >= most; --on_its_way) {
      mbarrier_wait(&s.full[oldest.stage][oldest_piece], oldest.parity);
      if (++oldest_piece == kStagePieces) oldest_piece = 0, oldest.next(kRing);
    }
    ++on_its_way;
  }

  // Of maps their place in memory is what the copy engine wants.
  __device__ void product(int l, const Layer& layer, const Product& in_memory, Phase phase) {
    const Product& p = layer.of(phase);
    const Matrix of_shared = p.shared, of_experts = p.routed;
    const int before = kPhases * l + int(phase);  // products
    Items items(p.deal, int(blockIdx.x), int(gridDim.x));
    for (Item i; items.next(i);) {
      const bool up_routed = phase == Phase::up && i.tile >= of_shared.tiles;
      if (up_routed || (phase == Phase::down && layer.router)) mbarrier_wait(&s.routed, uint32_t(l) % 2);
      const int tile = up_routed ? i.tile - of_shared.tiles : i.tile;
#pragma unroll 1
      for (int stage = i.begin; stage < i.end; ++stage) {
        const bool down_routed = phase == Phase::down && stage >= of_shared.stages;
        const bool of_expert = up_routed || down_routed;
        const int expert = of_expert ? s.expert : 0, in_matrix = down_routed ? stage - of_shared.stages : stage;
        // Of each number its own choice: that of a reference would put both matrices in local memory.
        const Codes m = {.k = int(of_expert ? of_experts.k : of_shared.k),
                         .n = of_expert ? of_experts.n : of_shared.n,
                         .groups = of_expert ? of_experts.groups : of_shared.groups,
                         .scales = of_expert ? of_experts.group_scales : of_shared.group_scales};
        const CUtensorMap* map = of_expert ? &in_memory.routed_map : &in_memory.shared_map;
        fetch(map, m, expert, tile, in_matrix, before);
      }
    }
  }
  __device__ void fetch(const CUtensorMap* map, const Codes& m, int expert, int tile, int stage, int before) {
    constexpr int kOfPiece = kSlabs / kStagePieces;  // slabs
    constexpr int kBlocks = kTileRows / 16;
    unsigned char* to = open();
    const bool int4 = m.scales;
    const int slabs = m.k / (int4 ? kInt4Slab : kFp8Slab) - stage * kSlabs;  // that are left
    const int row = expert * m.n + tile * kTileRows;
#pragma unroll
    for (int q = 0; q < kStagePieces; ++q) {
      Mbarrier* full = &s.full[at.stage][q];
      pace(*const_cast<volatile int*>(&s.products_begun) > before);
      if (q * kOfPiece >= slabs) {
        mbarrier_arrive(full);
        continue;
      }
      if (q == 0 && int4) {
        constexpr int kGroups = kSlabs * kInt4Slab / kGroup;
        const int first = stage * kGroups, n = min(kGroups, m.groups - first);
        const int of_16 = tile * kBlocks, all = (m.n + 15) / 16, n_of_16 = min(kBlocks, all - of_16);
        const uint32_t scale_bytes = uint32_t(n) * 16 * sizeof(bf16);
        mbarrier_expect_tx(full, uint32_t(n_of_16) * scale_bytes);
        const bf16* from = m.scales + (int64_t(expert) * all + of_16) * m.groups * 16 + first * 16;
        for (int b = 0; b < n_of_16; ++b)
          bulk_load(to + kCodesBytes + b * kGroups * 16 * int(sizeof(bf16)), from + int64_t(b) * m.groups * 16,
                    scale_bytes, full, read_once);
      }
      mbarrier_arrive_expect_tx(full, kCodesBytes / kStagePieces);
      tensor_load_hint(to + q * (kCodesBytes / kStagePieces), map, full, read_once, 0, row,
                       stage * kSlabs + q * kOfPiece);
    }
    close();
  }
  // A unit of keys and values: a stage.
  __device__ void keys(const Attention& t, const Attention& in_memory) {
    const Program::Kv& kv = a.kv[t.kind];
    const KvSpan span = *kv.span;
    Units<Cache> units(t, span.past, int(blockIdx.x), int(gridDim.x));
    if (units.begin == units.end) return;
    const bool scales = Cache::kHasScales && t.k_scale_offset >= 0;
    auto page_of = [&](uint32_t unit) { return kv.pages[span.table + unit % units.of_head / Cache::kUnitsAPage]; };
    int32_t page = page_of(units.begin);
    for (uint32_t unit = units.begin; unit < units.end; ++unit) {
      const int32_t now = page;
      if (unit + 1 < units.end) page = page_of(unit + 1);
      const int token = int(unit / units.of_head) * int(kFastPageTokens) +
                        int(unit % units.of_head % Cache::kUnitsAPage) * Cache::kKeys;  // of the page's, of all heads
      unsigned char* to = open();
      Mbarrier* full = s.full[at.stage];
      constexpr uint32_t kScales = Cache::kKeys * sizeof(bf16);
#pragma unroll 1
      for (int q = 0; q < kStagePieces; ++q) {  // keys, values
        pace(units.end - units.begin > kRing);
        if (q >= 2) {
          mbarrier_arrive(full + q);
          continue;
        }
        mbarrier_arrive_expect_tx(full + q, kCodesBytes / 2 + (scales ? kScales : 0));
        tensor_load(to + q * (kCodesBytes / 2), q ? &in_memory.v_map : &in_memory.k_map, full + q, 0, token, 0, now);
        if (scales)
          bulk_load(
              to + kCodesBytes + q * kScales,
              t.pages + now * t.page_stride + token * int64_t(sizeof(bf16)) + (q ? t.v_scale_offset : t.k_scale_offset),
              kScales, full + q);
      }
      close();
    }
  }
};

}  // namespace l4::cuda::one_token
