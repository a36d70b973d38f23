// Softmax attention over pages (causal within a span) and within image tiles.
//
// A query row and a kv head (with the G query heads that share it) walk the row's keys in blocks of 64 with a running
// maximum; every 1024 keys (more in stretches beyond 65,536) form a group, and groups are merged in order. Blocks and
// groups begin at fixed indices of the stretch and groups depend on the row's own length only, so a row's bits depend
// neither on its neighbours nor on who computes what: rows may be computed in tiles (a block of keys is then widened
// once for several rows) and, when there are few rows, groups of one row by different threads.
//
// exp(s - running maximum) is what is rounded to A before it multiplies v; the sum is taken before rounding and divided
// out at the end. This is also what torch's fused attention does.
#include <algorithm>
#include <cmath>

#include "kernels/cpu/kv_pages.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/simd/kernels.h"

namespace l4::cpu {

namespace {
constexpr int64_t kBlockKeys = 64;
constexpr int64_t kMaxGroups = 64;    // of one row
constexpr int64_t kSplitRows = 8;     // steps of at most so many rows divide groups among threads
constexpr int64_t kTileQueries = 64;  // rows of a tile times query heads

int64_t group_keys(int64_t n_keys) {
  int64_t keys = 1024;
  while (keys * kMaxGroups < n_keys) keys *= 2;
  return keys;
}
int64_t n_groups(int64_t n_keys) {
  return (n_keys + group_keys(n_keys) - 1) / group_keys(n_keys);
}

// Running softmax of `count` queries: maximum, sum, and weighted values, unnormalised.
struct State {
  float *m, *l, *acc;  // [count], [count], [count][width]
  static int64_t floats(int64_t count, int64_t width) { return count * (width + 2); }
  State(float* at, int64_t count) : m(at), l(at + count), acc(at + 2 * count) {}

