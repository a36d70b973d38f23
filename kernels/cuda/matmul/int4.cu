// Products of INT4 weights and bfloat16 tokens, weights as wgmma's operand a from registers. What is multiplied, and in which
// order, is as in grouped.cu's narrow form; other than there, weights are codes.
//
// A stage of the ring is 256 columns of k (int4_ring.h). A lane of a warp that has rows 16 w .. + 15 of the 64 of its
// warpgroup reads the 32 bytes of rows g and g + 8 that hold columns 32 b + 8 t .. + 7 of the stage's eight blocks of 32
// (weight_layout.h), and expands a word to four pairs of bfloat16, three instructions each: a block is two instructions'
// operands. Those want columns 2 t, 2 t + 1, 2 t + 8, 2 t + 9 of 16, so tokens come with the columns of every 32 in another
// order (shuffle_kernel): column 8 t + 4 i + 2 h + e at 16 i + 8 h + 2 t + e.
//
// Codes are multiplied exactly; a group's sums are multiplied by its scale and added in float32. There are two sets of
// sums of groups: while one is added, and the next block's codes are expanded, instructions fill the other.
//
// Limits. Bytes: 16.5 KB a stage (groups of 128), which take 1,260 clocks of an SM of an H100 at 3.1 TB/s, 860 of an H200's.
// Issue: a warp's stage is 4 loads, 176 instructions of expansion, 8 * 8 around products, and for n tokens n / 2 additions a
// group: 260 to 310 in groups of 128, 260 to 500 in groups of 32; a scheduler has two such warps. Matrix units: 16 clocks a
// token and stage, 1,024 at 64. Hence two warpgroups, and 64 KB of codes in flight.
#include "kernels/cuda/device/math.h"
#include "kernels/cuda/device/shared.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/matmul/grouped_finish.h"
#include "kernels/cuda/matmul/grouped_launch.h"
#include "kernels/cuda/matmul/grouped_rows.h"
#include "kernels/cuda/matmul/int4_codes.h"
#include "kernels/cuda/matmul/int4_ring.h"
#include "kernels/cuda/ptx/pdl.h"
#include "kernels/cuda/ptx/wgmma.h"
#include "kernels/cuda/tensor_map.h"

namespace l4::cuda {

using namespace grouped;

namespace {
using S = Int4Shape;
constexpr int kBlock = 32, kBlocks = S::kTileK / kBlock;  // columns of a word of each lane; of a stage

// Rows g and g + 8 of a warp's 16: of a stage, what the lane needs of them.
struct Rows16 {
  const unsigned char* codes;  // of row g
  const bf16* scales;          // [groups][16], of row g
};

// Half of a stage's words of rows g and g + 8.
__device__ inline void load_words(const Rows16& rows, int chunk, uint32_t (&words)[2][4]) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const uint4 v = *reinterpret_cast<const uint4*>(rows.codes + 8 * r * (S::kTileK / 2) + 16 * chunk);
    words[r][0] = v.x, words[r][1] = v.y, words[r][2] = v.z, words[r][3] = v.w;
  }
}

// sums += part * the scales of rows g and g + 8
template <int kCount>
__device__ inline void add_group(float (&sums)[kCount], const float (&part)[kCount], const float (&scale)[2]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) sums[i] = fmaf(part[i], scale[i / 2 % 2], sums[i]);
}

