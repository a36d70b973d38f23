// Attention of one token within one_token's kernel. The keys of all kv heads are one line of units, a stage of the ring
// each, dealt out to blocks in equal runs; sixteen keys of a unit are a warp's. A block finishes the projection for the
// heads that it works on by itself: sums the parts of q, rotates and norms it; who has a head's last unit does so for
// this step's key and value, writes them to the cache, and puts them where the unit that was fetched has nothing yet. A
// head that several blocks share is added up by the one that has its first keys, one query head a warp.
#pragma once

#include "kernels/cuda/attention/fp8_codes.h"
#include "kernels/cuda/one_token/block.h"
#include "kernels/cuda/ptx/fp8.h"
#include "kernels/cuda/ptx/ldmatrix.h"
#include "kernels/cuda/ptx/tma.h"
#include "quant/fp8.h"

namespace l4::cuda::one_token {

// How a unit lies in two stages side by side: keys, then values, as the copy engine swizzles rows of 128 bytes; their
// scales likewise. What decode_attend.h wants to know of a cache, of a warp's 16 keys.
struct Fp8Unit {
  static constexpr bool kHasScales = true;
  static constexpr int kKeys = 128, kTiles = 1, kUnitsAPage = int(kFastPageTokens) / kKeys;
  static constexpr int kRowBytes = kHd, kHalves = 1;
  static constexpr float kFactor = kCodesFactor;

  __device__ static int place_of(int row, int chunk) { return row * 128 + (chunk ^ (row % 8)) * 16; }
  __device__ static int key_of(int, int half, int g) { return g + 8 * half; }
  __device__ static int element_of(int i, int half, int g) { return 16 * i + 2 * g + half; }
  __device__ static void keys(uint32_t (&a)[1][4], const std::byte* stage, int i, int lane) {
    uint32_t words[2];
    ldmatrix_x2(words, stage + place_of(lane % 16, i));
#pragma unroll
    for (int m = 0; m < 2; ++m) a[0][m] = even_codes(words[m]), a[0][m + 2] = odd_codes(words[m]);
  }
  __device__ static void values(uint32_t (&a)[1][4], const std::byte* stage, int i, int lane) {
    uint32_t words[2];
    ldmatrix_x2_trans(words, stage + kCodesBytes + place_of(lane % 16, i));
#pragma unroll
    for (int m = 0; m < 2; ++m) a[0][2 * m] = even_codes(words[m]), a[0][2 * m + 1] = odd_codes(words[m]);
  }
  __device__ static void query(uint32_t (&b)[2], const bf16* head, int i, int t) {
    const uint2 from = reinterpret_cast<const uint2*>(head)[4 * i + t];
    b[0] = times(__byte_perm(from.x, from.y, 0x5410), kCodesFactorPair);
    b[1] = times(__byte_perm(from.x, from.y, 0x7632), kCodesFactorPair);
  }
  struct Scales {
    float k[2] = {1, 1}, v[2] = {1, 1};
    // from: of the warp's keys.
    __device__ static Scales load(const bf16* from, int lane) {
      constexpr int kNext = kScaleBytes / int(sizeof(bf16));
      const int g = lane / 4;
      return {{get(from[g]), get(from[g + 8])}, {get(from[kNext + g]), get(from[kNext + g + 8])}};
    }
    __device__ float key(int, int half) const { return k[half]; }
    __device__ float value(int, int half, bool is_there) const { return is_there ? v[half] * kCodesFactor : 0; }
  };
};

struct Bf16Unit {
  static constexpr bool kHasScales = false;
  static constexpr int kKeys = 64, kTiles = 1, kUnitsAPage = int(kFastPageTokens) / kKeys;
  static constexpr int kRowBytes = 2 * kHd, kHalves = 2;  // of a row: 128 bytes each, one after another in a stage
  static constexpr float kFactor = 1;

