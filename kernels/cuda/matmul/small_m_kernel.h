// Products of at most 16 rows: decode. The bytes of the weights are all that counts: 13.4 (H100) or 19.6 (H200) of them
// come to a multiprocessor each clock. A call reads every row of its weights once, 2 n k bytes, and 4 n k flops for
// every 8 rows.
//
// Two roles. One warp fetches (small_m_fetch.h), with the copy engine: stages of 32 KB, 16 or 32 rows of the weights by
// 1024 or 512 columns, into a ring of 192 KB a multiprocessor, 6 to 8 us of streaming on the whole device, which fills
// while small kernels before this one work. Two stages of a multiprocessor are on their way at a time: they keep the
// memory busy, and more make every other access wait, which the small kernels are a chain of. Eight warps multiply
// (small_m_multiply.h), each an eighth of every stage, 120 instructions for 4 KB; what they wait for (x, each other at
// the end of a tile) does not hold up the fetching, as long as the ring lasts.
//
// Begin. After a norm, x is read when its rows are there (OpContext::published), the route when it is needed: after the
// shared expert's tiles. The norm does more than that, so nothing is stored before it has ended. After attention, which
// leaves half an SM, the ring is half as large, so that its blocks need not wait for attention's to leave.
//
// Operands. A stage lies in slabs of 128 bytes of every row, swizzled. A warp has two slabs of 16 rows (the m16 of
// mma.m16n8k16; tokens are its n8), or one of 32. A lane's 16-byte loads are rows g, g + 8 (g = lane / 4) and chunks 2
// t, 2 t + 1 (t = lane % 4), each 8 values of k at the places where the instruction wants k = 2t, 2t + 1, 2t + 8, 2t +
// 9, and again; x is loaded with the same permutation, which the sum does not see. Eight lanes of two rows so meet
// eight different chunks: no shuffle, no transposition, no bank twice. x comes through L1, a stage ahead.
//
// Formats. Said above for BF16; small_m_weights.h has what differs. A stage is 32 KB of codes in any: 32 rows by 1024
// columns in FP8, by 2048 in INT4. x of so many columns does not fit registers: it comes in a window of four loads,
// which depend on nothing (a lane whose token takes no part reads a row that another reads). FP8: every block first
// finds the largest |x| of each row; x is rounded to codes on its way to the product; codes of both are exact in f16,
// their products in float32; the scales of row and token multiply the sums at the end of a matrix. INT4: codes become
// bfloat16, exactly; a group's sums times its scale are added to the tile's; the scales are copied behind the codes of
// their stage. Of up to 8 tokens INT4 has sixteen warps, since instructions and not bytes hold it up: two share a slab,
// each with 16 of its rows.
//
// One token in FP8 or INT4 (small_m_one.h): x becomes operands once a block, in shared memory. INT4's products are of
// integers then, and x is rounded for them (by less than its rounding to bfloat16 has left): not the bits of more tokens.
//
// Items. Tiles of 16 or 32 rows over all of k are the items of work. Equal shares do not end together: of 132
// multiprocessors the slowest streams 5 % slower than the mean, and a block may start late. So blocks draw items (Work
// below). Neighbouring tiles are read at the same time. At the end of a tile the warps' sums meet in shared memory, and
// one warp after another adds them, while the others go on. Where there are hardly more tiles than blocks, tiles are
// cut along k: each piece's part goes to scratch and is counted, and whoever finds all others there adds them in order
// of k. Bits depend neither on who did what nor on when.
//
// Phases. ffn_up has the shared expert's tiles first (known before the route is), then those of every distinct chosen
// expert. In ffn_down a tile's k is the shared expert's F followed by that of every chosen expert. A token that did not
// choose an expert enters its products as zeros: all columns of n8 are there anyway.
//
// Roundings. Sums in float32, rounded once. The score is multiplied onto the float32 sums of gate and up, where the CPU
// rounds h * score to bfloat16 first: by linearity the same up to that rounding, of at most 2^-8 of each input, 0.16 %
// in the mean, which in a sum over k of random signs is 0.16 % of the output's own size: as large as the output's
// rounding.
//
// One block a multiprocessor: two that met on one, with another left empty, took 1.4 times as long. The successor is
// let in when the last stage has been asked for. What is to be summed over ranks is sent to them at the end of each
// tile.
//
// Not chosen: weights in registers instead of the ring (a ring position must be a constant there, so the end of a tile
// is unrolled with it). Lost (NOTES.md has the figures): every warp its own ring by cp.async, which kept 16 warps busy
// with addresses; two blocks a multiprocessor; equal runs of units a block (stream-K) or equal numbers of tiles; every
// tile in pieces; tiles of 8 rows; weights to L2 when the ring is full; up and down in one launch; x by words that say
// by themselves that they are there, into shared memory; stages of 16 KB; one stage on its way.
#pragma once

#include <algorithm>

