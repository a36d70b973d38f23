// Attention of long spans over paged keys on Hopper's warpgroup matrix instructions: bfloat16 over bfloat16 or FP8,
// head_dim 128, pages of 128.
//
// Contract: paged_attention for the spans of more than most_decode_rows(). Flops: 4 * 128 a (query head, key seen); a
// span of 8192 rows and 40 heads without a past: 0.69 TFLOP. The tile on the diagonal is computed whole: 1.5 % more at
// 8192.
//
// After FlashAttention-3 (Shah et al. 2024). A block is persistent and takes tiles of 128 query rows of one head, those
// with the most keys first. One warp feeds: the page table says which box of 128 keys comes next, the copy engine
// brings it swizzled (a page and kv head is one box: K and V each a ring of two). Two warpgroups of 64 rows each
// compute: the product with the next keys is issued before the softmax of these, and named barriers let one warpgroup's
// softmax run under the other's products. The weights stay in registers as the second product's first operand; the
// values are its second one as they lie, elements contiguous. Registers: 240 a computing thread (64 sums, 64 scores, 32
// packed weights), 24 a feeding one.
//
// Of an FP8 cache the feeding warpgroup has codes brought, a tile ahead, and expands them (fp8_codes.h) into the same two
// rings. Keys stay what their codes are, and their scales multiply the scores; values are multiplied by theirs as they are
// expanded, and rounded (2^-9 of each, which the sum averages out; in a key it would move sharp scores).
//
// Keys of the last page past the span's end may be anything, NaN too. Their scores are replaced by -infinity (selected,
// not added), so their weights are 0; and as 0 * NaN is NaN, the values' rows past the end are zeroed in shared memory
// before the product. Rows of q past the span's end are other rows of the step or zeros, and are not stored.
#include "kernels/cuda/attention/choose.h"
#include "kernels/cuda/attention/fp8_codes.h"
#include "kernels/cuda/attention/fragments.h"
#include "kernels/cuda/attention/kernels.h"
#include "kernels/cuda/device/shared.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx/barrier.h"
#include "kernels/cuda/ptx/exp2.h"
#include "kernels/cuda/ptx/mbarrier.h"
#include "kernels/cuda/ptx/setmaxnreg.h"
#include "kernels/cuda/ptx/tma.h"
#include "kernels/cuda/ptx/wgmma.h"
#include "kernels/cuda/tensor_map.h"