  __device__ static int place_of(int row, int chunk) {
    return chunk / 8 * kKeys * 128 + row * 128 + (chunk % 8 ^ (row % 8)) * 16;
  }
  __device__ static int key_of(int, int half, int g) { return g + 8 * half; }
  __device__ static int element_of(int i, int half, int g) { return 16 * i + g + 8 * half; }
  __device__ static void keys(uint32_t (&a)[1][4], const std::byte* stage, int i, int lane) {
    ldmatrix_x4(a[0], stage + place_of(lane % 16, 2 * i + lane / 16));
  }
  __device__ static void values(uint32_t (&a)[1][4], const std::byte* stage, int i, int lane) {
    ldmatrix_x4_trans(a[0], stage + kCodesBytes + place_of(lane % 8 + lane / 16 * 8, 2 * i + lane / 8 % 2));
  }
  __device__ static void query(uint32_t (&b)[2], const bf16* head, int i, int t) {
    const uint32_t* from = reinterpret_cast<const uint32_t*>(head) + 8 * i + t;
    b[0] = from[0];
    b[1] = from[4];
  }
  struct Scales {
    __device__ static Scales load(const bf16*, int) { return {}; }
    __device__ float key(int, int) const { return 1; }
    __device__ float value(int, int, bool) const { return 1; }
  };
};

// A block's run of units of all kv heads' keys, this step's among them.
template <class Cache>
struct Units {
  uint32_t of_head, all, begin, end;
  __device__ Units(const Attention& t, int32_t past, int block, int n_blocks)
      : of_head(uint32_t(past + Cache::kKeys) / Cache::kKeys),
        all(of_head * uint32_t(t.n_kv)),
        begin(first_of(uint32_t(block), n_blocks)),
        end(first_of(uint32_t(block) + 1, n_blocks)) {}
  __device__ uint32_t first_of(uint32_t block, int n_blocks) const {
    return all * block / uint32_t(n_blocks);  // 10M tokens, 8 heads, 132 blocks: 2^27
  }
  __device__ uint32_t block_of(uint32_t unit, int n_blocks) const {
    return ((unit + 1) * uint32_t(n_blocks) - 1) / all;
  }
};

template <class Cache>
struct Attender {
  const Program& a;
  Shared& s;
  unsigned char* ring;
  Meeting<kAttendWarps>& meeting;
  Turn& at;
  Words& words;
  Part* parts;
  const int lane = int(threadIdx.x % 32), warp = int(threadIdx.x / 32);
  static constexpr int kWorking = Cache::kKeys / 16;  // warps

  // Four elements of a head of q, k or v: the sum of the parts, rounded.
  __device__ void load(int n_parts, int head, float (&v)[4]) const {
    uint4 of[kMostParts];
    receive_together(
        a, of, [&](int p) { return reinterpret_cast<const uint4*>(words.qkv[p] + head * kHd) + lane; },
        [&](int p) { return p < n_parts; });
#pragma unroll
    for (float& of_four : v) of_four = 0;
#pragma unroll
    for (int p = 0; p < kMostParts; ++p)
      if (p < n_parts) add_words(v, of[p]);
#pragma unroll
    for (float& of_four : v) of_four = round_to<bf16>(of_four);
  }
  // Rotation, norm and temperature as rope.cu's finish_qkv.
  __device__ void rotate(const Attention& t, bool is_q, float (&v)[4]) const {
    float factor = 1;
    if (t.rope) {
      float squares = 0;
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const float x = v[2 * j], y = v[2 * j + 1], c = s.cosine[2 * lane + j], n = s.sine[2 * lane + j];
        v[2 * j] = round_to<bf16>(__fsub_rn(__fmul_rn(x, c), __fmul_rn(y, n)));
        v[2 * j + 1] = round_to<bf16>(__fadd_rn(__fmul_rn(x, n), __fmul_rn(y, c)));
        squares += v[2 * j] * v[2 * j] + v[2 * j + 1] * v[2 * j + 1];
      }
      if (t.qk_norm) factor = 1.0f / sqrtf(warp_sum(squares) / float(kHd) + t.qk_norm_eps);
    } else if (is_q && t.temperature) {
      factor = log1pf(floorf((float(*a.position) + 1.0f) / t.floor_scale)) * t.attn_scale + 1.0f;
    }
#pragma unroll
    for (float& of_four : v) of_four = round_to<bf16>(of_four * factor);
  }
  // This step's key (which 0) or value (1) of a kv head as the cache has it, to shared memory and to the page.
  __device__ void keep(const Attention& t, int head, int which, const float (&v)[4], int past) const {
    const Program::Kv& kv = a.kv[t.kind];
    const int32_t page = kv.pages[kv.span->table + past / int(kFastPageTokens)];
    std::byte* to = t.pages + page * t.page_stride;
    const int64_t entry = int64_t(head) * kFastPageTokens + past % int(kFastPageTokens);
    to += (which ? t.v_offset : t.k_offset) + entry * Cache::kRowBytes;
    if constexpr (Cache::kHasScales) {
      float scale = which ? t.v_scale : t.k_scale;
      if (t.k_scale_offset >= 0) {
        float largest = 0;
#pragma unroll
        for (float of_four : v) largest = larger(largest, fabsf(of_four));
#pragma unroll
        for (int offset = 16; offset > 0; offset /= 2)
          largest = larger(largest, __shfl_xor_sync(kAllLanes, largest, offset));
        scale = round_to<bf16>(largest / kFp8Max);
        if (scale == 0) scale = 1;
        if (lane == 0) {
          s.new_scale[which] = scale;
          reinterpret_cast<bf16*>(t.pages + page * t.page_stride +
                                  (which ? t.v_scale_offset : t.k_scale_offset))[entry] = rounded<bf16>(scale);
        }
      }
      const uint32_t codes = fp8_pair(v[0] / scale, v[1] / scale) | uint32_t(fp8_pair(v[2] / scale, v[3] / scale))
                                                                        << 16;
      reinterpret_cast<uint32_t*>(to)[lane] = codes;
      reinterpret_cast<uint32_t*>(s.new_row[which])[lane] = codes;
    } else {
      const uint2 pairs = make_uint2(narrow(v[0], v[1]), narrow(v[2], v[3]));
      reinterpret_cast<uint2*>(to)[lane] = pairs;
      reinterpret_cast<uint2*>(s.new_row[which])[lane] = pairs;
    }
  }

