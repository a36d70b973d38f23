// Token rows from the embedding table, then image rows from the encoder cache. Copies: a block a row, 16 bytes a thread
// where a row is a multiple of 16 bytes; 4 D bytes a row.
#include "kernels/cuda/device/piece.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/ptx/pdl.h"

namespace l4::cuda {

namespace {
constexpr int kThreads = 320;

// U: what a thread copies at once; n of them a row.
template <class U>
__global__ void __launch_bounds__(kThreads)
    embed_tokens_kernel(const U* table, const int32_t* ids, int64_t first_vocab, int64_t n_local, U* x, int n) {
  wait_for_predecessor();
  let_successor_start();
  const int64_t id = ids[blockIdx.x] - first_vocab;
  U* to = x + int64_t(blockIdx.x) * n;
  const bool here = id >= 0 && id < n_local;
  for (int i = int(threadIdx.x); i < n; i += kThreads) to[i] = here ? table[id * n + i] : U{};
}

template <class U>
__global__ void __launch_bounds__(kThreads)
    place_features_kernel(const U* features, const ImageRow* rows, U* x, int n) {
  wait_for_predecessor();
  let_successor_start();
  const ImageRow r = rows[blockIdx.x];
  for (int i = int(threadIdx.x); i < n; i += kThreads) x[int64_t(r.row) * n + i] = features[int64_t(r.feature) * n + i];
}

// Calls body(U{}, n): rows of `from` and `to` are n of U.
template <class Body>
void with_units(const View& from, const View& to, Body&& body) {
  const int64_t row_bytes = to.cols() * int64_t(dtype_bytes(to.dtype));
  if ((row_bytes | int64_t(from.data) | int64_t(to.data)) % 16 == 0)
    body(uint4{}, int(row_bytes / 16));
  else
    with_activation(to.dtype, [&](auto a) { body(a, int(to.cols())); });
}
}  // namespace

void embed_tokens(const OpContext& ctx, const EmbedArgs& args) {
  if (ctx.measuring()) return;
  const DeviceStep& step = ctx.gpu.step;
  L4_CHECK(args.table.dtype == args.x.dtype && args.table.cols() == args.x.cols() && args.x.rows() == step.n_rows);
  with_units(args.table, args.x, [&](auto unit, int n) {
    using U = decltype(unit);
    launch({.grid = unsigned(step.n_rows), .block = kThreads, .stream = ctx.gpu.stream, .programmatic = true},
           embed_tokens_kernel<U>, static_cast<const U*>(args.table.data), step.ids, args.first_vocab,
           args.table.rows(), static_cast<U*>(args.x.data), n);
  });
}

void place_features(const OpContext& ctx, const EmbedArgs& args) {
  const DeviceStep& step = ctx.gpu.step;
  if (ctx.measuring() || step.n_image_rows == 0) return;
  L4_CHECK(args.features.dtype == args.x.dtype && args.features.cols() == args.x.cols());
  with_units(args.features, args.x, [&](auto unit, int n) {
    using U = decltype(unit);
    launch({.grid = unsigned(step.n_image_rows), .block = kThreads, .stream = ctx.gpu.stream, .programmatic = true},
           place_features_kernel<U>, static_cast<const U*>(args.features.data), step.image_rows,
           static_cast<U*>(args.x.data), n);
  });
}

}  // namespace l4::cuda