namespace l4::cuda {

namespace {

constexpr int kHd = int(kFastHeadDim), kKeys = int(kFastPageTokens);
constexpr int kConsumers = 2, kRowsEach = 64, kRows = kConsumers * kRowsEach;
constexpr int kThreads = 128 * (1 + kConsumers);  // the first warpgroup feeds
constexpr int kStages = 2;
constexpr int kHalfBytes = 128 * 64 * 2;    // 128 rows of 64 elements: 128 bytes, the widest swizzle
constexpr int kTileBytes = 2 * kHalfBytes;  // of q, of k, of v
constexpr int kProducers = 128;
static_assert(kHd == 128 && kKeys == 128 && kRows == 128);

// Up to 128 query rows of a span and where their keys are: all that a block must know, in one read.
struct alignas(32) QueryTile {
  int32_t row, n_rows;         // of the step
  int32_t n_seen;              // keys that the first row sees; each next one sees one more
  int32_t end;                 // of the span's keys
  int32_t table, n_key_tiles;  // the page of key tile n is pages[table + n]
};

struct PrefillArgs {
  const int32_t* pages;
  const QueryTile* tiles;  // [n_tiles], the most keys first
  int32_t n_tiles, n_heads, group;
  float scale;        // times log2(e), the source's factor and the keys' scale where all have one
  float value_scale;  // the same of values
  bf16* out;          // [T, H, 128]
  bool scales_keys;   // each key has a scale of its own, which multiplies its scores
};

// Where keys and values come from: a layer's K and V, as the copy engine takes boxes of them, ...
struct Bf16Source {
  CUtensorMap k, v;
  static constexpr float kFactor = 1;   // by which scores and sums of values are too small
  static constexpr int kFeeders = 1;    // arrivals that fill a tile
  static constexpr int kFeedRegisters = 24, kComputeRegisters = 240;
  struct Staged {};
  struct KeyScales {};
};
// ... or codes, [page][kv head][128 keys][128]: a tile is one run, and so are its scales.
struct Fp8Source {
  PagedKv kv;
  static constexpr float kFactor = kCodesFactor;
  static constexpr int kFeeders = kProducers / 32;
  static constexpr int kFeedRegisters = 40, kComputeRegisters = 232;
  // Tiles of codes on their way to bfloat16, ahead by one.
  struct Staged {
    static constexpr int kSlots = 2;
    struct Tile {
      alignas(128) std::byte k[kKeys * kHd], v[kKeys * kHd];
      alignas(128) bf16 k_scale[kKeys], v_scale[kKeys];
    } tiles[kSlots];
    Mbarrier full[kSlots];
  };
  struct KeyScales {
    alignas(16) bf16 of[kKeys];
  };
};

template <class Source>
struct Shared {
  alignas(1024) std::byte q[kTileBytes];  // [half][row][64], swizzled
  alignas(1024) std::byte k[kStages][kTileBytes];
  alignas(1024) std::byte v[kStages][kTileBytes];
  typename Source::Staged staged;
  typename Source::KeyScales key_scales[kStages];  // beside k
  Mbarrier q_full, q_empty, k_full[kStages], k_empty[kStages], v_full[kStages], v_empty[kStages];
};

// Named barriers.
enum : int { kTurn = 1 /* + warpgroup */, kZeroed = kTurn + kConsumers, kExpanded };

// ---- the order of tiles ---------------------------------------------------------------------------------------------

// least: rows of the shortest span that is ours.
__host__ __device__ inline int32_t tiles_of(const KvSpan& span, int32_t least) {
  return span.n_rows >= least ? (span.n_rows + kRows - 1) / kRows : 0;
}
// Key tiles that the query tile `tile` of a span sees.
__device__ inline int32_t key_tiles(const KvSpan& span, int32_t tile) {
  return (span.past + min((tile + 1) * kRows, span.n_rows) + kKeys - 1) / kKeys;
}
// How many of a span's tiles see at least n key tiles. All but the last tile see one more than the one before.
__device__ inline int32_t tiles_with(const KvSpan& span, int32_t least, int32_t n) {
  const int32_t n_tiles = tiles_of(span, least);
  if (n_tiles == 0) return 0;
  const int32_t below = min(max(n - key_tiles(span, 0), 0), n_tiles - 1);  // of all but the last
  return n_tiles - 1 - below + (key_tiles(span, n_tiles - 1) >= n);
}

// Block i ranks the tiles of span i among all: by key tiles, then by span, then by tile.
__global__ void order_tiles(PagedKv kv, int32_t least, QueryTile* tiles) {
  const KvSpan span = kv.spans[blockIdx.x];
  const int32_t n_tiles = tiles_of(span, least);
  for (int32_t tile = int32_t(threadIdx.x); tile < n_tiles; tile += int32_t(blockDim.x)) {
    const int32_t n = key_tiles(span, tile);
    int32_t rank = 0;
    for (int32_t i = 0; i < kv.n_spans; ++i) rank += tiles_with(kv.spans[i], least, i < int32_t(blockIdx.x) ? n : n + 1);
    // Of the same span only the last tile can see as many as the one before it.
    if (tile > 0 && key_tiles(span, tile - 1) == n) ++rank;
    const int32_t first = tile * kRows;
    tiles[rank] = {span.row + first,
                   min(kRows, span.n_rows - first),
                   span.past + first + 1,
                   span.past + span.n_rows,
                   span.table,
                   n};
  }
}

// ---- the loop over a block's work -----------------------------------------------------------------------------------

// Calls body(tile, head) for each of this block's pairs of them: from the longest to the shortest, every second round
// of blocks backwards, so that each block gets about the same. The next tile is read ahead.
template <class Body>
__device__ void for_each_work(const PrefillArgs& args, const Body& body) {
  const int32_t n_items = args.n_tiles * args.n_heads, n_blocks = int32_t(gridDim.x), block = int32_t(blockIdx.x);
  int32_t item = block;
  QueryTile tile = args.tiles[item / args.n_heads];  // there are no more blocks than items
  for (int32_t round = 1; item < n_items; ++round) {
    const QueryTile now = tile;
    const int32_t head = item % args.n_heads;
    item = round * n_blocks + (round % 2 ? n_blocks - 1 - block : block);
    if (item < n_items) tile = args.tiles[item / args.n_heads];
    body(now, head);
  }
}

// A place in a ring of kStages.
struct Turn {
  int stage = 0;
  uint32_t parity = 0;  // of the phase in which it is filled
  __device__ void next() {
    if (++stage == kStages) stage = 0, parity ^= 1;
  }
};

// ---- the feeding warpgroup ------------------------------------------------------------------------------------------

template <class Source>
__device__ inline void load_q(Shared<Source>& shared, const CUtensorMap* q_map, const QueryTile& tile, int32_t head,
                              uint32_t parity) {
  mbarrier_wait(&shared.q_empty, parity ^ 1);
  mbarrier_arrive_expect_tx(&shared.q_full, kTileBytes);
  tensor_load(shared.q, q_map, &shared.q_full, 0, tile.row, 0, head);
}

// Of bfloat16: one thread, which tells the copy engine.
__device__ void feed(const PrefillArgs& args, const CUtensorMap* q_map, const Bf16Source& source,
                     Shared<Bf16Source>& shared) {
  if (threadIdx.x != 0) return;
  Turn k, v;
  uint32_t q_parity = 0;
  for_each_work(args, [&](const QueryTile& tile, int32_t head) {
    const int32_t* pages = args.pages + tile.table;
    const int32_t kv_row = head / args.group * kKeys;
    auto load_k = [&](int32_t page) {
      mbarrier_wait(&shared.k_empty[k.stage], k.parity ^ 1);
      mbarrier_arrive_expect_tx(&shared.k_full[k.stage], kTileBytes);
      tensor_load(shared.k[k.stage], &source.k, &shared.k_full[k.stage], 0, kv_row, 0, page);
      k.next();
    };
    auto load_v = [&](int32_t page) {
      mbarrier_wait(&shared.v_empty[v.stage], v.parity ^ 1);
      mbarrier_arrive_expect_tx(&shared.v_full[v.stage], kTileBytes);
      tensor_load(shared.v[v.stage], &source.v, &shared.v_full[v.stage], 0, kv_row, 0, page);
      v.next();
    };
    int32_t page = pages[tile.n_key_tiles - 1];
    load_k(page);
    load_q(shared, q_map, tile, head, q_parity);
    q_parity ^= 1;
    for (int32_t n = tile.n_key_tiles - 2; n >= 0; --n) {
      const int32_t before = page;
      page = pages[n];
      load_k(page);
      load_v(before);
    }
    load_v(page);
  });
}

// The key tiles of a block's work, one after another.
struct KeyTiles {
  QueryTile tile;
  int32_t head, n, item, round = 0;

