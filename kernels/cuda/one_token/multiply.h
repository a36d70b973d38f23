// The warps that multiply: a product at a time, its input made into operands once a block, each warp a quarter of
// the columns of every second stage.
#pragma once

#include "kernels/cuda/device/fp8_input.h"
#include "kernels/cuda/matmul/silu.h"
#include "kernels/cuda/one_token/block.h"

namespace l4::cuda::one_token {

using small_m::XScale;

struct Multiplier {
  const Program& a;
  Shared& s;
  unsigned char* ring;
  unsigned char* x;  // operands
  Turn at;
  uint32_t turn = 0;       // of the items
  Words* words = nullptr;  // of the layer at hand
  uint32_t turn_of_words = 0;
  const int lane = int(threadIdx.x % 32), warp = int(threadIdx.x / 32);

  static constexpr int kBlocks = kTileRows / 16;
  static constexpr int kAtOnce = 256;  // columns of x, of a warp
  static constexpr int kLoads = kMostX / (kAtOnce * kWarps);

  // The first of eight columns of x, this thread's i-th.
  __device__ int column(int i) const { return (i * kWarps + warp) * kAtOnce + 8 * lane; }

  // Operands of v, this thread's columns of a row of k, in `down` those from k_shared on an expert's. All warps are
  // done with the last ones. Ends with a barrier.
  template <class Weights>
  __device__ void make(const uint4 (&v)[kLoads], const Product& p, int k_shared, int k, bool down) {
    XScale scale[2];
    if constexpr (Weights::kCodes) {
      float largest[2] = {};
#pragma unroll
      for (int i = 0; i < kLoads; ++i)
        if (column(i) < k) {
          float of_eight = 0;
          raise(of_eight, v[i]);
          const bool shared = !down || column(i) < k_shared;  // a reference to one of two would be to local memory
          largest[0] = larger(largest[0], shared ? of_eight : 0),
          largest[1] = larger(largest[1], shared ? 0 : of_eight);
        }
#pragma unroll
      for (int r = 0; r < (down ? 2 : 1); ++r) {
        largest[r] = warp_max(largest[r]);
        if (lane == 0) s.by_warp[2 + r][warp] = largest[r];
      }
      sync_multiply();
#pragma unroll
      for (int r = 0; r < (down ? 2 : 1); ++r) {
        float of_all = 0;
#pragma unroll
        for (int w = 0; w < kWarps; ++w) of_all = fmaxf(of_all, s.by_warp[2 + r][w]);
        const float given = r ? p.x_routed_scale : p.x_scale;
        scale[r] = XScale::of(given != 0 ? given : fp8_scale(of_all));
        if (threadIdx.x == 0) s.x_scale[r] = scale[r].scale;
      }
    }
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int first = column(i) - 8 * lane;
      if (first >= k) break;
      if constexpr (Weights::kCodes) {
        if (column(i) < k)
          *reinterpret_cast<uint2*>(x + column(i)) =
              Weights::codes(v[i], !down || column(i) < k_shared ? scale[0] : scale[1]);
      } else {
        Weights::make(column(i) < k ? v[i] : uint4{}, lane, x + first / kAtOnce * Weights::kXSlab);
      }
    }
    sync_multiply();
  }

  // FP8: scales of this thread's rows of a tile, of the shared matrix or of the expert's.
  __device__ void load_rows(const Product& p, bool of_expert, int tile, float (&to)[2 * kBlocks]) const {
    const Matrix& m = of_expert ? p.routed : p.shared;
    const float* scales = m.row_scales + (of_expert ? int64_t(s.expert) * m.n : 0);
    const int row = tile * kTileRows + lane / 4;
#pragma unroll
    for (int half = 0; half < 2 * kBlocks; ++half) to[half] = row + 8 * half < m.n ? __ldg(scales + row + 8 * half) : 0;
  }

