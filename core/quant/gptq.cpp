#include "quant/gptq.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "quant/wide.h"

namespace l4 {

namespace {

constexpr int64_t kTile = 32;  // columns of H, or rows of W, that are computed at once
constexpr int64_t kVectors = kTile / kLanes;
constexpr int64_t kStrip = 4;
constexpr int64_t kBlock = 64;  // columns of the Cholesky factor
using Doubles = double __attribute__((vector_size(64)));
constexpr int kDoubles = 8;

// out[c][l] += sum over t of a[c * a_strip + t * a_step] b[t * kTile + l], for kStrip values of c and kTile of l.
L4_WIDE void multiply_add(const float* a, int64_t a_strip, int64_t a_step, const float* b, int64_t n, float* out,
                          int64_t out_strip) {
  Floats sums[kStrip][kVectors];
  for (int64_t c = 0; c < kStrip; ++c) std::memcpy(sums[c], out + c * out_strip, sizeof sums[c]);
  for (int64_t t = 0; t < n; ++t) {
    Floats row[kVectors];
    std::memcpy(row, b + t * kTile, sizeof row);
    for (int64_t c = 0; c < kStrip; ++c)
      for (int64_t v = 0; v < kVectors; ++v) sums[c][v] += a[c * a_strip + t * a_step] * row[v];
  }
  for (int64_t c = 0; c < kStrip; ++c) std::memcpy(out + c * out_strip, sums[c], sizeof sums[c]);
}

// out[r][c] = a row r (stride k) times b row c, over n elements, a multiple of kDoubles.
L4_WIDE void dots(const double* a, const double* b, int64_t k, int64_t n, double (&out)[kStrip][kStrip]) {
  Doubles sums[kStrip][kStrip] = {};
  for (int64_t i = 0; i < n; i += kDoubles) {
    Doubles x[kStrip], y[kStrip];
    for (int64_t r = 0; r < kStrip; ++r) {
      std::memcpy(&x[r], a + r * k + i, sizeof x[r]);
      std::memcpy(&y[r], b + r * k + i, sizeof y[r]);
    }
    for (int64_t r = 0; r < kStrip; ++r)
      for (int64_t c = 0; c < kStrip; ++c) sums[r][c] += x[r] * y[c];
  }
  for (int64_t r = 0; r < kStrip; ++r)
    for (int64_t c = 0; c < kStrip; ++c) {
      const Doubles& s = sums[r][c];
      out[r][c] = ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
    }
}

// The lower Cholesky factor, in place of the lower triangle; block of columns after block. False: not positive
// definite.
class Cholesky {
 public:
  Cholesky(std::vector<double>& matrix, int64_t k) : c_(matrix.data()), k_(k) {}

  bool run(ThreadPool& pool) {
    for (int64_t begin = 0; begin < k_; begin += kBlock) {
      const int64_t end = std::min(begin + kBlock, k_);
      for (int64_t i = begin; i < end; i += kStrip) subtract(i, begin, end);
      for (int64_t i = begin; i < end; ++i)
        if (!finish_row(i, begin, i + 1)) return false;
      pool.parallel_for((k_ - end) / kStrip, 1, [&](int64_t first, int64_t last) {
        for (int64_t i = end + first * kStrip; i < end + last * kStrip; i += kStrip) {
          subtract(i, begin, end);
          for (int64_t r = 0; r < kStrip; ++r) finish_row(i + r, begin, end);
        }
      });
    }
    return true;
  }

 private:
  double* row(int64_t i) { return c_ + i * k_; }

  // From kStrip rows, at columns [begin, end): what the columns before `begin` explain.
  void subtract(int64_t i, int64_t begin, int64_t end) {
    double part[kStrip][kStrip];
    for (int64_t j = begin; j < end; j += kStrip) {
      dots(row(i), row(j), k_, begin, part);
      for (int64_t r = 0; r < kStrip; ++r)
        for (int64_t c = 0; c < kStrip; ++c) row(i + r)[j + c] -= part[r][c];
    }
  }

  // The same within the block; then the row's entries. `end` is behind the diagonal where the block is the row's own.
  bool finish_row(int64_t i, int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; ++j) {
      double rest = row(i)[j];
      for (int64_t t = begin; t < j; ++t) rest -= row(i)[t] * row(j)[t];
      if (i != j) {
        row(i)[j] = rest / row(j)[j];
        continue;
      }
      if (!(rest > 0) || !std::isfinite(rest)) return false;
      row(i)[j] = std::sqrt(rest);
    }
    return true;
  }

  double* c_;
  int64_t k_;
};

}  // namespace

Hessian::Hessian(int64_t k) : k_(k), values_(size_t(k * k)) {
  L4_CHECK(k > 0 && k % kTile == 0, k, " columns");
}

void Hessian::add(std::span<const float> rows, ThreadPool& pool) {
  const int64_t n = int64_t(rows.size()) / k_, n_tiles = k_ / kTile;
  L4_CHECK(int64_t(rows.size()) == n * k_);
  n_rows_ += n;
  // Columns of a tile lie together: rows of a large k would meet in one set of the cache.
  tiles_.resize(rows.size());
  pool.parallel_for(n_tiles, 1, [&](int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; ++tile)
      for (int64_t t = 0; t < n; ++t)
        std::memcpy(&tiles_[size_t((tile * n + t) * kTile)], &rows[size_t(t * k_ + tile * kTile)],
                    kTile * sizeof(float));
  });
  pool.parallel_items(n_tiles * n_tiles, [&](int64_t, int64_t pair) {
    const int64_t i = pair / n_tiles, j = pair % n_tiles;
    if (i > j) return;
    for (int64_t c = 0; c < kTile; c += kStrip)
      multiply_add(&tiles_[size_t(i * n * kTile + c)], 1, kTile, &tiles_[size_t(j * n * kTile)], n,
                   &values_[size_t((i * kTile + c) * k_ + j * kTile)], k_);
  });
}