  __device__ explicit KeyTiles(const PrefillArgs& args) : item(int32_t(blockIdx.x)) { enter(args); }
  __device__ bool is_there(const PrefillArgs& args) const { return item < args.n_tiles * args.n_heads; }
  __device__ void next(const PrefillArgs& args) {
    if (--n >= 0) return;
    const int32_t n_blocks = int32_t(gridDim.x), block = int32_t(blockIdx.x);
    ++round;
    item = round * n_blocks + (round % 2 ? n_blocks - 1 - block : block);
    if (is_there(args)) enter(args);
  }

 private:
  __device__ void enter(const PrefillArgs& args) {
    tile = args.tiles[item / args.n_heads];
    head = item % args.n_heads;
    n = tile.n_key_tiles - 1;
  }
};

// A tile of codes to bfloat16 [half][128][64], swizzled, times 2^-60; scaled: each times its row's scale and rounded. All
// kProducers threads, eight codes of a row each: both sides without a bank conflict.
template <bool scaled>
__device__ inline void expand_tile(std::byte* to, const std::byte* codes, const bf16* scales) {
  const int thread = int(threadIdx.x), chunk = thread % 16, first = thread / 16;
  static_assert(kProducers / 16 == 8);  // so row % 8 is `first` in all rounds
  to += chunk / 8 * kHalfBytes + first * 128 + (chunk % 8 ^ first) * 16;
  codes += first * kHd + chunk * 8;
#pragma unroll 4
  for (int row = 0; row < kKeys; row += 8) {
    const uint2 eight = *reinterpret_cast<const uint2*>(codes + row * kHd);
    uint32_t by = kCodesFactorPair;
    if constexpr (scaled) {
      uint16_t scale;
      memcpy(&scale, scales + row + first, sizeof scale);
      by = times(scale * 0x10001u, by);
    }
    auto pair = [&](uint32_t word, uint32_t selector) {
      return times(upper_codes(__byte_perm(word, 0, selector)), by);
    };
    *reinterpret_cast<uint4*>(to + row * 128) =
        make_uint4(pair(eight.x, 0x1404), pair(eight.x, 0x3424), pair(eight.y, 0x1404), pair(eight.y, 0x3424));
  }
}

// Of codes: one thread tells the copy engine, a tile ahead, and all expand what it brought.
__device__ void feed(const PrefillArgs& args, const CUtensorMap* q_map, const Fp8Source& source,
                     Shared<Fp8Source>& shared) {
  const PagedKv& kv = source.kv;
  Fp8Source::Staged& staged = shared.staged;
  const bool is_loader = threadIdx.x == 0, has_scales = kv.k_scale_offset >= 0;
  if (!has_scales)
    for (Fp8Source::Staged::Tile& tile : staged.tiles) tile.v_scale[threadIdx.x] = rounded<bf16>(1);
  barrier_sync(kExpanded, kProducers);

  KeyTiles now(args), ahead(args);
  auto load = [&](int slot) {
    if (!is_loader || !ahead.is_there(args)) return;
    Fp8Source::Staged::Tile& to = staged.tiles[slot];
    const std::byte* page = kv.base + args.pages[ahead.tile.table + ahead.n] * kv.page_stride;
    const int64_t entry = int64_t(ahead.head / args.group) * kKeys;
    Mbarrier* full = &staged.full[slot];
    mbarrier_arrive_expect_tx(full, sizeof to.k + sizeof to.v + (has_scales ? sizeof to.k_scale + sizeof to.v_scale : 0));
    bulk_load(to.k, page + kv.k_offset + entry * kHd, sizeof to.k, full);
    bulk_load(to.v, page + kv.v_offset + entry * kHd, sizeof to.v, full);
    if (has_scales) {
      bulk_load(to.k_scale, page + kv.k_scale_offset + entry * 2, sizeof to.k_scale, full);
      bulk_load(to.v_scale, page + kv.v_scale_offset + entry * 2, sizeof to.v_scale, full);
    }
    ahead.next(args);
  };
  for (int slot = 0; slot < Fp8Source::Staged::kSlots; ++slot) load(slot);

  Turn k, v, from;
  static_assert(Fp8Source::Staged::kSlots == kStages);
  uint32_t q_parity = 0;
  auto filled = [&](Mbarrier& full, Turn& turn) {
    fence_proxy_async();
    __syncwarp();
    if (threadIdx.x % 32 == 0) mbarrier_arrive(&full);
    turn.next();
  };
  for (; now.is_there(args); now.next(args)) {
    if (now.n == now.tile.n_key_tiles - 1) {
      if (is_loader) load_q(shared, q_map, now.tile, now.head, q_parity);
      q_parity ^= 1;
    }
    const Fp8Source::Staged::Tile& tile = staged.tiles[from.stage];
    mbarrier_wait(&staged.full[from.stage], from.parity);
    mbarrier_wait(&shared.k_empty[k.stage], k.parity ^ 1);
    expand_tile<false>(shared.k[k.stage], tile.k, nullptr);
    if (has_scales) shared.key_scales[k.stage].of[threadIdx.x] = tile.k_scale[threadIdx.x];
    filled(shared.k_full[k.stage], k);
    mbarrier_wait(&shared.v_empty[v.stage], v.parity ^ 1);
    expand_tile<true>(shared.v[v.stage], tile.v, tile.v_scale);
    filled(shared.v_full[v.stage], v);
    barrier_sync(kExpanded, kProducers);  // nobody reads the codes any more
    load(from.stage);
    from.next();
  }
}

// ---- a computing warpgroup ------------------------------------------------------------------------------------------

// The descriptor of a tile [half][128][64] and of its parts: the high half is a constant, the low half counts 16 bytes.
// The low half goes through a shuffle each time that it is used: a value that the compiler takes for new, so that the
// descriptors of all parts are added up where they are needed and do not sit in sixteen registers throughout the loop.
struct Descriptor {
  uint32_t low, high;
  __device__ Descriptor(const std::byte* tile, uint32_t leading_bytes) {
    const uint64_t whole = matrix_descriptor(tile, Swizzle::bytes128, leading_bytes, 1024);
    low = __shfl_sync(0xffffffffu, uint32_t(whole), 0);
    high = uint32_t(whole >> 32);
  }
  __device__ uint64_t at(uint32_t bytes) const { return uint64_t(high) << 32 | (low + bytes / 16); }
};

// Scores s [64, 128] = q k^T, one group.
__device__ inline void issue_scores(float (&s)[64], const std::byte* q, const std::byte* k) {
  const Descriptor from_q(q, 16), from_k(k, 16);
  wgmma_fence();
#pragma unroll
  for (int i = 0; i < kHd / 16; ++i) {
    const uint32_t at = i / 4 * kHalfBytes + i % 4 * 32;
    wgmma<128>(s, from_q.at(at), from_k.at(at), i > 0);
  }
  wgmma_commit();
}

// o [64, 128] (+)= p v, one group.
__device__ inline void issue_values(float (&o)[64], const uint32_t (&p)[8][4], const std::byte* v, bool accumulate) {
  const Descriptor from_v(v, kHalfBytes);
  wgmma_fence();
#pragma unroll
  for (int i = 0; i < kKeys / 16; ++i) wgmma<128, Major::mn>(o, p[i], from_v.at(i * 16 * 128), i > 0 || accumulate);
  wgmma_commit();
}

// Running softmax of this thread's two rows, g and g + 8 of its warp's 16; its columns are 8 j + 2 t and the next one.
struct Softmax {
  float top[2], sum[2];  // sum: of this thread's columns