  // Into the stage, row `row` of this warp's 16: what was fetched is what the page had there before. Rows behind it, of
  // values that would be multiplied by zero, must be numbers.
  __device__ void put_new(unsigned char* stage, int row) const {
    constexpr int kRowChunks = Cache::kRowBytes / 16;
    if (lane < 2 * kRowChunks) {
      const int which = lane / kRowChunks, chunk = lane % kRowChunks;
      *reinterpret_cast<uint4*>(stage + which * (kCodesBytes) + Cache::place_of(16 * warp + row, chunk)) =
          reinterpret_cast<const uint4*>(s.new_row[which])[chunk];
    }
    if constexpr (Cache::kHasScales) {
      if (lane < 2) scales_of(ring, at.stage + lane)[16 * warp + row] = rounded<bf16>(s.new_scale[lane]);
    }
  }
  __device__ void clear_behind(unsigned char* stage, int n_valid) const {
    constexpr int kRowChunks = Cache::kRowBytes / 16;
    for (int i = lane; i < (16 - n_valid) * kRowChunks; i += 32)
      *reinterpret_cast<uint4*>(stage + kCodesBytes +
                                Cache::place_of(16 * warp + n_valid + i / kRowChunks, i % kRowChunks)) = uint4{};
  }

  // This block's part.
  __device__ void run(const Layer& layer) {
    const Attention& t = layer.attention;
    const int past = a.kv[t.kind].span->past;
    const Units<Cache> units(t, past, int(blockIdx.x), int(gridDim.x));
    if (units.begin == units.end) return;
    if (at.stage % 2) {  // nothing (fetch.h)
      mbarrier_wait(&s.full[at.stage], at.parity);
      if (lane == 0) mbarrier_arrive(&s.empty[at.stage]);
      at.next(kRing);
    }
    sync_multiply();  // all warps are done with x
    const int n_parts = layer.of(Phase::qkv).deal.parts;
    for (uint32_t unit = units.begin; unit < units.end;) {
      const uint32_t head = unit / units.of_head, first = head * units.of_head;
      const uint32_t end = min(units.end, first + units.of_head);
      const bool has_new = end == first + units.of_head;
      if (unit != units.begin) sync_multiply();  // q and the meeting of the head before have been read
      for (int i = warp; i < t.group + (has_new ? 2 : 0); i += kWarps) {
        const int which = i - t.group;  // of key and value
        float v[4];
        load(n_parts, which < 0 ? int(head) * t.group + i : t.n_heads + which * t.n_kv + int(head), v);
        if (which <= 0) rotate(t, which < 0, v);
        if (which < 0)
          reinterpret_cast<uint2*>(s.q[i])[lane] = make_uint2(narrow(v[0], v[1]), narrow(v[2], v[3]));
        else
          keep(t, int(head), which, v, past);
      }
      sync_multiply();
      Query<Cache> query;
      if (warp < kWorking) query.load(s.q[0], t.group, lane);
      State state;
      state.clear();
      int n_valid = past + 1 - int(unit - first) * Cache::kKeys - 16 * warp;
      bool is_first = true;
      for (; unit < end; ++unit, n_valid -= Cache::kKeys) {
        for (int which = 0; which < 2; ++which) mbarrier_wait(&s.full[at.stage + which], at.parity);
        if (warp < kWorking && n_valid > 0) {
          unsigned char* stage = codes_of(ring, at.stage);
          if (n_valid <= 16 && unit + 1 == first + units.of_head) {
            put_new(stage, n_valid - 1);
            if (!Cache::kHasScales) clear_behind(stage, n_valid);
            fence_proxy_async();  // what comes here next is the copy engine's
            __syncwarp();
          }
          const auto* codes = reinterpret_cast<const std::byte*>(stage) + 16 * warp * 128;
          const bool own = Cache::kHasScales && t.k_scale_offset >= 0;
          const auto scales =
              own ? Cache::Scales::load(scales_of(ring, at.stage) + 16 * warp, lane) : typename Cache::Scales{};
          attend<Cache>(state, query, codes, scales, n_valid, t.scale * Cache::kFactor, is_first, lane);
          is_first = false;
        }
        __syncwarp();
        for (int which = 0; which < 2; ++which, at.next(kRing))
          if (lane == 0) mbarrier_arrive(&s.empty[at.stage]);
      }
      if (warp < kWorking)
        put<Cache>(meeting, state, Cache::kFactor * t.v_scale, warp, lane);
      else
        put_nothing();
      sync_multiply();
      if (warp < t.group) finish(t, units, int(head), first);
    }
  }

