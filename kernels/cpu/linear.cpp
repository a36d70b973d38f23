// y = x W^T for packed weights, from one row to thousands.
//
// Input rows are first widened to float32 and laid out in register tiles of up to 12 rows ("packed x"), 512 values of k
// at a time. Then work is cut into items: one panel of 32 outputs times up to 240 rows. A thread walks neighbouring
// panels; per item the inner loop (simd/kernels.h) adds 512-long chains to a tile of float32 sums that lives on the
// stack, and the epilogue adds the bias and rounds. An output element is always the same chain of operations, so its
// bits do not depend on the other rows, the tiling or the threads.
//
// Codes (FP8, INT4) are exact in bf16: a chain of them is expanded to a bf16 panel on the stack, which all rows of the
// item are multiplied by, and the sums are scaled: once, or where groups of columns have scales, a group at a time.
// Input that is to be quantised becomes packed x of codes' values, its scales wait for the epilogue.
#include <algorithm>
#include <cmath>

#include "kernels/cpu/panels.h"
#include "quant/fp8.h"

namespace l4::cpu {

namespace {
constexpr int64_t kChain = 512;      // values of k added up before the sum goes to memory
constexpr int64_t kCodeChain = 128;  // the same of codes: four panels expanded (32 KB) stay in the first-level cache
constexpr int64_t kMostPanels = 4;   // that a call multiplies together
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
  float* scale = nullptr;  // of each row's sums
  int64_t chunk_rows = 0, n_chunks = 0, first_item = 0, end_item = 0;
};

int64_t panels_of(const LinearJob& job) {
  return n_panels(job.w->spec);
}

// Of the chain that begins at k0: it ends where a group of columns does.
int64_t chain_length(const LinearSpec& spec, int64_t k0) {
  const int64_t group = group_of(spec);
  return std::min(is_quantized(spec.format) ? kCodeChain : kChain, group - k0 % group);
}

// What a row of input is divided by to become codes.
template <class A>
float input_scale(const LinearSpec& spec, const A* row) {
  if (spec.input == InputFormat::fp8_static) return spec.input_scale;
  float largest = 0;
  for (int64_t i = 0; i < spec.k; ++i) largest = std::max(largest, std::abs(get(row[i])));
  return fp8_scale(largest);
}

// Packed x of one chunk of rows: for each chain of k, for each tile, [k][rows of the tile]. And what the rows' sums are
// to be multiplied by.
template <class A>
void pack_rows(const LinearJob& job, int64_t first_row, int64_t n_rows, float* to, float* scale) {
  const LinearSpec& spec = job.w->spec;
  const int64_t k = spec.k;
  const RowTiles tiles(n_rows);
  auto input = [&](int64_t row) { return data<A>(job.x) + (job.x_rows ? job.x_rows[row] : row) * k; };
  const bool to_codes = spec.input != InputFormat::as_is;
  for (int64_t m = 0; m < n_rows; ++m) scale[m] = to_codes ? input_scale(spec, input(first_row + m)) : 1;
  for (int64_t k0 = 0, n_k; k0 < k; k0 += n_k) {
    n_k = chain_length(spec, k0);
    for (int64_t tile = 0; tile < tiles.count; ++tile) {
      const int64_t begin = tiles.begin(tile), width = tiles.begin(tile + 1) - begin;
      for (int64_t m = 0; m < width; ++m) {
        const int64_t row = first_row + begin + m;
        const A* from = input(row) + k0;
        if (to_codes) {
          const float s = scale[begin + m];
          for (int64_t i = 0; i < n_k; ++i) to[i * width + m] = fp8_to_float(fp8_from_float(get(from[i]) / s));
        } else if (job.x_scale) {
          for (int64_t i = 0; i < n_k; ++i) to[i * width + m] = round_to<A>(get(from[i]) * job.x_scale[row]);
        } else {
          for (int64_t i = 0; i < n_k; ++i) to[i * width + m] = get(from[i]);
        }
      }
      to += n_k * width;
    }
  }
  if (to_codes && job.x_scale)  // the codes are those of the row whatever it is scaled by
    for (int64_t m = 0; m < n_rows; ++m) scale[m] *= job.x_scale[first_row + m];
}

// The weights of a chain, as the inner loops read them.
struct Chain {
  const void* w;
  int64_t panel_stride;  // in elements
};
Chain chain_of(const SimdKernels& simd, const LinearJob& job, int64_t first_panel, int64_t n, int64_t k0, int64_t n_k,
               uint16_t* expanded) {
  const LinearSpec& spec = job.w->spec;
  const uint8_t* from =
      static_cast<const uint8_t*>(job.w->data.data()) + first_panel * panel_bytes(spec) + k0 * row_bytes(spec.format);
  if (!is_quantized(spec.format)) return {from, spec.k * kPanel};
  for (int64_t p = 0; p < n; ++p)
    (spec.format == WeightFormat::fp8 ? simd.expand_fp8 : simd.expand_int4)(from + p * panel_bytes(spec), n_k,
                                                                            expanded + p * n_k * kPanel);
  return {expanded, n_k * kPanel};
}

// Panels [panel, panel + n) of one chunk of rows.
void multiply(const SimdKernels& simd, const LinearJob& job, const float* x, const float* row_scale, int64_t first_row,
              int64_t n_rows, int64_t panel, int64_t n) {
  const LinearSpec& spec = job.w->spec;
  const int64_t first_panel = job.expert * n_panels(spec) + panel;
  const int64_t group = group_of(spec);
  const float* scales = nullptr;  // of `panel`
  if (is_quantized(spec.format))
    scales = static_cast<const float*>(job.w->scales.data()) + first_panel * n_groups(spec) * kPanel;
  const bool grouped = spec.format == WeightFormat::int4;
  const RowTiles tiles(n_rows);
  alignas(64) float sums[kChunkRows * kPanel], group_sums[kChunkRows * kPanel];  // [panel][row][32]
  alignas(64) uint16_t expanded[kMostPanels * kCodeChain * kPanel];
  const int64_t sums_stride = n_rows * kPanel;
  for (int64_t k0 = 0, n_k; k0 < spec.k; k0 += n_k) {
    n_k = chain_length(spec, k0);
    const Chain chain = chain_of(simd, job, first_panel, n, k0, n_k, expanded);
    const bool first = k0 % group == 0;
    for (int64_t tile = 0; tile < tiles.count; ++tile) {
      const int64_t begin = tiles.begin(tile), width = tiles.begin(tile + 1) - begin;
      float* to = (grouped ? group_sums : sums) + begin * kPanel;
      if (spec.format == WeightFormat::f32)
        simd.gemm_f32(int(width), int(n), x, static_cast<const float*>(chain.w), chain.panel_stride, n_k, to,
                      sums_stride, first);
      else
        simd.gemm_bf16(int(width), int(n), x, static_cast<const uint16_t*>(chain.w), chain.panel_stride, n_k, to,
                       sums_stride, first);
      x += n_k * width;
    }
    if (grouped && (k0 + n_k) % group == 0)
      for (int64_t p = 0; p < n; ++p)
        simd.add_scaled(n_rows, group_sums + p * sums_stride, scales + (p * n_groups(spec) + k0 / group) * kPanel,
                        sums + p * sums_stride, k0 < group);
  }
  const float* bias = spec.bias ? static_cast<const float*>(job.w->bias.data()) + job.expert * spec.n : nullptr;
  with_activation(job.y.dtype, [&](auto tag) {
    using A = decltype(tag);
    for (int64_t p = 0; p < n; ++p) {
      const int64_t column = (panel + p) * kPanel, n_columns = std::min<int64_t>(kPanel, spec.n - column);
      float scale[kPanel];
      if (spec.format == WeightFormat::fp8)
        std::copy_n(scales + p * kPanel, kPanel, scale);
      else
        std::fill_n(scale, kPanel, 1.0f);
      for (int64_t m = 0; m < n_rows; ++m) {
        const int64_t row = first_row + m;
        const float* sum = sums + p * sums_stride + m * kPanel;
        A* y = data<A>(job.y) + (job.y_rows ? job.y_rows[row] : row) * spec.n + column;
        for (int64_t j = 0; j < n_columns; ++j) {
          const float value = sum[j] * (row_scale[m] * scale[j]);  // without scales the sum as it is
          y[j] = rounded<A>(bias ? value + bias[column + j] : value);
        }
      }
    }
  });
}
}  // namespace