  // s to weights; `shrink`: by what earlier sums are to be multiplied. kMasked: the row may have no key yet.
  template <bool kFirst, bool kMasked>
  __device__ void update(float (&s)[64], float scale, float (&shrink)[2]) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float next = s[2 * r];
#pragma unroll
      for (int j = 0; j < 16; ++j) next = fmaxf(next, fmaxf(s[4 * j + 2 * r], s[4 * j + 2 * r + 1]));
      next = fmaxf(next, __shfl_xor_sync(0xffffffffu, next, 1));
      next = fmaxf(next, __shfl_xor_sync(0xffffffffu, next, 2));
      if constexpr (!kFirst) next = fmaxf(next, top[r]);
      const float shift = kMasked && next == -INFINITY ? 0.0f : next * scale;
      if constexpr (!kFirst) shrink[r] = exp2_approx(top[r] * scale - shift);
      top[r] = next;
      float total = 0;
#pragma unroll
      for (int j = 0; j < 16; ++j)
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          float& w = s[4 * j + 2 * r + c];
          w = exp2_approx(w * scale - shift);
          total += w;
        }
      sum[r] = kFirst ? total : sum[r] * shrink[r] + total;
    }
  }
};

__device__ inline void pack_weights(uint32_t (&p)[8][4], const float (&s)[64]) {
#pragma unroll
  for (int i = 0; i < 8; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j) p[i][j] = narrow(s[8 * i + 2 * j], s[8 * i + 2 * j + 1]);
}

