// What the tests of operations share: tensors with memory, numbers, comparison with a reference, weights, pages.
#pragma once

#include <cmath>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "kernels/cpu/ops.h"
#include "support/test.h"
#include "support/tolerances.h"

namespace l4::test {

using Doubles = std::vector<double>;

// A dense tensor that owns its memory.
struct Values {
  std::vector<std::byte> storage;
  View view;

  Values() = default;
  Values(DType dtype, Shape shape) {
    view = {nullptr, dtype, shape};
    storage.resize(view.bytes() + 1, std::byte{0xFF});  // NaN wherever nothing is written; never null
    view.data = storage.data();
  }
  Values(Values&&) = default;
  Values& operator=(Values&&) = default;
  Values(const Values& other) : Values(other.view.dtype, other.view.shape) { storage = other.storage, fix(); }
  Values& operator=(const Values& other) { return *this = Values(other); }
  operator const View&() const { return view; }

  double at(int64_t i) const { return value(view, i); }
  void set(int64_t i, double v) const {
    if (view.dtype == DType::f32)
      view.f32()[i] = float(v);
    else if (view.dtype == DType::bf16)
      view.bf16()[i] = to_bf16(float(v));
    else
      view.i32()[i] = int32_t(v);
  }
  static double value(const View& v, int64_t i) {
    return v.dtype == DType::f32    ? double(v.f32()[i])
           : v.dtype == DType::bf16 ? double(to_float(v.bf16()[i]))
                                    : double(v.i32()[i]);
  }

 private:
  void fix() { view.data = storage.data(); }
};

inline Doubles doubles(const View& v) {
  Doubles out(static_cast<size_t>(v.elements()));
  for (size_t i = 0; i < out.size(); ++i) out[i] = Values::value(v, int64_t(i));
  return out;
}

class Numbers {
 public:
  explicit Numbers(uint64_t seed) : engine_(seed) {}
  double uniform(double low, double high) { return std::uniform_real_distribution<double>(low, high)(engine_); }
  int64_t below(int64_t n) { return int64_t(engine_() % uint64_t(n)); }
  Values tensor(DType dtype, Shape shape, double low = -1, double high = 1) {
    Values t(dtype, shape);
    for (int64_t i = 0; i < t.view.elements(); ++i) t.set(i, uniform(low, high));
    return t;
  }

 private:
  std::mt19937_64 engine_;
};

inline double round_as(DType a, double v) {
  return a == DType::bf16 ? double(round_bf16(float(v))) : v;
}

// "" when `got` is near `want` by the rule of tolerances.h, else one line with the worst element.
inline std::string difference(const View& got, const Doubles& want, const Doubles& magnitude, const Tolerance& t) {
  if (got.elements() != int64_t(want.size())) return cat("sizes ", got.elements(), " and ", want.size());
  const bool bf16 = got.dtype == DType::bf16;
  const double unit = bf16 ? t.bf16 : t.f32;
  double worst = -1;
  size_t at = 0, differ = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    double value = Values::value(got, int64_t(i)), error = std::abs(value - want[i]);
    if (float(value) != float(want[i])) ++differ;
    double excess = !(error <= unit * magnitude[i]) ? (error == error ? error - unit * magnitude[i] : INFINITY) : -1;
    if (excess > worst) worst = excess, at = i;
  }
  if (worst >= 0 && (worst > 0 || unit > 0))
    return cat("element ", at, " of ", want.size(), ": got ", Values::value(got, int64_t(at)), ", want ", want[at],
               ", allowed ", unit * magnitude[at]);
  // Small tensors may have one value on an edge.
  if (bf16 && double(differ) > 2 + t.bf16_differ * double(want.size()))
    return cat(differ, " of ", want.size(), " values differ, a share of ", t.bf16_differ, " may");
  return "";
}
inline Doubles sizes(const Doubles& v) {
  Doubles out = v;
  for (double& x : out) x = std::abs(x);
  return out;
}
inline std::string difference(const View& got, const Doubles& want, const Tolerance& t) {
  return difference(got, want, sizes(want), t);
}
inline bool same_bits(const View& a, const View& b) {
  return a.dtype == b.dtype && a.bytes() == b.bytes() && std::memcmp(a.data, b.data, a.bytes()) == 0;
}

// A pool and an arena of exactly the size the operation measures: run(op) measures first, then runs, so that every test
// also checks that what is measured is what is taken.
class Machine {
 public:
  explicit Machine(int n_threads = 2) : pool(n_threads) {}
  ThreadPool pool;

  template <class Op>
  void run(Op&& op) {
    Arena measured;
    op(cpu::OpContext{pool, measured});
    Arena work(host_buffer(measured.peak(), "scratch of a test"));
    if (measured.peak()) {  // garbage, as in a used arena
      View all = work.take(DType::u8, {int64_t(measured.peak())});
      std::memset(all.data, 0xFF, all.bytes());
      work.reset();
    }
    op(cpu::OpContext{pool, work});
    CHECK(work.peak() <= measured.peak());
  }
};

inline WeightFormat format_of(DType dtype) {
  return dtype == DType::f32 ? WeightFormat::f32 : WeightFormat::bf16;
}

// A linear layer with its logical values: w [E, n, k], b [E, n].
struct Weights {
  Values w, b;
  PackedWeight packed;

  Weights(ThreadPool& pool, Numbers& numbers, LinearSpec spec, double size = 1) {
    const DType dtype = spec.format == WeightFormat::f32 ? DType::f32 : DType::bf16;
    w = numbers.tensor(dtype, {spec.n_experts, spec.n, spec.k}, -size, size);
    if (spec.bias) b = numbers.tensor(dtype, {spec.n_experts, spec.n});
    std::vector<WeightSlice> slices, biases;
    for (int64_t e = 0; e < spec.n_experts; ++e) {
      slices.push_back({w.storage.data() + size_t(e * spec.n * spec.k) * dtype_bytes(dtype), dtype, spec.n, spec.k,
                        spec.k, 1, e, 0, 0});
      if (spec.bias)
        biases.push_back({b.storage.data() + size_t(e * spec.n) * dtype_bytes(dtype), dtype, spec.n, 1, 1, 1, e, 0, 0});
    }
    packed = cpu::pack_weight(pool, spec, slices, biases);
  }
  double at(int64_t e, int64_t n, int64_t k) const { return w.at((e * packed.spec.n + n) * packed.spec.k + k); }
  double bias(int64_t e, int64_t n) const { return packed.spec.bias ? b.at(e * packed.spec.n + n) : 0; }

  // One output and the sum of the sizes of its terms.
  template <class Input>
  std::pair<double, double> output(int64_t e, int64_t n, const Input& x) const {
    double sum = bias(e, n), size = std::abs(sum);
    for (int64_t k = 0; k < packed.spec.k; ++k) {
      double term = x(k) * at(e, n, k);
      sum += term;
      size += std::abs(term);
    }
    return {sum, size};
  }
};

}  // namespace l4::test