void linear(const OpContext& ctx, std::span<const LinearJob> jobs) {
  Scratch scratch(ctx.work);
  int64_t x_floats = 0, n_rows_all = 0, widest = 1;
  for (const LinearJob& job : jobs) {
    const LinearSpec& spec = job.w->spec;
    x_floats += job.n_rows * spec.k;
    n_rows_all += job.n_rows;
    widest = std::max(widest, spec.k);
    L4_CHECK(job.expert >= 0 && job.expert < spec.n_experts && job.x.elements() % spec.k == 0 &&
                 job.y.elements() % spec.n == 0,
             spec.name, ": [", spec.n, ", ", spec.k, "], input ", job.x.shape.str(), ", output ", job.y.shape.str());
  }
  float* packed_x = scratch.take_array<float>(x_floats);
  float* row_scales = scratch.take_array<float>(n_rows_all);
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
    placed[i].scale = i == 0 ? row_scales : placed[i - 1].scale + jobs[i - 1].n_rows;
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
        with_activation(job.x.dtype, [&](auto tag) {
          pack_rows<decltype(tag)>(job, row, n_rows, at.x + row * job.w->spec.k, at.scale + row);
        });
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
        n = std::min<int64_t>(n, n_rows <= 3 ? kMostPanels : 1);
        multiply(simd, job, at.x + row * job.w->spec.k, at.scale + row, row, n_rows, panel, n);
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