// The scores of keys from `limit` (of this thread's first row; one more in each row after it) on count for nothing.
__device__ inline void mask(float (&s)[64], int32_t limit, int lane) {
#pragma unroll
  for (int i = 0; i < 64; ++i)
    if (i / 4 * 8 + lane % 4 * 2 + i % 2 >= limit + i / 2 % 2 * 8) s[i] = -INFINITY;
}

// Each score times its key's scale.
__device__ inline void scale_scores(float (&s)[64], const bf16* scales, int lane) {
#pragma unroll
  for (int j = 0; j < 16; ++j) {
    float first, second;
    widen(*reinterpret_cast<const uint32_t*>(scales + 8 * j + lane % 4 * 2), first, second);
    s[4 * j] *= first, s[4 * j + 2] *= first;
    s[4 * j + 1] *= second, s[4 * j + 3] *= second;
  }
}

// Rows from `begin` on of a tile [half][128][64] become zero, for the next products of both warpgroups, which both call
// it.
__device__ inline void zero_rows(std::byte* tile, int32_t begin) {
  constexpr int kComputing = 128 * kConsumers;
  for (int32_t i = int32_t(threadIdx.x) - (kThreads - kComputing); i < (kKeys - begin) * 16; i += kComputing)
    *reinterpret_cast<uint4*>(tile + i % 2 * kHalfBytes + (begin + i / 16) * 128 + i / 2 % 8 * 16) =
        make_uint4(0, 0, 0, 0);
  fence_proxy_async();
  barrier_sync(kZeroed, kComputing);
}

