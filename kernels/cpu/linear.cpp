// y = x W^T for packed weights, from one row to thousands.
//
// Input rows are first widened to float32 and laid out in register tiles of up to 12 rows ("packed x"), 512 values of k
// at a time. Then work is cut into items: one panel of 32 outputs times up to 240 rows. A thread walks neighbouring
// panels; per item the inner loop (simd/kernels.h) adds 512-long chains to a tile of float32 sums that lives on the
// stack, and the epilogue adds the bias and rounds. An output element is always the same chain of operations, so its
// bits do not depend on the other rows, the tiling or the threads.
#include <algorithm>

#include "kernels/cpu/ops.h"
#include "kernels/cpu/simd/kernels.h"

namespace l4::cpu {

namespace {
constexpr int64_t kChain = 512;      // values of k added up before the sum goes to memory
constexpr int64_t kChunkRows = 240;  // rows of an item: packed x of a chain (480 KB) stays in the second-level cache

// Cuts n rows into the fewest tiles of at most kMaxRows, as even as possible: tile i has [begin(i), begin(i + 1)).
struct RowTiles {
  int64_t n, count;
  explicit RowTiles(int64_t rows) : n(rows), count((rows + kMaxRows - 1) / kMaxRows) {}
  int64_t begin(int64_t i) const { return n * i / count; }
};

// Where a job's parts lie in the shared list of items and in packed x.
struct Placed {
  float* x = nullptr;
  int64_t chunk_rows = 0, n_chunks = 0, first_item = 0, end_item = 0;
};

int64_t panels_of(const LinearJob& job) {
  return n_panels(job.w->spec);
}

// Packed x of one chunk of rows: for each chain of k, for each tile, [k][rows of the tile].
template <class A>
void pack_rows(const LinearJob& job, int64_t first_row, int64_t n_rows, float* to) {
  const int64_t k = job.w->spec.k;
  const RowTiles tiles(n_rows);
  for (int64_t k0 = 0; k0 < k; k0 += kChain) {
    const int64_t n_k = std::min(kChain, k - k0);
    for (int64_t tile = 0; tile < tiles.count; ++tile) {
      const int64_t begin = tiles.begin(tile), width = tiles.begin(tile + 1) - begin;
      for (int64_t m = 0; m < width; ++m) {
        const int64_t row = first_row + begin + m;
        const A* from = data<A>(job.x) + (job.x_rows ? job.x_rows[row] : row) * k + k0;
        if (job.x_scale) {
          for (int64_t i = 0; i < n_k; ++i) to[i * width + m] = round_to<A>(get(from[i]) * job.x_scale[row]);
        } else {
          for (int64_t i = 0; i < n_k; ++i) to[i * width + m] = get(from[i]);
        }
      }
      to += n_k * width;
    }
  }
}

// Panels [panel, panel + n) of one chunk of rows.
void multiply(const SimdKernels& simd, const LinearJob& job, const float* x, int64_t first_row, int64_t n_rows,
              int64_t panel, int64_t n) {
  const LinearSpec& spec = job.w->spec;
  const int64_t panel_elements = spec.k * kPanel;
  const int64_t first_panel = job.expert * n_panels(spec) + panel;
  const RowTiles tiles(n_rows);
  alignas(64) float sums[kChunkRows * kPanel];  // [panel][row][32]
  const int64_t sums_stride = n_rows * kPanel;
  for (int64_t k0 = 0; k0 < spec.k; k0 += kChain) {
    const int64_t n_k = std::min(kChain, spec.k - k0);
    for (int64_t tile = 0; tile < tiles.count; ++tile) {
      const int64_t begin = tiles.begin(tile), width = tiles.begin(tile + 1) - begin;
      const int64_t w = first_panel * panel_elements + k0 * kPanel;
      if (spec.format == WeightFormat::f32)
        simd.gemm_f32(int(width), int(n), x, static_cast<const float*>(job.w->data.data()) + w, panel_elements, n_k,
                      sums + begin * kPanel, sums_stride, k0 == 0);
      else
        simd.gemm_bf16(int(width), int(n), x, static_cast<const uint16_t*>(job.w->data.data()) + w, panel_elements, n_k,
                       sums + begin * kPanel, sums_stride, k0 == 0);
      x += n_k * width;
    }
  }
  const float* bias = spec.bias ? static_cast<const float*>(job.w->bias.data()) + job.expert * spec.n : nullptr;
  with_activation(job.y.dtype, [&](auto tag) {
    using A = decltype(tag);
    for (int64_t p = 0; p < n; ++p) {
      const int64_t column = (panel + p) * kPanel, n_columns = std::min<int64_t>(kPanel, spec.n - column);
      for (int64_t m = 0; m < n_rows; ++m) {
        const int64_t row = first_row + m;
        const float* sum = sums + p * sums_stride + m * kPanel;
        A* y = data<A>(job.y) + (job.y_rows ? job.y_rows[row] : row) * spec.n + column;
        for (int64_t j = 0; j < n_columns; ++j) y[j] = rounded<A>(bias ? sum[j] + bias[column + j] : sum[j]);
      }
    }
  });
}
}  // namespace

void linear(const OpContext& ctx, std::span<const LinearJob> jobs) {
  Scratch scratch(ctx.work);
  int64_t x_floats = 0, widest = 1;
  for (const LinearJob& job : jobs) {
    const LinearSpec& spec = job.w->spec;
    x_floats += job.n_rows * spec.k;
    widest = std::max(widest, spec.k);
    L4_CHECK(job.expert >= 0 && job.expert < spec.n_experts && job.x.elements() % spec.k == 0 &&
                 job.y.elements() % spec.n == 0,
             spec.name, ": [", spec.n, ", ", spec.k, "], input ", job.x.shape.str(), ", output ", job.y.shape.str());
  }
  float* packed_x = scratch.take_array<float>(x_floats);
  Placed* placed = scratch.take_array<Placed>(int64_t(jobs.size()));
  if (ctx.measuring()) return;

  // Smaller chunks where there would be too few items for the threads.
  int64_t n_items = 0, chunk_limit = kChunkRows, most_rows = 0;
  for (;; chunk_limit /= 2) {
    n_items = 0;
    for (size_t i = 0; i < jobs.size(); ++i) {
      const LinearJob& job = jobs[i];
      Placed& at = placed[i];
      at.n_chunks = (job.n_rows + chunk_limit - 1) / chunk_limit;
      at.chunk_rows = at.n_chunks ? (job.n_rows + at.n_chunks - 1) / at.n_chunks : 0;
      at.first_item = n_items;
      n_items += at.n_chunks * panels_of(job);
      at.end_item = n_items;
      most_rows = std::max(most_rows, at.chunk_rows);
    }
    if (n_items >= 4 * ctx.pool.size() || chunk_limit <= 2 * kMaxRows) break;
  }
  if (n_items == 0) return;

  int64_t n_packs = 0;
  for (size_t i = 0; i < jobs.size(); ++i) {
    placed[i].x = i == 0 ? packed_x : placed[i - 1].x + jobs[i - 1].n_rows * jobs[i - 1].w->spec.k;
    n_packs += placed[i].n_chunks;
  }
  const int64_t pack_grain = x_floats < 16384 ? n_packs : 1;
  ctx.pool.parallel_for(n_packs, pack_grain, [&](int64_t begin, int64_t end) {
    int64_t first = 0;
    for (size_t i = 0; i < jobs.size(); first += placed[i].n_chunks, ++i) {
      const LinearJob& job = jobs[i];
      const Placed& at = placed[i];
      for (int64_t c = std::max<int64_t>(begin - first, 0); c < std::min(end - first, at.n_chunks); ++c) {
        const int64_t row = c * at.chunk_rows, n_rows = std::min(at.chunk_rows, job.n_rows - row);
        with_activation(job.x.dtype,
                        [&](auto tag) { pack_rows<decltype(tag)>(job, row, n_rows, at.x + row * job.w->spec.k); });
      }
    }
  });

  const SimdKernels& simd = simd_kernels();
  // A range worth waking a thread for: about ten microseconds of multiplications or of reading weights.
  const int64_t item_work = widest * kPanel * std::max<int64_t>(1, most_rows / 4);
  const int64_t grain = std::max<int64_t>(1, 65536 / item_work);
  ctx.pool.parallel_for(n_items, grain, [&](int64_t begin, int64_t end) {
    for (size_t i = 0; i < jobs.size(); ++i) {
      const LinearJob& job = jobs[i];
      const Placed& at = placed[i];
      const int64_t panels = panels_of(job);
      for (int64_t item = std::max(begin, at.first_item); item < std::min(end, at.end_item);) {
        const int64_t chunk = (item - at.first_item) / panels, panel = (item - at.first_item) % panels;
        const int64_t row = chunk * at.chunk_rows, n_rows = std::min(at.chunk_rows, job.n_rows - row);
        // Neighbouring panels together, as many as the sums have room for.
        int64_t n = std::min({std::min(end, at.end_item) - item, panels - panel, kChunkRows / n_rows});
        n = std::min<int64_t>(n, n_rows <= 3 ? 4 : 1);
        multiply(simd, job, at.x + row * job.w->spec.k, row, n_rows, panel, n);
        item += n;
      }
    }
  });
}

void linear(const OpContext& ctx, const View& x, const PackedWeight& w, const View& y) {
  LinearJob job{.w = &w, .x = x, .y = y, .n_rows = x.elements() / w.spec.k};
  linear(ctx, {&job, 1});
}

}  // namespace l4::cpu