#include "kernels/cuda/device/shared.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/matmul/small_m_fetch.h"
#include "kernels/cuda/matmul/small_m_multiply.h"
#include "kernels/cuda/matmul/small_m_one.h"
#include "kernels/cuda/tensor_map.h"

namespace l4::cuda::small_m {

// 88 (of seventeen warps, 72) leave room for a block of norm.cu on each quarter of the SM.
template <class V, Mode mode>
__global__ void __maxnreg__(V::kColumns == 2                      ? 160
                            : V::Weights::kOne && V::kWarps == 16 ? 72
                                                                  : 88) small_m_kernel(const __grid_constant__ Args a) {
  __shared__ Shared<V> s;
  unsigned char* ring = dynamic_shared();
  const bool fetches = threadIdx.x >= 32 * V::kWarps, one = threadIdx.x == 32 * V::kWarps;
  using Fetch = Fetcher<V, mode>;
  Fetch fetcher{a, s, ring};
  // What of the work is known when the block begins; in down that is the route, too.
  constexpr auto known = mode == Mode::up ? Fetch::Known::shared : Fetch::Known::all;
  auto divide = [&] {
    Work& work = s.work;
    work.n_tiles = a.shared.tiles;  // up: of which the route makes more
    work.stages = a.shared.stages + (mode == Mode::down ? s.chosen.n * a.routed.stages : 0);
    work.pieces = min(a.pieces, work.stages);
    const int least = work.stages / work.pieces;
    work.turns = (a.ring + least - 1) / least;
  };
  if (fetches) {
    // In down the route was complete before the kernel before this one passed its wait (ops.h).
    const int e = mode == Mode::down ? choice(a) : 0;
    if (one) {
      for (int i = 0; i < a.ring; ++i) mbarrier_init(&s.full[i], 1), mbarrier_init(&s.empty[i], V::kWarps);
      for (int i = 0; i < V::kBuffers; ++i)
        mbarrier_init(&s.handed[i], 32 * V::kWarps), mbarrier_init(&s.taken[i], 32 * V::kParts);
      mbarrier_init(&s.routed, 32);
      mbarrier_init_fence();
      fence_proxy_async();
      s.chosen.n = 0;
      divide();
      if (mode != Mode::down || a.pieces == 1)
        fetcher.until(V::kInFlight, mode == Mode::linear ? Fetch::Known::all : Fetch::Known::shared, false);
    }
    __syncwarp();
    if constexpr (mode == Mode::down) {
      find_chosen(a, e, s.chosen);
      if (one) {
        divide();
        fetcher.now.end = item(s.work, int(blockIdx.x)).end;
      }
    }
  }
  __syncthreads();
  if (!fetches) {
    auto* meeting = reinterpret_cast<float4*>(ring + a.ring * a.stage_bytes);
    if constexpr (V::Weights::kOne) {
      OneToken<V, mode> multiplier{{a, s, ring, meeting}, reinterpret_cast<unsigned char*>(meeting) + V::kMeetingBytes};
      if (a.ready)
        multiplier.wait_for_rows();
      else
        wait_for_predecessor();
      return multiplier.run();
    }
    Multiplier<V, mode> multiplier{a, s, ring, meeting};
    if (a.ready)
      multiplier.wait_for_rows();
    else
      wait_for_predecessor();
    if constexpr (V::Weights::kCodes)
      multiplier.find_x_scales();
    else
      multiplier.touch();
    return multiplier.run();
  }
  if (!a.ready) {
    if (one) fetcher.until(a.ring, known, false);
    __syncwarp();
    wait_for_predecessor();
  }
  if constexpr (mode == Mode::up) {
    if (one) fetcher.until(INT_MAX, known, true);
    __syncwarp();
    wait_for_predecessor();
    find_chosen(a, choice(a), s.chosen);
    mbarrier_arrive(&s.routed);
    if (one) s.work.n_tiles += s.chosen.n * a.routed.tiles;
  }
  if (!one) return;
  if (fetcher.ended) fetcher.let_in();
  fetcher.until(INT_MAX, Fetch::Known::all, true);
}

// ---- host

// Beside attention, whose blocks leave late, there is no more than that.
constexpr size_t kHalfAndMore = kHalfShared + kHalfSharedStep;
template <class V>
constexpr size_t kStaticBytes = (sizeof(Shared<V>) + 1023) / 1024 * 1024;  // dynamic_shared() is aligned
// Stages of a ring that, with all else, has so many bytes.
template <class V>
int ring_in(size_t bytes, size_t x_bytes, int stage_bytes) {
  return std::min(V::kStages, int((bytes - kStaticBytes<V> - V::kMeetingBytes - x_bytes) / size_t(stage_bytes)));
}

template <class V>
Matrix matrix(const PackedWeight& w) {
  const LinearSpec& spec = w.spec;
  Matrix m{.k = spec.k,
           .n = int(spec.n),
           .stages = int((spec.k + V::kStageK - 1) / V::kStageK),
           .tiles = int((spec.n + V::kTileRows - 1) / V::kTileRows)};
  if constexpr (V::Weights::kCodes) m.row_scales = static_cast<const float*>(w.scales.data());
  if constexpr (V::Weights::kGroups)
    m.group_scales = static_cast<const bf16*>(w.scales.data()), m.groups = int(spec.k / spec.group);
  return m;
}
// Slabs of all of x.
template <class V>
int64_t x_slabs(Mode mode, const Args& a) {
  return (a.shared.k + (mode == Mode::down ? a.n_slots * a.routed.k : 0)) / V::kSlabK;
}
// [n, k] as slabs: 128 bytes of all rows, then the next; so many of a tile are fetched at once. Beyond k and n it reads
// zeros.
template <class V>
CUtensorMap slabs(const PackedWeight& w, int at_once = V::kSlabs) {
  const LinearSpec& spec = w.spec;
  L4_CHECK(spec.k % V::kSlabK == 0, spec.name, ": ", spec.k, " columns");
  const int64_t rows = spec.n * spec.n_experts, row_bytes = spec.k * 16 / V::kPerLoad;
  return tensor_map(w.data.data(), DType::u8, {{kSlabBytes, rows, spec.k / V::kSlabK}}, {{row_bytes, kSlabBytes}},
                    {{kSlabBytes, V::kTileRows, at_once}}, Swizzle::bytes128);
}

template <class V, Mode mode>
void start(const OpContext& ctx, Args a, const PackedWeight& shared, const PackedWeight* routed) {
  // Tiles are cut only where there are hardly as many as blocks. Those of INT4 are short: in more pieces they end more
  // evenly.
  constexpr int64_t kItemsABlock = V::Weights::kGroups ? 5 : 2;
  a.shared = matrix<V>(shared);
  if (routed) a.routed = matrix<V>(*routed);
  // At most: how many experts are chosen is known on the device.
  const int64_t chosen = routed ? std::min(a.n_slots, a.n_experts) : 0;
  const int64_t tiles = a.shared.tiles + (mode == Mode::up ? chosen * a.routed.tiles : 0);
  const int64_t stages = a.shared.stages + (mode == Mode::down ? chosen * a.routed.stages : 0);
  const int64_t items = kItemsABlock * ctx.gpu.n_sms;
  a.pieces = int(std::clamp<int64_t>((items + tiles / 2) / tiles, 1, stages));
  constexpr int kAligned = 1024;  // the swizzle's
  a.group = int(shared.spec.group);
  a.stage_bytes = V::kStageBytes;
  if constexpr (V::Weights::kGroups)
    a.stage_bytes += (V::kStageK / a.group * V::kTileRows * int(sizeof(bf16)) + kAligned - 1) / kAligned * kAligned;
  const size_t x_bytes = size_t(x_slabs<V>(mode, a)) * V::Weights::kXSlab;
  // A product that does not follow a norm follows attention.
  const int small_ring = ring_in<V>(kHalfAndMore, x_bytes, a.stage_bytes);
  const bool beside_attention = mode == Mode::linear && !a.ready && small_ring > V::kInFlight;
  a.ring = beside_attention ? small_ring : ring_in<V>(ctx.gpu.max_shared_bytes, x_bytes, a.stage_bytes);
  const size_t bytes = size_t(a.ring * a.stage_bytes) + V::kMeetingBytes + x_bytes;
  Scratch scratch(ctx.work);
  if (a.pieces > 1) a.parts = scratch.take_array<float4>(tiles * a.pieces * V::kParts * 32);
  if (ctx.measuring()) return;
  // Of its own where it may draw while the kernel before the predecessor still does.
  a.ticket = ctx.gpu.tickets + (mode == Mode::down ? 3 : mode == Mode::up ? 2 : a.ready ? 1 : 0);
  a.arrived = ctx.gpu.counters;
  L4_CHECK(a.pieces == 1 || tiles * V::kParts <= Gpu::kCounters, tiles, " tiles");
  L4_CHECK(tiles * a.pieces < INT_MAX / 2, shared.spec.name, ": ", tiles, " tiles");
  a.shared_map = slabs<V>(shared);
  if (routed) a.routed_map = slabs<V>(*routed);
  launch({.grid = unsigned(ctx.gpu.n_sms),
          .block = V::kThreads,
          .shared_bytes = std::max(bytes, kHalfAndMore - kStaticBytes<V>),
          .stream = ctx.gpu.stream,
          .programmatic = true},
         small_m_kernel<V, mode>, a);
}

template <class V>
void start(const OpContext& ctx, Mode mode, const Args& a, const PackedWeight& shared, const PackedWeight* routed) {
  switch (mode) {
    case Mode::linear:
      return start<V, Mode::linear>(ctx, a, shared, routed);
    case Mode::up:
      return start<V, Mode::up>(ctx, a, shared, routed);
    case Mode::down:
      return start<V, Mode::down>(ctx, a, shared, routed);
  }
}

}  // namespace l4::cuda::small_m