template <class Source>
__device__ void compute(const PrefillArgs& args, Shared<Source>& shared, int warpgroup) {
  const int thread = int(threadIdx.x) % 128, lane = thread % 32, warp = thread / 32;
  const int own_row = warpgroup * kRowsEach + warp * 16 + lane / 4;  // of the tile; and + 8
  const std::byte* q = shared.q + warpgroup * kRowsEach * 128;
  auto release = [&](Mbarrier& barrier) {
    if (lane == 0) mbarrier_arrive(&barrier);
  };
  // Products are issued in turns: warpgroup 0, warpgroup 1, 0, ...
  // Scores are there: what they came from is free.
  auto scores_done = [&](float (&s)[64], Turn& k) {
    wgmma_hold(s);
    if constexpr (std::is_same_v<Source, Fp8Source>)
      if (args.scales_keys) scale_scores(s, shared.key_scales[k.stage].of, lane);
    release(shared.k_empty[k.stage]);
    k.next();
  };
  auto wait_for_turn = [&] { barrier_sync(kTurn + warpgroup, 256); };
  auto give_turn = [&] { barrier_arrive(kTurn + 1 - warpgroup, 256); };
  if (warpgroup == 1) give_turn();

  Turn k, v;
  uint32_t q_parity = 0;
  for_each_work(args, [&](const QueryTile& tile, int32_t head) {
    const int32_t seen_by_all = tile.n_seen + warpgroup * kRowsEach;
    const int32_t limit = tile.n_seen + own_row;
    const int32_t last = tile.n_key_tiles - 1;
    float s[64], o[64], shrink[2];
    uint32_t p[8][4];
    Softmax softmax;

    mbarrier_wait(&shared.q_full, q_parity);
    q_parity ^= 1;
    mbarrier_wait(&shared.k_full[k.stage], k.parity);
    issue_scores(s, q, shared.k[k.stage]);
    wgmma_wait<0>();
    scores_done(s, k);
    if (last == 0) release(shared.q_empty);
    mask(s, limit - last * kKeys, lane);
    softmax.update<true, true>(s, args.scale, shrink);
    pack_weights(p, s);
    if (tile.end < tile.n_key_tiles * kKeys) {
      mbarrier_wait(&shared.v_full[v.stage], v.parity);
      zero_rows(shared.v[v.stage], tile.end - last * kKeys);
    }

    // Weights of tile n + 1 are in p, its values not yet added.
    auto step = [&](int32_t n, auto masked) {
      mbarrier_wait(&shared.k_full[k.stage], k.parity);
      wait_for_turn();
      issue_scores(s, q, shared.k[k.stage]);
      mbarrier_wait(&shared.v_full[v.stage], v.parity);
      issue_values(o, p, shared.v[v.stage], n + 1 < last);
      give_turn();
      wgmma_wait<1>();
      scores_done(s, k);
      if (n == 0) release(shared.q_empty);
      if constexpr (masked) mask(s, limit - n * kKeys, lane);
      softmax.update<false, masked>(s, args.scale, shrink);
      // Never true. The assembler moves the wait up, before most of the exponentials, which are to run under the
      // products; it does not move it before this. (A trap in its place makes it forget the 240 registers.)
      if (softmax.sum[0] + softmax.sum[1] < 0) __nanosleep(0);
      wgmma_wait<0>();
      wgmma_hold(o);
      release(shared.v_empty[v.stage]);
      v.next();
#pragma unroll
      for (int i = 0; i < 64; ++i) o[i] *= shrink[i / 2 % 2];
      pack_weights(p, s);
    };
    int32_t n = last - 1;
    for (; n >= 0 && (n + 1) * kKeys > seen_by_all; --n) step(n, std::true_type());
    for (; n >= 0; --n) step(n, std::false_type());

    mbarrier_wait(&shared.v_full[v.stage], v.parity);
    issue_values(o, p, shared.v[v.stage], last > 0);
    wgmma_wait<0>();
    wgmma_hold(o);
    release(shared.v_empty[v.stage]);
    v.next();

#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float sum = softmax.sum[r];
      sum += __shfl_xor_sync(0xffffffffu, sum, 1);
      sum += __shfl_xor_sync(0xffffffffu, sum, 2);
      const int32_t row = own_row + 8 * r;
      if (row >= tile.n_rows) continue;
      const float factor = args.value_scale / sum;
      bf16* to = args.out + ((int64_t(tile.row) + row) * args.n_heads + head) * kHd + lane % 4 * 2;
#pragma unroll
      for (int j = 0; j < 16; ++j)
        *reinterpret_cast<__nv_bfloat162*>(to + 8 * j) =
            __floats2bfloat162_rn(o[4 * j + 2 * r] * factor, o[4 * j + 2 * r + 1] * factor);
    }
  });
  if (warpgroup == 0) wait_for_turn();  // the last one given: nothing is left in the barrier
}