// d += weights tokens of `n_steps` stages, kN tokens wide, kGroups groups a stage.
template <int kN, int kGroups>
__device__ void multiply(int n_steps, int warp_rows, int lane, Int4Ring<kGroups>& ring,
                         float (&d)[S::kMaxTokens / 2]) {
  constexpr int kBlocksEach = kBlocks / kGroups;
  const int g = lane / 4, t = lane % 4;
  auto& sums = reinterpret_cast<float(&)[kN / 2]>(d);
  for (int step = 0; step < n_steps; ++step) {
    mbarrier_wait(&ring.full[ring.stage], ring.parity());
    const Rows16 rows{ring.codes() + (warp_rows + g) * (S::kTileK / 2),
                      reinterpret_cast<const bf16*>(ring.scales()) + warp_rows * kGroups + g};
    uint64_t tokens = matrix_descriptor(ring.tokens(), Swizzle::bytes128, 0, 8 * 128);
    tokens = __shfl_sync(kAllLanes, tokens, 0);  // so that the compiler knows it to be the same in all lanes
    float part[2][kN / 2];  // of the group that is being multiplied and of the one before
    uint32_t words[2][4];
    uint32_t a[2][2][4];  // of a block and the one before it
#pragma unroll
    for (int b = 0; b <= kBlocks; ++b) {
      const int group = b / kBlocksEach;
      if (b < kBlocks) {
        if (b % 4 == 0) load_words(rows, (2 * t + b / 4) ^ g, words);  // Swizzle::bytes128
        auto& of_block = a[b % 2];
#pragma unroll
        for (int pair = 0; pair < 4; ++pair)
#pragma unroll
          for (int r = 0; r < 2; ++r) of_block[pair / 2][pair % 2 * 2 + r] = int4_codes(words[r][b % 4], pair);
        wgmma_hold(part[group % 2]);
        wgmma_fence();
#pragma unroll
        for (int i = 0; i < 2; ++i)
          wgmma<kN>(part[group % 2], of_block[i],
                    advance_descriptor(tokens, uint32_t(b / 2 * kN * 128 + (2 * (b % 2) + i) * 32)),
                    b % kBlocksEach != 0 || i != 0);
        wgmma_commit();
        wgmma_wait<1>();  // the block before is done
      } else {
        wgmma_wait<0>();
      }
      if (b > 0 && b % kBlocksEach == 0) {
        auto& before = part[(group - 1) % 2];
        wgmma_hold(before);
        float scale[2];
#pragma unroll
        for (int r = 0; r < 2; ++r) scale[r] = get(rows.scales[(group - 1) * int(kScaleRows) + 8 * r]);
        add_group(sums, before, scale);
      }
    }
    if (lane == 0) mbarrier_arrive(&ring.empty[ring.stage]);
    ring.next();
  }
}
// The same with a width that only the device knows.
template <int kWhich, int kGroups>
__device__ void multiply_any(int which, int n_steps, int warp_rows, int lane, Int4Ring<kGroups>& ring,
                             float (&d)[S::kMaxTokens / 2]) {
  if (which == kWhich)
    multiply<int4_width(kWhich), kGroups>(n_steps, warp_rows, lane, ring, d);
  else if constexpr (kWhich > 0)
    multiply_any<kWhich - 1, kGroups>(which, n_steps, warp_rows, lane, ring, d);
}

template <int kGroups, bool up>
__global__ void __launch_bounds__(kThreads, 1)
    int4_kernel(const __grid_constant__ BothInt4Maps both, const __grid_constant__ Work w,
                const __grid_constant__ Results r) {
  __shared__ Tiles tiles;
  __shared__ Mbarrier full[S::kMostStages], empty[S::kMostStages];
  Int4Ring<kGroups> ring{dynamic_shared<unsigned char>(), full, empty};
  if (threadIdx.x == 0) {
    for (int i = 0; i < S::kMostStages; ++i) {
      mbarrier_init(&full[i], 1);
      mbarrier_init(&empty[i], kConsumers * 4);  // a consumer warp each
    }
    mbarrier_init_fence();
  }
  wait_for_predecessor();
  let_successor_start();
  list_tiles<S>(w, tiles);
  auto each_tile = [&](auto&& body) {
    for (int i = int(blockIdx.x); i < tiles.first[w.n_experts + 1]; i += int(gridDim.x))
      body(tile_at<S>(w, tiles, i, 0));
  };
  if (threadIdx.x < 128) {
    if (threadIdx.x == 0) each_tile([&](const Tile& tile) { produce_int4<kGroups>(both, w, tile, ring); });
    return;
  }
  each_tile([&](const Tile& tile) {
    const int lane = int(threadIdx.x) % 32, warp_rows = 16 * (int(threadIdx.x) / 32 - 4);
    float d[S::kMaxTokens / 2];
#pragma unroll
    for (int i = 0; i < S::kMaxTokens / 2; ++i) d[i] = 0;
    auto make = [&] {
      if (tile.width != ring.width) ring.set_width(tile.width);
      multiply_any<kInt4Widths - 1, kGroups>(which_width(tile), tile.n_steps, warp_rows, lane, ring, d);
    };
    if constexpr (up) {
      const auto scores = scores_of<S>(w, r, tile, lane);
      make();
      finish_up<S::kMaxTokens>(w, r, tile, tile.row + warp_rows, lane, scores, d);
    } else {
      const auto rows = rows_of<S>(r, tile, lane);
      make();
      finish_down<S::kMaxTokens>(w, r, tile, tile.row + warp_rows, lane, rows, d);
    }
  });
}

