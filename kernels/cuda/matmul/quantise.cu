// A block a row: read once, the largest found, divided, written: 3 k bytes a row. About ten instructions a value, a
// third of the time that the bytes take.
#include "kernels/cuda/matmul/quantise.h"

#include "kernels/cuda/launch.h"
#include "kernels/cuda/matmul/quantise_row.h"
#include "kernels/cuda/ptx/pdl.h"

namespace l4::cuda {

namespace {
constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads)
    quantise_kernel(const bf16* x, const int32_t* rows, int k, float one_scale, QuantisedRows to) {
  wait_for_predecessor();
  let_successor_start();
  const int64_t row = blockIdx.x;
  quantise_row<kThreads>(x + (rows ? rows[row] : row) * k, k, one_scale, to.codes + row * k, to.scales + row);
}
}  // namespace

QuantisedRows take_quantised_rows(Scratch& scratch, int64_t n_rows, int64_t k) {
  return {scratch.take_array<uint8_t>(n_rows * k), scratch.take_array<float>(n_rows)};
}

QuantisedRows quantise(Scratch& scratch, const OpContext& ctx, const View& x, const LinearSpec& w,
                       const int32_t* rows) {
  const int64_t k = w.k, n_rows = x.elements() / k;
  L4_CHECK(k % kCodesTogether == 0, w.name, ": rows of ", k, " columns");
  const QuantisedRows to = take_quantised_rows(scratch, n_rows, k);
  if (!ctx.measuring())
    launch({.grid = unsigned(n_rows), .block = kThreads, .stream = ctx.gpu.stream, .programmatic = true},
           quantise_kernel, data<bf16>(x), rows, int(k), one_code_scale(w), to);
  return to;
}

}  // namespace l4::cuda
