// The thread of small_m.cu that fetches: which item is next, and its stages into the ring.
#pragma once

#include "kernels/cuda/matmul/small_m_work.h"
#include "kernels/cuda/ptx/load.h"
#include "kernels/cuda/ptx/pdl.h"
#include "kernels/cuda/ptx/tma.h"

namespace l4::cuda::small_m {

template <class V, Mode mode>
struct Fetcher {
  const Args& a;
  Shared<V>& s;
  unsigned char* ring;
  const uint64_t read_once = cache_evict_first();  // code, activations and pages stay in L2
  Turn at, in_flight;                              // the next stage to ask for; the oldest that may not be there
  int fetched = 0;                                 // stages, in all
  int turn = 0;                                    // of the item at hand, or of the next
  Item now{};                                      // its stages from now.begin on are still to be fetched
  int index_of_now = 0;
  bool open = false, ended = false, asked = false;
  uint32_t drawn = 0;  // a ticket that may be on its way

  __device__ int n_given() const { return s.work.turns * int(gridDim.x); }
  __device__ int n_items() const { return s.work.n_tiles * s.work.pieces; }
  __device__ void ask() {
    asked = true;
    drawn = fetch_add_relaxed_gpu(a.ticket, 1);
  }
  __device__ int index() {
    if (turn < s.work.turns) return int(blockIdx.x) + turn * int(gridDim.x);
    if (!asked) ask();
    return n_given() + int(drawn);
  }

  // How much of the work is known. The shared expert's part is before the route; n_items() counts no more then.
  enum class Known { shared, all };

  // Fetches until `most` stages have been asked for, or what is known is at its end. may_draw: who drew from the same
  // tickets before has ended.
  __device__ void until(int most, Known known, bool may_draw) {
    while (!ended && fetched < most) {
      if (open && now.begin == now.end) open = false, ++turn;
      if (!open) {
        const bool draw = turn >= s.work.turns;
        if (draw && !may_draw) return;
        const int n = n_items(), i = draw && n <= n_given() ? kNone : index();
        if (i >= n && mode == Mode::up && known == Known::shared) return;  // it may be a chosen expert's
        asked = false;
        if (i >= n) return end(draw && i == n + int(gridDim.x) - 1, may_draw);
        now = item(s.work, i);
        if (mode == Mode::down && known == Known::shared) now.end = INT_MAX;  // not known yet
        open = true;
        index_of_now = i;
        if (may_draw && turn + 1 >= s.work.turns && n_given() < n) ask();
      }
      if (mode == Mode::down && known == Known::shared && now.begin >= a.shared.stages) return;
      fetch();
      ++now.begin;
    }
  }

  // A late kernel: launch.h.
  __device__ static void let_in() {
    wait_for_predecessor();  // again, or where x was there before that one's end
    let_successor_start();
  }

 private:
  __device__ void fetch() {
    if (fetched >= V::kInFlight) {
      mbarrier_wait(&s.full[in_flight.stage], in_flight.parity);
      in_flight.next(a.ring);
    }
    mbarrier_wait(&s.empty[at.stage], at.parity ^ 1);
    s.item[at.stage] = index_of_now;
    const Place p = place<mode>(a, now.tile, now.begin);
    const bool routed = mode != Mode::linear && p.which >= 0;
    const int row = first_row<V, mode>(a, now.tile, p.which) + (routed ? s.chosen.expert[p.which] * a.routed.n : 0);
    unsigned char* to = ring + at.stage * a.stage_bytes;
    if constexpr (V::Weights::kGroups)
      fetch_scales(routed ? a.routed : a.shared, routed ? s.chosen.expert[p.which] : 0, row, p.stage,
                   to + V::kStageBytes);
    else
      mbarrier_arrive_expect_tx(&s.full[at.stage], V::kStageBytes);
    tensor_load_hint(to, routed ? &a.routed_map : &a.shared_map, &s.full[at.stage], read_once, 0, row,
                     p.stage * V::kSlabs);
    at.next(a.ring);
    ++fetched;
  }
  // Those of the stage's groups, of each 16 rows; and says how much is to come. row: of all experts' rows.
  __device__ void fetch_scales(const Matrix& m, int expert, int row, int stage, unsigned char* to) {
    const int of_stage = V::kStageK / a.group, first = stage * of_stage, n = min(of_stage, m.groups - first);
    const int tiles = (m.n + 15) / 16, tile = (row - expert * m.n) / 16, n_tiles = min(V::kTileBlocks, tiles - tile);
    const uint32_t bytes = uint32_t(n) * 16 * sizeof(bf16);
    mbarrier_arrive_expect_tx(&s.full[at.stage], V::kStageBytes + uint32_t(n_tiles) * bytes);
    const bf16* from = m.group_scales + (int64_t(expert) * tiles + tile) * m.groups * 16 + first * 16;
    for (int b = 0; b < n_tiles; ++b)
      bulk_load(to + b * of_stage * 16 * int(sizeof(bf16)), from + int64_t(b) * m.groups * 16, bytes, &s.full[at.stage],
                read_once);
  }
  // A block draws until it draws one too many, so the last ticket of all is known; its owner makes the count zero
  // again.
  __device__ void end(bool last_ticket, bool let) {
    ended = true;
    if (last_ticket) *a.ticket = 0;
    if (let) let_in();
    mbarrier_wait(&s.empty[at.stage], at.parity ^ 1);
    s.item[at.stage] = kNone;
    mbarrier_arrive(&s.full[at.stage]);
  }
};

}  // namespace l4::cuda::small_m