// ---- tokens

constexpr int kShuffleThreads = 128;

struct Shuffled {
  const bf16* from[2];
  bf16* to[2];
  int64_t k[2];
  const int32_t* rows;  // of an entry; null: the same
};
// Block (i, j): entry i of tensor j, with columns 8 t + 4 i + 2 h + e of every 32 at 16 i + 8 h + 2 t + e: pairs are the
// words of a matrix of 4 x 4, which is transposed.
__global__ void __launch_bounds__(kShuffleThreads) shuffle_kernel(const __grid_constant__ Shuffled s) {
  wait_for_predecessor();
  let_successor_start();
  const int64_t which = blockIdx.y, entry = blockIdx.x, row = s.rows ? s.rows[entry] : entry;
  const uint4* from = reinterpret_cast<const uint4*>(s.from[which] + row * s.k[which]);
  uint4* to = reinterpret_cast<uint4*>(s.to[which] + entry * s.k[which]);
  for (int64_t i = threadIdx.x; i < s.k[which] / kBlock; i += kShuffleThreads) {
    const uint4 v[4] = {from[4 * i], from[4 * i + 1], from[4 * i + 2], from[4 * i + 3]};
    to[4 * i] = {v[0].x, v[1].x, v[2].x, v[3].x};
    to[4 * i + 1] = {v[0].y, v[1].y, v[2].y, v[3].y};
    to[4 * i + 2] = {v[0].z, v[1].z, v[2].z, v[3].z};
    to[4 * i + 3] = {v[0].w, v[1].w, v[2].w, v[3].w};
  }
}

// [n_rows, k] each; experts' null: there are none.
struct ShuffledTokens {
  bf16 *shared = nullptr, *experts = nullptr;
};
ShuffledTokens shuffle(Scratch& scratch, const OpContext& ctx, const View& shared, const View& experts,
                       const int32_t* rows) {
  const int n = experts ? 2 : 1;
  ShuffledTokens to{scratch.take_array<bf16>(shared.elements()),
                    experts ? scratch.take_array<bf16>(experts.elements()) : nullptr};
  if (ctx.measuring()) return to;
  const int64_t n_rows = shared.rows();
  auto from = [&](const View& v) { return v ? data<bf16>(v) : nullptr; };
  launch({.grid = dim3(unsigned(n_rows), unsigned(n)),
          .block = kShuffleThreads,
          .stream = ctx.gpu.stream,
          .programmatic = true},
         shuffle_kernel,
         Shuffled{{from(shared), from(experts)}, {to.shared, to.experts}, {shared.cols(), experts ? experts.cols() : 0}, rows});
  return to;
}

// ---- host

Int4Maps int4_maps(const PackedWeight& w, const bf16* tokens, int64_t n_rows) {
  const LinearSpec& s = w.spec;
  const int64_t run = s.k / s.group * kScaleRows, groups = S::kTileK / s.group;
  Int4Maps maps{
      tensor_map(w.data.data(), DType::u8, {{s.k / 2, s.n * s.n_experts}}, {{s.k / 2}}, {{S::kTileK / 2, kTileRows}},
                 Swizzle::bytes128),
      tensor_map(w.scales.data(), DType::bf16, {{run, scale_tiles(s.n) * s.n_experts}}, {{run * 2}},
                 {{groups * kScaleRows, kTileRows / kScaleRows}}, Swizzle::none),
      {}};
  for (int i = 0; i < kInt4Widths; ++i)
    maps.tokens[i] = tensor_map(tokens, DType::bf16, {{S::kBoxK, n_rows, s.k / S::kBoxK}}, {{s.k * 2, S::kBoxK * 2}},
                                {{S::kBoxK, int4_width(i), S::kTileK / S::kBoxK}}, Swizzle::bytes128);
  return maps;
}

