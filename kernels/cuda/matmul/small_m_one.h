// The warps of small_m.cu that multiply FP8 and INT4 by one token. What was fetched before x was there is multiplied at
// once when it is, and everything else waits for that: so x becomes operands once a block, in shared memory, and a
// stage is little more than its own codes. INT4: products of integers; codes become bytes with three instructions for
// eight, where bfloat16 takes eleven. x of 256 columns becomes integers of 15 bits by a power of two that its largest
// fits, its high and low bytes two columns of m16n8k32. A group's sum is exact; what is rounded is x, by at most 2^-14
// of the largest of 256, where rounding to bfloat16 has already left 2^-9 of that one.
#pragma once

#include "kernels/cuda/matmul/small_m_multiply.h"
#include "kernels/cuda/ptx/lop3.h"

namespace l4::cuda::small_m {

__device__ inline void words(const uint4& v, uint32_t (&to)[4]) {
  to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
}
// Chunk 2 t + j of rows g and g + 8 of 16, at `rows` in a slab of a stage.
__device__ inline void load_chunks(const unsigned char* rows, int j, int lane, uint32_t (&low)[4],
                                   uint32_t (&high)[4]) {
  const int g = lane / 4, t = lane % 4;
  const unsigned char* chunk = rows + g * kSlabBytes + ((2 * t + j) ^ g) * 16;  // ^ g: Swizzle::bytes128
  words(*reinterpret_cast<const uint4*>(chunk), low);
  words(*reinterpret_cast<const uint4*>(chunk + 8 * kSlabBytes), high);
}

// How 8 columns of x, those of a lane, become operands of the slab that they are in, where a slab's lie, and the
// product of a warp's part of a stage.
struct Fp8One : Fp8Weights {
  static constexpr bool kOne = true;
  static constexpr int kXSlab = kSlabBytes;  // codes, in order

  __device__ static uint2 codes(const uint4& v, const XScale& scale) {
    float of[8];
    widen(v, of);
    auto two = [&](int i) { return uint32_t(fp8_pair(quotient(of[i], scale), quotient(of[i + 1], scale))); };
    return make_uint2(two(0) | two(2) << 16, two(4) | two(6) << 16);
  }
  // sums += of kBlocks times 16 rows, at `rows` in a slab of a stage, by the slab's codes of x. kAtOnce: of a row's two
  // chunks of a lane; with both, half as many products wait for each other, in 24 registers more.
  template <int kBlocks, int kAtOnce = 1>
  __device__ static void multiply_slab(float (&sums)[kBlocks][1][4], const unsigned char* rows,
                                       const unsigned char* of_x, int lane) {
    const int t = lane % 4;
    float others[kBlocks][4] = {};
#pragma unroll
    for (int first = 0; first < 2; first += kAtOnce) {
      uint32_t low[kAtOnce][kBlocks][4], high[kAtOnce][kBlocks][4], codes_of_x[kAtOnce][4];
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
#pragma unroll
        for (int b = 0; b < kBlocks; ++b)
          load_chunks(rows + b * 16 * kSlabBytes, first + j, lane, low[j][b], high[j][b]);
        words(*reinterpret_cast<const uint4*>(of_x + (2 * t + first + j) * 16), codes_of_x[j]);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j) {
          uint32_t operand_of_x[2];  // in every column: that of the token is stored
          halves_of_fp8(codes_of_x[j][i], operand_of_x[0], operand_of_x[1]);
#pragma unroll
          for (int b = 0; b < kBlocks; ++b) {
            uint32_t w[4];
            operand(low[j][b], high[j][b], i, w);
            multiply(j ? others[b] : sums[b][0], w, operand_of_x);
          }
        }
    }
    if constexpr (kAtOnce > 1)
#pragma unroll
      for (int b = 0; b < kBlocks; ++b)
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[b][0][i] += others[b][i];
  }
};
struct Int4One : Int4Weights {
  static constexpr bool kOne = true;
  static constexpr int kWord = 64;            // of 32 columns: high bytes and then low ones, [t][8]
  static constexpr int kScale = 8 * kWord;    // what the integers are in
  static constexpr int kXSlab = kScale + 16;  // of 256 columns