  // All items of this block: each is summed up and sent by another warp.
  template <class Weights>
  __device__ void multiply(const Product& p, Phase phase, Items& items, float (&of_rows)[2 * kBlocks]) {
    using V = Variant<Weights>;
    const bool up = phase == Phase::up, down = phase == Phase::down;
    const int k_shared = int(p.shared.k), k_routed = int(p.routed.k), shared_stages = p.shared.stages;
    const int team = warp / kTeamWarps, slab = warp % kTeamWarps;
    bool has_rows = !up || items.tile() < p.shared.tiles;  // of the first item; of an expert it is not known in time
    for (Item i; items.next(i); ++turn) {
      const bool up_routed = up && i.tile >= p.shared.tiles;
      float total[kBlocks][2] = {};
      float sums[kBlocks][1][4] = {};
      bool down_routed = down && i.begin >= shared_stages;
      // FP8: the sums of codes of one matrix, as numbers.
      auto add_codes = [&] {
        const float x_scale = s.x_scale[down_routed];
#pragma unroll
        for (int half = 0; half < 2 * kBlocks; ++half) {
          float& sum = sums[half / 2][0][half % 2 * 2];
          total[half / 2][half % 2] += sum * (x_scale * of_rows[half]);
          sum = 0;
        }
      };
      if (Weights::kCodes && !has_rows && !up_routed) load_rows(p, down_routed, i.tile, of_rows), has_rows = true;
      for (int stage = i.begin; stage < i.end; ++stage, at.next(kRing)) {
        if (at.stage % kTeams != team) continue;
        if (down && !down_routed && stage >= shared_stages) {
          if constexpr (Weights::kCodes) add_codes(), load_rows(p, true, i.tile, of_rows);
          down_routed = true;
        }
        const int column = (down_routed ? stage - shared_stages : stage) * V::kStageK + slab * V::kSlabK;
        mbarrier_wait(&s.full[at.stage], at.parity);
        if (Weights::kCodes && !has_rows) load_rows(p, true, i.tile - p.shared.tiles, of_rows), has_rows = true;
        if (column < (up_routed || down_routed ? k_routed : k_shared)) {
          const unsigned char* rows = codes_of(ring, at.stage) + slab * kTileRows * small_m::kSlabBytes;
          const unsigned char* of_x = x + (column + (down_routed ? k_shared : 0)) / V::kSlabK * Weights::kXSlab;
          if constexpr (Weights::kCodes)
            Weights::template multiply_slab<kBlocks, 2>(sums, rows, of_x, lane);
          else
            Weights::template multiply_slab<kBlocks, 2>(sums, rows, of_x,
                                                        scales_of(ring, at.stage) + slab * (V::kSlabK / kGroup) * 16,
                                                        V::kStageK / kGroup * 16, kGroup, lane);
        }
        __syncwarp();
        if (lane == 0) mbarrier_arrive(&s.empty[at.stage], kTeams);
      }
      has_rows = false;
      if constexpr (Weights::kCodes)
        add_codes();
      else
#pragma unroll
        for (int b = 0; b < kBlocks; ++b) total[b][0] = sums[b][0][0], total[b][1] = sums[b][0][2];
      end_item(p, phase, i, total, up_routed);
    }
  }

 private:
  // The warps' sums of an item meet; one warp adds and sends them while the others go on.
  __device__ void end_item(const Product& p, Phase phase, const Item& i, const float (&total)[kBlocks][2],
                           bool routed) {
    const int place = int(turn % kMeetings);
    const uint32_t parity = turn / kMeetings % 2;
    mbarrier_wait(&s.taken[place], parity ^ 1);
    if (lane % 4 == 0) {
#pragma unroll
      for (int half = 0; half < 2 * kBlocks; ++half)
        s.meeting[place][warp][8 * half + lane / 4] = total[half / 2][half % 2];
    }
    __syncwarp();
    if (lane == 0) mbarrier_arrive(&s.handed[place]);
    if (int(turn % kWarps) != warp) return;
    mbarrier_wait(&s.handed[place], parity);
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) sum += s.meeting[place][w][lane];
    __syncwarp();
    if (lane == 0) mbarrier_arrive(&s.taken[place]);
    if (phase == Phase::up) return send_activation(p, i, routed, sum);
    const bool is_qkv = phase == Phase::qkv;
    for (int r = 0; r < (is_qkv ? 1 : a.ranks); ++r) {
      Words& of_rank = a.memory[is_qkv ? a.rank : r]->words[turn_of_words];
      if (is_qkv)
        send_parts(of_rank.qkv[0], kMostQkv, p, i, sum);
      else
        send_parts(of_rank.sums[phase == Phase::down][a.rank][0], kMostWidth, p, i, sum);
    }
  }
  // Row `lane` of the item's tile; who has a tile's last part sends nothing for those that it has not.
  __device__ void send_parts(float* to, int stride, const Product& p, const Item& i, float sum) const {
    const int row = i.tile * kTileRows + lane;
    if (row >= p.shared.n) return;
    to += i.part * stride + row;
    send(to, sum);
    if (i.end == p.deal.stages)
      for (int part = i.part + 1; part < p.deal.parts; ++part) send(to += stride, 0.0f);
  }
  // Rows of a tile: 8 of a gate, their 8 of up, and again (weight_layout.h).
  __device__ void send_activation(const Product& p, const Item& i, bool routed, float sum) const {
    const Matrix& m = routed ? p.routed : p.shared;
    const int tile = routed ? i.tile - p.shared.tiles : i.tile;
    const float score = routed ? s.score : 1.0f;
    const float v = round_to<bf16>(sum * score), up = __shfl_down_sync(kAllLanes, v, 8);
    const float act = round_to<bf16>(silu(v)) * up, next = __shfl_down_sync(kAllLanes, act, 1);
    if (lane % 16 >= 8 || lane % 2 == 1 || tile * kTileRows + lane >= m.n) return;
    const int j = tile * (kTileRows / 2) + lane / 16 * 8 + lane % 8 + (routed ? p.shared.n / 2 : 0);
    send(words->activations + j / 2, narrow(act, next));
  }
};

}  // namespace l4::cuda::one_token