template <bool up>
void start_int4(const OpContext& ctx, const Work& w, const Results& r, const PackedWeight& shared,
                const PackedWeight* experts, const ShuffledTokens& tokens) {
  const Int4Maps of_shared = int4_maps(shared, tokens.shared, w.n_rows);
  const BothInt4Maps both{of_shared, experts ? int4_maps(*experts, tokens.experts, w.n_rows) : of_shared};
  auto with = [&](auto kernel) {
    launch({.grid = unsigned(ctx.gpu.n_sms),
            .block = kThreads,
            .shared_bytes = S::kRingBytes,
            .stream = ctx.gpu.stream,
            .programmatic = true},
           kernel, both, w, r);
  };
  switch (shared.spec.group) {
    case 32:
      return with(int4_kernel<8, up>);
    case 64:
      return with(int4_kernel<4, up>);
    default:
      return with(int4_kernel<2, up>);
  }
}

// y = the product of `shared` and, by the rows' order, of experts: in two launches where steps are short (grouped.cu).
void down(Scratch& scratch, const OpContext& ctx, Work w, Results r, const PackedWeight& shared,
          const PackedWeight* experts, const ShuffledTokens& tokens, const View& y) {
  const bool few = w.n_rows <= kNarrowRows;
  if (few) r.n_sums = parts_of_shared(w, ctx.gpu.n_sms);
  const bool two_launches = few && (experts || r.n_sums > 1);
  if (two_launches) r.sums = scratch.take_array<float>(r.n_sums * y.elements());
  if (ctx.measuring()) return;
  r.shared_out = r.expert_out = data<bf16>(y);
  if (two_launches) {
    Work shared_alone = work_of(shared, nullptr, w.n_rows, S::kTileK);
    shared_alone.n_parts = r.n_sums;
    Results leaves_sums = r;
    leaves_sums.leaves_sums = true;
    start_int4<false>(ctx, shared_alone, leaves_sums, shared, nullptr, tokens);
    w.shared_steps = 0;
  }
  start_int4<false>(ctx, w, r, shared, experts, tokens);
}
}  // namespace

void int4_linear(const OpContext& ctx, const View& x, const PackedWeight& w, const View& y) {
  Scratch scratch(ctx.work);
  const int64_t n_rows = x.elements() / w.spec.k;
  const ShuffledTokens tokens = shuffle(scratch, ctx, x.reshape({n_rows, w.spec.k}), View{}, nullptr);
  down(scratch, ctx, work_of(w, nullptr, n_rows, S::kTileK), {}, w, nullptr, tokens, y);
}

void int4_ffn_up(const OpContext& ctx, const FfnUpArgs& args) {
  Scratch scratch(ctx.work);
  Work w = work_of(*args.shared, args.experts, args.h.rows(), S::kTileK);
  Results r;
  const int32_t* rows = nullptr;
  if (args.experts) {
    const Arranged at = arrange(scratch, ctx, args.route, args.first_expert, w.n_experts);
    w.begin = at.groups.begin;
    r.scores = at.groups.scores;
    rows = at.rows;
  }
  ShuffledTokens tokens = shuffle(scratch, ctx, args.h, View{}, rows);
  if (ctx.measuring()) return;
  tokens.experts = tokens.shared;
  r.shared_out = data<bf16>(args.act_shared);
  if (args.experts) r.expert_out = data<bf16>(args.act_routed);
  start_int4<true>(ctx, w, r, *args.shared, args.experts, tokens);
}

void int4_ffn_down(const OpContext& ctx, const FfnDownArgs& args, const View& y) {
  Scratch scratch(ctx.work);
  Work w = work_of(*args.shared, args.experts, y.rows(), S::kTileK);
  Results r;
  if (args.experts) {
    const Arranged at = arrange(scratch, ctx, args.route, args.first_expert, w.n_experts);
    r.rows = at.rows;
    w.begin = at.groups.begin;
    w.all_rows = false;
    w.add_shared = true;
  }
  const ShuffledTokens tokens =
      shuffle(scratch, ctx, args.act_shared, args.experts ? args.act_routed : View{}, nullptr);
  down(scratch, ctx, w, r, *args.shared, args.experts, tokens, y);
}

}  // namespace l4::cuda