  __device__ static void make(const uint4& x, int lane, unsigned char* slab) {
    const uint32_t words[4] = {x.x, x.y, x.z, x.w};
    uint32_t largest = 0;
#pragma unroll
    for (uint32_t two : words) largest = max(largest, max(two << 16 & 0x7FFFFFFFu, two & 0x7FFF0000u));
    const uint32_t exponent = __reduce_max_sync(kAllLanes, largest) >> 23;
    const uint32_t up = min(127u + 13u + 127u - exponent, 254u) << 23;  // the largest's leading bit is the 13th then
    float v[8];
    widen(x, v);
    // 1.5 * 2^23 has the integer in its lowest bits. 128 rounds what is in the high byte, and makes the low one 128
    // less.
#pragma unroll
    for (float& value : v) value = fmaf(value, __uint_as_float(up), 12582912.0f + 128.0f);
    auto both = [&](int i, int j) { return __byte_perm(__float_as_uint(v[i]), __float_as_uint(v[j]), 0x5140); };
    const uint32_t first[2] = {both(0, 4), both(1, 5)}, second[2] = {both(2, 6), both(3, 7)};  // weight_layout.h
    auto high = [](const uint32_t(&two)[2]) { return __byte_perm(two[0], two[1], 0x7632); };
    auto low = [](const uint32_t(&two)[2]) { return __byte_perm(two[0], two[1], 0x5410) ^ 0x80808080u; };
    unsigned char* to = slab + lane / 4 * kWord + lane % 4 * 8;
    *reinterpret_cast<uint2*>(to) = make_uint2(high(first), high(second));
    *reinterpret_cast<uint2*>(to + kWord / 2) = make_uint2(low(first), low(second));
    constexpr uint32_t kSixteenth = 4u << 23;  // codes are multiplied in the upper halves of bytes
    const uint32_t down = (254u << 23) - up;
    if (lane == 0)
      *reinterpret_cast<float*>(slab + kScale) =
          exponent == 255 ? NAN : __uint_as_float(down > kSixteenth ? down - kSixteenth : 0);
  }
  // Every second of eight codes, as sixteen times what it stands for.
  __device__ static uint32_t bytes(uint32_t codes) {
    return xor_and(codes, 0x88888888u, 0xF0F0F0F0u);
  }
  // The same by the slab's integers of x. scale: of the slab's first group, [groups][16], of the next 16 rows further
  // on by next_rows. Of sums[..][0] and [2] (rows g and g + 8) those of the first column are meant.
  template <int kBlocks, int kAtOnce = 1>
  __device__ static void multiply_slab(float (&sums)[kBlocks][1][4], const unsigned char* rows,
                                       const unsigned char* of_x, const bf16* scale, int next_rows, int group,
                                       int lane) {
    const int g = lane / 4, t = lane % 4;
    const float x_scale = *reinterpret_cast<const float*>(of_x + kScale);
    of_x += g % 2 * (kWord / 2) + t * 8;
    scale += g;
#pragma unroll
    for (int first = 0; first < 2; first += kAtOnce) {
      uint32_t low[kAtOnce][kBlocks][4], high[kAtOnce][kBlocks][4];
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j)
#pragma unroll
        for (int b = 0; b < kBlocks; ++b)
          load_chunks(rows + b * 16 * kSlabBytes, first + j, lane, low[j][b], high[j][b]);
      int part[kAtOnce][kBlocks][4] = {};  // of 128 columns each, which are a group or more
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j) {
          const int word = 4 * (first + j) + i;
          const uint2 of = *reinterpret_cast<const uint2*>(of_x + word * kWord);
#pragma unroll
          for (int b = 0; b < kBlocks; ++b) {
            const uint32_t l = low[j][b][i], h = high[j][b][i];
            mma_m16n8k32_s8(part[j][b], {bytes(l << 4), bytes(h << 4), bytes(l), bytes(h)}, {of.x, of.y});
          }
          if ((32 * (word + 1) & (group - 1)) != 0) continue;
          const bf16* of_groups = scale + 32 * word / group * 16;
#pragma unroll
          for (int b = 0; b < kBlocks; ++b) {
            const bf16* of_rows = of_groups + b * next_rows;
            const float s0 = get(of_rows[0]) * x_scale, s1 = get(of_rows[8]) * x_scale;
            float(&sum)[4] = sums[b][0];
            int(&of_group)[4] = part[j][b];
            sum[0] = fmaf(float(of_group[0] * 256 + of_group[1]), s0, sum[0]);
            sum[2] = fmaf(float(of_group[2] * 256 + of_group[3]), s1, sum[2]);
#pragma unroll
            for (int& v : of_group) v = 0;
          }
        }
    }
  }
};

template <class V, Mode mode>
struct OneToken : Multiplier<V, mode> {
  using Base = Multiplier<V, mode>;
  using Weights = typename V::Weights;
  using Sums = typename Base::Sums;
  using Base::a, Base::s, Base::ring, Base::at, Base::lane, Base::warp, Base::g, Base::t, Base::slab, Base::block;
  static_assert(V::kUnits == 1);

  static constexpr int kAtOnce = 256;                            // columns of x, of a warp
  static constexpr int kLoads = kMostX / (kAtOnce * V::kWarps);  // of a lane

  unsigned char* x;  // operands: of the row of x, and in `down` then of the routed one