template <class Source>
__global__ void __launch_bounds__(kThreads, 1)
    prefill(const __grid_constant__ CUtensorMap q_map, const __grid_constant__ Source source,
            const __grid_constant__ PrefillArgs args) {
  Shared<Source>& shared = *dynamic_shared<Shared<Source>>();
  if (threadIdx.x == 0) {
    mbarrier_init(&shared.q_full, 1);
    mbarrier_init(&shared.q_empty, 4 * kConsumers);
    for (int i = 0; i < kStages; ++i) {
      mbarrier_init(&shared.k_full[i], Source::kFeeders);
      mbarrier_init(&shared.v_full[i], Source::kFeeders);
      mbarrier_init(&shared.k_empty[i], 4 * kConsumers);
      mbarrier_init(&shared.v_empty[i], 4 * kConsumers);
      if constexpr (std::is_same_v<Source, Fp8Source>) mbarrier_init(&shared.staged.full[i], 1);
    }
    mbarrier_init_fence();
  }
  __syncthreads();
  const int warpgroup = int(threadIdx.x) / 128;
  if (warpgroup == 0) {
    give_registers<Source::kFeedRegisters>();
    feed(args, &q_map, source, shared);
  } else {
    take_registers<Source::kComputeRegisters>();
    compute(args, shared, warpgroup - 1);
  }
}

}  // namespace

