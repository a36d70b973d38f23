// GPTQ (Frantar et al., arXiv 2210.17323): codes of a linear y = W x chosen one column after the other, each column's
// error made up for by the columns that follow, so that the outputs for the inputs seen are kept rather than the
// weights.
//
// With H = X^T X of the inputs X [rows, k], a row w of W and its result q, the outputs' squared error is d^T H d for
// d = w - q. Let H + damping = A A^T with A upper triangular. Then d^T H d = sum over j of (A_jj (w'_j - q_j))^2 with
//
//   w'_j = w_j + sum over i < j of A_ij / A_jj (w_i - q_i)
//
// so that, of what the earlier columns left open, w'_j is the best value for column j, and q_j the code nearest to it.
// That is the paper's update, which takes the Cholesky factor of H's inverse, without the inverse: column j reads the
// errors of all columns before it, where the paper's writes to all behind it.
//
// Scales: of a group of columns when it is reached, searched (quantize.h) for the values that its weights would get
// were none of them rounded, the earlier groups' errors being what they are; a column's squared error counts A_jj^2, as
// in the sum above. (With all columns alike the demo's outputs were 1.3 times as far from the source's.) Columns come
// in their own order ("actorder" none).
//
// Numbers: H is summed in float32, from inputs that are BF16 mostly. The factor is computed in double: H of a few
// thousand columns is nearly singular, 1 % of damping leaves a condition number of 1e5 and more, and at 1e-7 a pivot's
// relative error could no longer be told from it; the time is small beside the rest. Columns are computed in float32.
// The same bits on every CPU and for any number of threads.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "quant/quantize.h"

namespace l4 {

// X^T X of a linear's inputs. k: a multiple of 32.
class Hessian {
 public:
  explicit Hessian(int64_t k);
  void add(std::span<const float> rows, ThreadPool& pool);  // [n, k]
  int64_t k() const { return k_; }
  int64_t n_rows() const { return n_rows_; }
  float at(int64_t i, int64_t j) const { return values_[size_t(i < j ? i * k_ + j : j * k_ + i)]; }
  static uint64_t bytes(int64_t k) { return uint64_t(k) * uint64_t(k) * sizeof(float); }

 private:
  int64_t k_, n_rows_ = 0;
  std::vector<float> values_;  // [k, k], tiles on and above the diagonal
  std::vector<float> tiles_;   // of the rows being added
};

constexpr double kGptqDamping = 0.01;  // of the mean of H's diagonal, added to it

class GptqFactor {
 public:
  // Nothing where H + damping is not positive definite: no rows, or inputs that are all zero, infinite or NaN. A column
  // whose inputs were all zero has no part in the others' errors, nor they in its.
  static std::optional<GptqFactor> make(const Hessian& hessian, ThreadPool& pool, double damping = kGptqDamping);

  // Any rows of W [n, k] to codes and scales as quantize_int4_row() gives them. `error` is the weights', as there;
  // returned is the sum of d^T (H + damping) d over the rows. Any thread.
  double quantize_rows(std::span<const float> rows, int64_t group, std::span<uint32_t> words,
                       std::span<BFloat16> scales, QuantError& error) const;
  int64_t k() const { return k_; }
  static uint64_t peak_bytes(int64_t k) { return 3 * Hessian::bytes(k); }  // of make(), beside the Hessian

 private:
  int64_t k_ = 0;
  std::vector<float> earlier_;  // [k, k]: row j holds A_ij / A_jj for i < j
  std::vector<float> squares_;  // A_jj^2
};

}  // namespace l4