  __device__ void prepare() const {
    const int shared = int(a.shared.k), k = mode == Mode::down ? shared + a.n_slots * int(a.routed.k) : shared;
    auto begin = [&](int i) { return (i * V::kWarps + warp) * kAtOnce; };
    auto is_routed = [&](int i) { return mode == Mode::down && begin(i) + 8 * lane >= shared; };
    uint4 v[kLoads];
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int column = begin(i) + 8 * lane;
      if (column < k)
        v[i] = *reinterpret_cast<const uint4*>(is_routed(i) ? a.x_routed + (column - shared) : a.x + column);
      else
        v[i] = uint4{};
    }
    XScale scale[2];
    if constexpr (Weights::kCodes) {
      float largest[2] = {};
#pragma unroll
      for (int i = 0; i < kLoads; ++i)
        if (begin(i) < k)
          raise(largest[0], is_routed(i) ? uint4{} : v[i]), raise(largest[1], is_routed(i) ? v[i] : uint4{});
#pragma unroll
      for (int r = 0; r < (mode == Mode::down ? 2 : 1); ++r) {
        largest[r] = warp_max(largest[r]);
        if (lane == 0) s.largest[warp][r] = largest[r];
      }
      barrier_sync(1, 32 * V::kWarps);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float of_all = 0;
#pragma unroll
        for (int w = 0; w < V::kWarps; ++w) of_all = fmaxf(of_all, s.largest[w][mode == Mode::down ? r : 0]);
        const float fixed = r ? a.x_routed_scale : a.x_scale;
        scale[r] = XScale::of(fixed != 0 ? fixed : fp8_scale(of_all));
        if (threadIdx.x == 0) s.x_scale[r][0] = scale[r].scale;
      }
    }
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      if (begin(i) >= k) continue;
      if constexpr (Weights::kCodes) {
        if (begin(i) + 8 * lane < k)
          *reinterpret_cast<uint2*>(x + begin(i) + 8 * lane) = Weights::codes(v[i], is_routed(i) ? scale[1] : scale[0]);
      } else {
        Weights::make(v[i], lane, x + begin(i) / kAtOnce * Weights::kXSlab);
      }
    }
    barrier_sync(1, 32 * V::kWarps);
  }
  // This warp's slab of a stage: its operands of x.
  struct From {
    const unsigned char* x;
    int left;   // k from the slab on
    int until;  // the stage of the tile with which another matrix begins
  };
  __device__ void find_x(From& f, int tile, int stage) const {
    const Place p = place<mode>(a, tile, stage);
    const bool routed = mode != Mode::linear && p.which >= 0;
    if (mode == Mode::up && routed) mbarrier_wait(&s.routed, 0);
    const Matrix& m = routed ? a.routed : a.shared;
    const int before = p.stage * V::kStageK + slab * V::kSlabK;
    f.x = x + (before + (mode == Mode::down && routed ? int(a.shared.k) : 0)) / V::kSlabK * Weights::kXSlab;
    f.left = int(m.k) - before;
    f.until = mode == Mode::down ? stage - p.stage + m.stages : INT_MAX;
  }

  __device__ const unsigned char* rows_of_stage() const {
    return ring + at.stage * a.stage_bytes + (slab * V::kTileRows + 16 * block) * kSlabBytes;
  }
  template <bool k128>
  __device__ void multiply_groups(Sums& sums, const unsigned char* of_x) const {
    const int group = k128 ? 128 : a.group, of_stage = V::kStageK / group;
    const bf16* scale = reinterpret_cast<const bf16*>(ring + at.stage * a.stage_bytes + V::kStageBytes) +
                        (block * of_stage + slab * (V::kSlabK / group)) * 16;
    Weights::template multiply_slab<V::kBlocks>(sums[0], rows_of_stage(), of_x, scale, of_stage * 16, group, lane);
  }

  __device__ void run() {
    prepare();
    for (int turn = 0;; ++turn) {
      mbarrier_wait(&s.full[at.stage], at.parity);
      const int index = __shfl_sync(kAllLanes, lane == 0 ? s.item[at.stage] : 0, 0);
      if (index == kNone) return;
      const Item i = item(s.work, index);
      Sums sums = {};
      multiply_item(sums, i);
      if (turn == 0) wait_for_predecessor();  // what it still uses may be where our results go
      Base::end_item(sums, i, turn);
    }
  }
  __device__ void multiply_item(Sums& total, const Item& i) {
    Base::choose_slab(i.tile);
    From from;
    find_x(from, i.tile, i.begin);
    typename Base::RowScales rows;
    Sums codes = {};
    if constexpr (Weights::kCodes) rows = Base::row_scales(i.tile, i.begin);
    for (int stage = i.begin; stage < i.end; ++stage) {
      if (stage > i.begin) mbarrier_wait(&s.full[at.stage], at.parity);
      if (from.left > 0) {
        if constexpr (Weights::kCodes)
          Weights::template multiply_slab<V::kBlocks>(codes[0], rows_of_stage(), from.x, lane);
        else if (a.group == 128)
          multiply_groups<true>(total, from.x);
        else
          multiply_groups<false>(total, from.x);
      }
      Base::leave_stage();
      const bool more = stage + 1 < i.end, other = stage + 1 == from.until;
      if constexpr (Weights::kCodes)
        if (!more || other) {
          Base::add_scaled(total, codes, rows, i.tile, stage);
          if (more) rows = Base::row_scales(i.tile, stage + 1);
        }
      if (!more) break;
      if (other)
        find_x(from, i.tile, stage + 1);
      else
        from.x += V::kSlabs * Weights::kXSlab, from.left -= V::kStageK;
    }
  }
};

}  // namespace l4::cuda::small_m
