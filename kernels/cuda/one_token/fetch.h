// The threads that fetch, one for each team of the warps: its stages of all layers, one after another, as the ring has
// room. They do not wait for what the weights are multiplied by, so the memory works on while blocks wait for each
// other; only of experts they must know which. One thread for both would be as slow as the memory: a stage takes it
// 700 clocks and more, the memory 1,000.
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
  const int team;
  const uint64_t read_once = cache_evict_first();  // code, activations and pages stay in L2
  Turn at, oldest{.stage = team};  // the next stage; the team's oldest that may not be there
  int on_its_way = 0;              // stages of the team

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
  __device__ bool is_mine() const { return at.stage % kTeams == team; }
  // Before a stage is asked for: there is room, and no more of them are on their way than keep the memory busy. Every
  // other access waits behind them; while what is fetched is multiplied at once, nobody waits for another.
  __device__ void open(bool at_once) {
    mbarrier_wait(&s.empty[at.stage], at.parity ^ 1);
    const int most = at_once ? kWideWindow : kWindow;
    for (; on_its_way >= most; --on_its_way) {
      mbarrier_wait(&s.full[oldest.stage], oldest.parity);
      for (int i = 0; i < kTeams; ++i) oldest.next(kRing);
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
      for (int stage = i.begin; stage < i.end; ++stage, at.next(kRing)) {
        if (!is_mine()) continue;
        const bool down_routed = phase == Phase::down && stage >= of_shared.stages;
        const bool of_expert = up_routed || down_routed;
        const int in_matrix = down_routed ? stage - of_shared.stages : stage;
        open(*const_cast<volatile int*>(&s.products_begun) > before);
        Mbarrier* full = &s.full[at.stage];
        const int row = (of_expert ? s.expert * of_experts.n : 0) + tile * kTileRows;
        if (of_shared.groups > 0) {
          constexpr int kGroupsBytes = kSlabs * kInt4Slab / kGroup * 16 * int(sizeof(bf16));  // of 16 rows
          mbarrier_expect_tx(full, kScaleBytes);
          tensor_load_hint(scales_of(ring, at.stage), of_expert ? &in_memory.routed_scales : &in_memory.shared_scales,
                           full, read_once, in_matrix * kGroupsBytes, row / 16);
        }
        mbarrier_arrive_expect_tx(full, kCodesBytes);
        tensor_load_hint(codes_of(ring, at.stage), of_expert ? &in_memory.routed_map : &in_memory.shared_map, full,
                         read_once, 0, row, in_matrix * kSlabs);
      }
    }
  }
  // A unit: a stage of keys and one of values, side by side.
  __device__ void keys(const Attention& t, const Attention& in_memory) {
    const Program::Kv& kv = a.kv[t.kind];
    const KvSpan span = *kv.span;
    Units<Cache> units(t, span.past, int(blockIdx.x), int(gridDim.x));
    if (units.begin == units.end) return;
    const bool scales = Cache::kHasScales && t.k_scale_offset >= 0;
    auto page_of = [&](uint32_t unit) { return kv.pages[span.table + unit % units.of_head / Cache::kUnitsAPage]; };
    const bool at_once = 2 * (units.end - units.begin) > kRing;
    if (at.stage % 2) {  // nothing, so that they lie side by side
      if (is_mine()) open(at_once), mbarrier_arrive(&s.full[at.stage]);
      at.next(kRing);
    }
    int32_t page = page_of(units.begin);
    for (uint32_t unit = units.begin; unit < units.end; ++unit) {
      const int32_t now = page;
      if (unit + 1 < units.end) page = page_of(unit + 1);
      const int token = int(unit / units.of_head) * int(kFastPageTokens) +
                        int(unit % units.of_head % Cache::kUnitsAPage) * Cache::kKeys;  // of the page's, of all heads
      for (int which = 0; which < 2; ++which, at.next(kRing)) {                         // keys, values
        if (!is_mine()) continue;
        open(at_once);
        Mbarrier* full = &s.full[at.stage];
        constexpr uint32_t kScales = Cache::kKeys * sizeof(bf16);
        mbarrier_arrive_expect_tx(full, kCodesBytes + (scales ? kScales : 0));
        tensor_load(codes_of(ring, at.stage), which ? &in_memory.v_map : &in_memory.k_map, full, 0, token, 0, now);
        if (scales)
          bulk_load(scales_of(ring, at.stage),
                    t.pages + now * t.page_stride + token * int64_t(sizeof(bf16)) +
                        (which ? t.v_scale_offset : t.k_scale_offset),
                    kScales, full);
      }
    }
  }
};

}  // namespace l4::cuda::one_token