 private:
  // A warp that has no keys, with caches whose units have fewer.
  __device__ void put_nothing() const {
    if (lane < kHeads) meeting.top[lane][warp] = -INFINITY, meeting.sum[lane][warp] = 0;
    for (int i = lane; i < kHeads * kHd; i += 32) meeting.values[warp][i / kHd][i % kHd] = 0;
  }

  // Query head `warp` of a kv head: this block's keys, and with all others' in the block that has the first of them.
  __device__ void finish(const Attention& t, const Units<Cache>& units, int head, uint32_t first) {
    const int blocks = int(gridDim.x);
    // With fewer units than blocks some have none, and the others one.
    const uint32_t first_block = units.block_of(first, blocks),
                   last_block = units.block_of(first + units.of_head - 1, blocks);
    const bool few = units.all < uint32_t(blocks);
    const uint32_t n = few ? units.of_head : last_block - first_block + 1;
    Sum sum = add_warps(meeting, warp, 4 * lane);
    if (blockIdx.x != first_block) {
      HeadPart& mine = parts[blockIdx.x].heads[warp];
#pragma unroll
      for (int i = 0; i < 4; ++i) send(&mine.values[4 * lane + i], sum.values[i]);
      if (lane < 4) send(&mine.top + lane, lane == 0 ? sum.top : lane == 1 ? sum.sum : 0);  // a whole load's words
      return;
    }
    constexpr int kAtOnce = 4;
#pragma unroll 1
    for (uint32_t from = 1; from < n; from += kAtOnce) {
      uint4 words_of[2 * kAtOnce];  // values, then maximum and sum
      const uint32_t number = from + uint32_t(lane % kAtOnce),
                     mine = few ? units.block_of(first + number, blocks) : first_block + number;
      uint32_t block[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) block[i] = __shfl_sync(kAllLanes, mine, i);
      receive_together(
          a, words_of,
          [&](int i) {
            const HeadPart& part = parts[block[i / 2]].heads[warp];
            return reinterpret_cast<const uint4*>(i % 2 ? &part.top : part.values + 4 * lane);
          },
          [&](int i) { return from + uint32_t(i / 2) < n; });
      float top = sum.top;
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i)
        if (from + uint32_t(i) < n) top = fmaxf(top, __uint_as_float(words_of[2 * i + 1].x));
      const float shrink = weight_of(sum.top, top);
      sum.sum *= shrink;
#pragma unroll
      for (float& v : sum.values) v *= shrink;
      sum.top = top;
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        if (from + uint32_t(i) >= n) continue;
        const uint4 &v = words_of[2 * i], &of = words_of[2 * i + 1];
        sum.add(weight_of(__uint_as_float(of.x), top), __uint_as_float(of.y),
                make_float4(__uint_as_float(v.x), __uint_as_float(v.y), __uint_as_float(v.z), __uint_as_float(v.w)));
      }
    }
    const uint2 result = sum.result();
    uint32_t* out = words.attention + ((head * t.group + warp) * kHd + 4 * lane) / 2;
    send(out, result.x);
    send(out + 1, result.y);
  }
};

}  // namespace l4::cuda::one_token