  void clear(int64_t count, int64_t width) {
    std::fill_n(m, count, -INFINITY);
    std::fill_n(l, count, 0.0f);
    std::fill_n(acc, count * width, 0.0f);
  }
  // The state of the keys so far and of the group after them.
  void merge(const State& next, int64_t count, int64_t width) {
    for (int64_t i = 0; i < count; ++i) {
      if (next.l[i] == 0) continue;  // of a row that ends before the group begins
      const float top = std::max(m[i], next.m[i]);
      const float a = std::exp(m[i] - top), b = std::exp(next.m[i] - top);
      m[i] = top;
      l[i] = l[i] * a + next.l[i] * b;
      float* to = acc + i * width;
      const float* from = next.acc + i * width;
      for (int64_t d = 0; d < width; ++d) to[d] = to[d] * a + from[d] * b;
    }
  }
};

// Sizes shared by all work of one call.
struct Dims {
  int64_t hd = 0, width = 0;  // head dimension, and rounded up to 16
  int64_t n_heads = 0, n_kv = 0;
  int64_t heads_per_kv() const { return n_heads / n_kv; }
  int64_t tile_rows() const { return std::max<int64_t>(1, kTileQueries / heads_per_kv()); }
  int64_t tile_queries() const { return tile_rows() * heads_per_kv(); }
};

// What one thread works with.
struct Workspace {
  float *q, *keys, *values, *scores, *running, *group;
  static int64_t floats(const Dims& d) {
    return d.tile_queries() * d.width + 2 * kBlockKeys * d.width + d.tile_queries() * kBlockKeys +
           2 * State::floats(d.tile_queries(), d.width);
  }
  Workspace(float* at, const Dims& d) {
    auto take = [&](int64_t n) {
      float* part = at;
      at += n;
      return part;
    };
    q = take(d.tile_queries() * d.width);
    keys = take(kBlockKeys * d.width);
    values = take(kBlockKeys * d.width);
    scores = take(d.tile_queries() * kBlockKeys);
    running = take(State::floats(d.tile_queries(), d.width));
    group = take(State::floats(d.tile_queries(), d.width));
  }
};

// `n` dense rows of hd elements to float32 rows of `width`, padded with zeros. `scale`: of f8_e4m3 alone.
void widen_rows(const SimdKernels& simd, const void* from, DType dtype, float scale, int64_t n, int64_t hd,
                int64_t width, float* to) {
  auto widen = [&](int64_t first, int64_t count, float* row) {
    if (dtype == DType::f32)
      std::memcpy(row, static_cast<const float*>(from) + first, size_t(count) * sizeof(float));
    else if (dtype == DType::bf16)
      simd.widen_bf16(static_cast<const uint16_t*>(from) + first, row, count);
    else
      simd.widen_fp8(static_cast<const uint8_t*>(from) + first, scale, row, count);
  };
  if (hd == width) return widen(0, n * hd, to);
  for (int64_t i = 0; i < n; ++i) {
    float* row = to + i * width;
    widen(i * hd, hd, row);
    std::fill(row + hd, row + width, 0.0f);
  }
}

// The queries of rows [row, row + n_rows) that share kv head `kv`, [n_rows * G][width].
void load_queries(const SimdKernels& simd, const Dims& d, const View& q, int64_t row, int64_t n_rows, int64_t kv,
                  float* to) {
  const int64_t g = d.heads_per_kv();
  const std::byte* data = static_cast<const std::byte*>(q.data);
  for (int64_t r = 0; r < n_rows; ++r) {
    const int64_t element = ((row + r) * d.n_heads + kv * g) * d.hd;
    widen_rows(simd, data + size_t(element) * dtype_bytes(q.dtype), q.dtype, 1, g, d.hd, d.width, to + r * g * d.width);
  }
}

void store_outputs(const Dims& d, const State& state, const View& out, int64_t row, int64_t n_rows, int64_t kv) {
  const int64_t g = d.heads_per_kv();
  with_activation(out.dtype, [&](auto tag) {
    using A = decltype(tag);
    for (int64_t i = 0; i < n_rows * g; ++i) {
      A* to = data<A>(out) + ((row + i / g) * d.n_heads + kv * g + i % g) * d.hd;
      for (int64_t j = 0; j < d.hd; ++j) to[j] = rounded<A>(state.acc[i * d.width + j] / state.l[i]);
    }
  });
}

// Keys [begin, end) for n_rows rows of a tile: row r sees the keys below visible(r), which does not decrease with r.
// read(part, first, n, to) widens keys or values.
template <class Visible, class Read>
void attend_range(const SimdKernels& simd, const Dims& d, int64_t n_rows, int64_t begin, int64_t end, float scale,
                  bool round_p, const Visible& visible, const Read& read, const Workspace& w, State state) {
  const int64_t g = d.heads_per_kv();
  for (int64_t first = begin; first < end; first += kBlockKeys) {
    const int64_t n = std::min(kBlockKeys, end - first);
    read(KvPages::Part::key, first, n, w.keys);
    read(KvPages::Part::value, first, n, w.values);
    auto some = [&](int64_t row, int64_t rows, int64_t n_keys) {
      const int64_t query = row * g;
      simd.attend(int(rows * g), int(n_keys), int(d.width), w.q + query * d.width, w.keys, w.values, scale, round_p,
                  w.scores, state.m + query, state.l + query, state.acc + query * d.width);
    };
    if (visible(0) >= first + n) {
      some(0, n_rows, n);
    } else {  // the diagonal: each row has its own end
      for (int64_t r = 0; r < n_rows; ++r)
        if (visible(r) > first) some(r, 1, std::min(n, visible(r) - first));
    }
  }
}

// Rows of one span computed together; all have the same group size.
struct Tile {
  const KvSpan* span;
  int64_t first, n_rows;  // first: of the span
  int64_t keys(int64_t r) const { return span->past + first + r + 1; }
  int64_t last_key() const { return keys(n_rows - 1); }
};

int64_t cut_tiles(const KvPlan& plan, int64_t tile_rows, Tile* tiles) {
  int64_t n = 0;
  for (const KvSpan& span : plan.spans)
    for (int64_t first = 0; first < span.n_rows;) {
      Tile tile{&span, first, 1};
      while (tile.n_rows < tile_rows && first + tile.n_rows < span.n_rows &&
             group_keys(tile.keys(tile.n_rows)) == group_keys(tile.keys(0)))
        ++tile.n_rows;
      tiles[n++] = tile;
      first += tile.n_rows;
    }
  return n;
}
}  // namespace

void paged_attention(const OpContext& ctx, const AttentionArgs& args) {
  Scratch scratch(ctx.work);
  const int64_t n_rows = args.step->n_rows();
  Dims d{.hd = args.kv.layout.head_dim, .n_kv = args.kv.layout.n_kv_heads};
  d.width = (d.hd + 15) / 16 * 16;
  d.n_heads = args.q.cols() / d.hd;
  L4_CHECK(d.n_heads % d.n_kv == 0);
  const int64_t row_state = State::floats(d.heads_per_kv(), d.width);
  float* spaces = scratch.take_array<float>(ctx.pool.size() * Workspace::floats(d));
  Tile* tiles = scratch.take_array<Tile>(n_rows);
  float* partial = scratch.take_array<float>(std::min(n_rows, kSplitRows) * d.n_kv * kMaxGroups * row_state);
  if (ctx.measuring()) return;

  const KvPlan& plan = args.step->of(args.kv.kind);
  const KvPages pages(args.kv, plan);
  const SimdKernels& simd = simd_kernels();
  const bool round_p = args.q.dtype == DType::bf16;
  const bool split = n_rows <= kSplitRows;
  const int64_t n_tiles = cut_tiles(plan, split ? 1 : d.tile_rows(), tiles);

  auto attend_group = [&](const Tile& tile, int64_t kv, int64_t group, const Workspace& w, State state) {
    const int64_t size = group_keys(tile.keys(0)), begin = group * size;
    const int64_t end = std::min(begin + size, tile.last_key());
    state.clear(tile.n_rows * d.heads_per_kv(), d.width);
    auto widen = [&](const void* from, DType dtype, float by, int64_t n, int64_t hd, int64_t width, float* to) {
      widen_rows(simd, from, dtype, by, n, hd, width, to);
    };
    auto read = [&](KvPages::Part part, int64_t first, int64_t n, float* to) {
      pages.read(*tile.span, kv, part, first, n, d.width, to, widen);
    };
    attend_range(
        simd, d, tile.n_rows, begin, end, args.scale, round_p, [&](int64_t r) { return tile.keys(r); }, read, w, state);
  };

  if (split) {
    // Item: row, kv head, group. The states lie as [row][kv head][group].
    auto state_at = [&](int64_t row, int64_t kv, int64_t group) {
      return State(partial + ((row * d.n_kv + kv) * kMaxGroups + group) * row_state, d.heads_per_kv());
    };
    int64_t n_items = 0;
    for (int64_t i = 0; i < n_tiles; ++i) n_items += n_groups(tiles[i].keys(0)) * d.n_kv;
    ctx.pool.parallel_items(n_items, [&](int64_t slot, int64_t item) {
      int64_t i = 0;
      for (; item >= n_groups(tiles[i].keys(0)) * d.n_kv; ++i) item -= n_groups(tiles[i].keys(0)) * d.n_kv;
      const int64_t kv = item % d.n_kv, group = item / d.n_kv;
      const Workspace w(spaces + slot * Workspace::floats(d), d);
      load_queries(simd, d, args.q, tiles[i].span->row + tiles[i].first, 1, kv, w.q);
      attend_group(tiles[i], kv, group, w, state_at(i, kv, group));
    });
    for (int64_t i = 0; i < n_tiles; ++i)
      for (int64_t kv = 0; kv < d.n_kv; ++kv) {
        State state = state_at(i, kv, 0);
        for (int64_t group = 1; group < n_groups(tiles[i].keys(0)); ++group)
          state.merge(state_at(i, kv, group), d.heads_per_kv(), d.width);
        store_outputs(d, state, args.out, tiles[i].span->row + tiles[i].first, 1, kv);
      }
    return;
  }

  ctx.pool.parallel_items(n_tiles * d.n_kv, [&](int64_t slot, int64_t item) {
    const Tile& tile = tiles[n_tiles - 1 - item / d.n_kv];  // the longest first
    const int64_t kv = item % d.n_kv, row = tile.span->row + tile.first, queries = tile.n_rows * d.heads_per_kv();
    const Workspace w(spaces + slot * Workspace::floats(d), d);
    load_queries(simd, d, args.q, row, tile.n_rows, kv, w.q);
    State state(w.running, queries);
    attend_group(tile, kv, 0, w, state);
    const int64_t size = group_keys(tile.keys(0));
    for (int64_t group = 1; group * size < tile.last_key(); ++group) {
      State next(w.group, queries);
      attend_group(tile, kv, group, w, next);
      state.merge(next, queries, d.width);
    }
    store_outputs(d, state, args.out, row, tile.n_rows, kv);
  });
}

void tile_attention(const OpContext& ctx, const VisionAttentionArgs& args) {
  Scratch scratch(ctx.work);
  const int64_t n_tiles = args.q.shape[0], s = args.q.shape[1];
  Dims d{.hd = args.q.shape[3], .n_heads = args.q.shape[2], .n_kv = args.q.shape[2]};
  d.width = (d.hd + 15) / 16 * 16;
  float* spaces = scratch.take_array<float>(ctx.pool.size() * Workspace::floats(d));
  if (ctx.measuring()) return;

  const SimdKernels& simd = simd_kernels();
  const size_t element = dtype_bytes(args.q.dtype);
  const int64_t blocks = (s + d.tile_rows() - 1) / d.tile_rows();
  ctx.pool.parallel_items(n_tiles * d.n_heads * blocks, [&](int64_t slot, int64_t item) {
    const int64_t head = item / blocks % d.n_heads, first_token = item / blocks / d.n_heads * s;
    const int64_t row = item % blocks * d.tile_rows(), n_rows = std::min(d.tile_rows(), s - row);
    const Workspace w(spaces + slot * Workspace::floats(d), d);
    load_queries(simd, d, args.q, first_token + row, n_rows, head, w.q);
    State state(w.running, n_rows);
    state.clear(n_rows, d.width);
    auto read = [&](KvPages::Part part, int64_t first, int64_t n, float* to) {
      const View& from = part == KvPages::Part::key ? args.k : args.v;
      for (int64_t i = 0; i < n; ++i) {
        const int64_t at = ((first_token + first + i) * d.n_heads + head) * d.hd;
        widen_rows(simd, static_cast<const std::byte*>(from.data) + size_t(at) * element, from.dtype, 1, 1, d.hd,
                   d.width, to + i * d.width);
      }
    };
    attend_range(
        simd, d, n_rows, 0, s, args.scale, args.q.dtype == DType::bf16, [&](int64_t) { return s; }, read, w, state);
    store_outputs(d, state, args.out, first_token + row, n_rows, head);
  });
}

}  // namespace l4::cpu