std::optional<GptqFactor> GptqFactor::make(const Hessian& hessian, ThreadPool& pool, double damping) {
  const int64_t k = hessian.k();
  double mean = 0;
  for (int64_t i = 0; i < k; ++i) mean += double(hessian.at(i, i)) / double(k);
  // Turned by half a turn, the upper factor A is the lower one of Cholesky.
  std::vector<double> c(size_t(k * k));
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t j = 0; j <= i; ++j) c[size_t(i * k + j)] = double(hessian.at(k - 1 - i, k - 1 - j));
    c[size_t(i * k + i)] += damping * mean;
  }
  if (!Cholesky(c, k).run(pool)) return std::nullopt;

  GptqFactor factor;
  factor.k_ = k;
  factor.earlier_.resize(size_t(k * k));
  factor.squares_.resize(size_t(k));
  for (int64_t j = 0; j < k; ++j) {
    const double diagonal = c[size_t((k - 1 - j) * (k + 1))];
    factor.squares_[size_t(j)] = float(diagonal * diagonal);
    for (int64_t i = 0; i < j; ++i)
      factor.earlier_[size_t(j * k + i)] = float(c[size_t((k - 1 - i) * k + k - 1 - j)] / diagonal);
  }
  return factor;
}

double GptqFactor::quantize_rows(std::span<const float> rows, int64_t group, std::span<uint32_t> words,
                                 std::span<BFloat16> scales, QuantError& error) const {
  const int64_t k = k_, n = int64_t(rows.size()) / k;
  L4_CHECK(int64_t(rows.size()) == n * k && group % kTile == 0 && k % group == 0 && group <= kMaxInt4Group);
  L4_CHECK(int64_t(words.size()) * 8 == n * k && int64_t(scales.size()) * group == n * k);
  double loss = 0;
  std::vector<float> errors(size_t(k * kTile));      // [k, kTile]: w - q, rows of W side by side
  std::vector<float> wanted(size_t(group * kTile));  // w' of the group's columns, but for the group's own errors
  std::vector<float> current(size_t(kTile * group));
  for (int64_t first = 0; first < n; first += kTile) {
    const int64_t n_here = std::min(kTile, n - first);
    const auto source = [&](int64_t r, int64_t j) { return r < n_here ? rows[size_t((first + r) * k + j)] : 0.0f; };
    QuantError lost;
    lost.n = n_here * k;
    for (int64_t begin = 0; begin < k; begin += group) {
      for (int64_t r = 0; r < kTile; ++r)
        for (int64_t j = 0; j < group; ++j) wanted[size_t(j * kTile + r)] = source(r, begin + j);
      for (int64_t j = 0; j < group; j += kStrip)
        multiply_add(&earlier_[size_t((begin + j) * k)], k, 1, errors.data(), begin, &wanted[size_t(j * kTile)], kTile);

      // Adds to w' of the group's column j what the group's columns before it left open.
      const auto follow = [&](int64_t j, float* w) {
        const float* share = &earlier_[size_t((begin + j) * k + begin)];
        for (int64_t i = 0; i < j; ++i)
          for (int64_t r = 0; r < kTile; ++r) w[r] += share[i] * errors[size_t((begin + i) * kTile + r)];
      };
      const std::span<const float> importance = std::span(squares_).subspan(size_t(begin), size_t(group));
      // What the weights would be now, were they not rounded: scales are searched for these.
      float scale[kTile];
      for (int64_t j = 0; j < group; ++j) {
        float now[kTile];
        std::memcpy(now, &wanted[size_t(j * kTile)], sizeof now);
        follow(j, now);
        for (int64_t r = 0; r < kTile; ++r) {
          current[size_t(r * group + j)] = now[r];
          errors[size_t((begin + j) * kTile + r)] = source(r, begin + j) - now[r];
        }
      }
      for (int64_t r = 0; r < n_here; ++r) {
        const BFloat16 found = search_int4_scale({&current[size_t(r * group)], size_t(group)}, importance);
        scale[r] = to_float(found);
        scales[size_t((first + r) * (k / group) + begin / group)] = found;
      }
      uint32_t codes[kTile][kMaxInt4Group];
      for (int64_t j = 0; j < group; ++j) {
        float* w = &wanted[size_t(j * kTile)];
        float* e = &errors[size_t((begin + j) * kTile)];
        follow(j, w);
        for (int64_t r = 0; r < n_here; ++r) {
          const float code = std::clamp(std::nearbyint(w[r] / scale[r]), -8.0f, 7.0f), q = code * scale[r];
          codes[r][j] = uint32_t(int32_t(code) + 8);
          const float from = source(r, begin + j);
          e[r] = from - q;
          loss += double(squares_[size_t(begin + j)]) * double(w[r] - q) * double(w[r] - q);
          lost.squared += double(e[r]) * double(e[r]);
          lost.reference += double(from) * double(from);
          lost.max_error = std::max(lost.max_error, std::fabs(e[r]));
          lost.max_weight = std::max(lost.max_weight, std::fabs(from));
        }
      }
      for (int64_t r = 0; r < n_here; ++r)
        pack_int4({codes[r], size_t(group)}, words.subspan(size_t(((first + r) * k + begin) / 8)));
    }
    error.add(lost);
  }
  return loss;
}

}  // namespace l4