void prefill_attention(const OpContext& ctx, const AttentionArgs& args, bool run) {
  Scratch scratch(ctx.work);
  QueryTile* tiles = scratch.take_array<QueryTile>(args.q.rows());
  if (!run || ctx.measuring()) return;

  const PagedKv kv = paged_kv(args.kv, ctx.gpu.step.of(args.kv.kind));
  const int64_t n_heads = args.q.shape[1];
  const int32_t least = most_decode_rows(ctx.invariant) + 1;
  int64_t n_tiles = 0;
  for (const KvSpan& span : args.step->of(args.kv.kind).spans) n_tiles += tiles_of(span, least);
  launch({.grid = dim3(unsigned(kv.n_spans)), .block = 128, .stream = ctx.gpu.stream}, order_tiles, kv, least, tiles);

  // q [T, H, 128] as {64, T, halves, H}: a box is [half][128 rows][64].
  const int64_t row_bytes = n_heads * kHd * 2;
  const CUtensorMap q_map = tensor_map(args.q.data, DType::bf16, {{64, args.q.rows(), 2, n_heads}},
                                       {{row_bytes, 128, kHd * 2}}, {{64, kRows, 2, 1}}, Swizzle::bytes128);
  auto run_with = [&]<class Source>(const Source& source) {
    launch({.grid = dim3(unsigned(std::min<int64_t>(ctx.gpu.n_sms, n_tiles * n_heads))),
            .block = kThreads,
            .shared_bytes = sizeof(Shared<Source>),
            .stream = ctx.gpu.stream},
           prefill<Source>, q_map, source,
           PrefillArgs{kv.pages, tiles, int32_t(n_tiles), int32_t(n_heads), int32_t(n_heads / kv.n_kv_heads),
                       args.scale * kLog2e * Source::kFactor * kv.k_scale, Source::kFactor * kv.v_scale,
                       data<bf16>(args.out), kv.k_scale_offset >= 0});
  };
  if (args.kv.layout.dtype == DType::f8_e4m3) return run_with(Fp8Source{kv});
  // A layer's K (or V) as {64, heads * 128 keys, halves, pages}. How many pages there are is not known here and does
  // not matter: only boxes of pages in the tables are fetched.
  constexpr int64_t kManyPages = int64_t(1) << 20;
  auto cache_map = [&](int64_t offset) {
    return tensor_map(kv.base + offset, DType::bf16, {{64, int64_t(kv.n_kv_heads) * kKeys, 2, kManyPages}},
                      {{kHd * 2, 128, kv.page_stride}}, {{64, kKeys, 2, 1}}, Swizzle::bytes128);
  };
  run_with(Bf16Source{cache_map(kv.k_offset), cache_map(kv.v_offset)});
}

}  // namespace l4::cuda
