#include "kernels/cuda/matmul/grouped_rows.h"

#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx/pdl.h"

namespace l4::cuda::grouped {

namespace {
constexpr int kArrangeThreads = 128;

// Block i: entry i's row number, the rows without an expert here after all others, and (unless h is null) a copy of h's
// row. 2 D bytes read and written a row.
__global__ void __launch_bounds__(kArrangeThreads)
    arrange_kernel(const int32_t* expert, int n_rows, int first_expert, int n_experts, const int32_t* begin,
                   const int32_t* routed_rows, int32_t* rows, const bf16* h, bf16* arranged, int64_t d) {
  wait_for_predecessor();
  let_successor_start();
  __shared__ int found, before[kArrangeThreads];
  const int entry = int(blockIdx.x), n_routed = begin[n_experts];
  int row;
  if (entry < n_routed) {
    row = routed_rows[entry];
  } else {  // the (entry - n_routed)-th of those whose expert is elsewhere
    const int run = (n_rows + kArrangeThreads - 1) / kArrangeThreads;
    const int first = min(int(threadIdx.x) * run, n_rows), end = min(first + run, n_rows);
    auto elsewhere = [&](int i) { return expert[i] < first_expert || expert[i] >= first_expert + n_experts; };
    int n = 0;
    for (int i = first; i < end; ++i) n += elsewhere(i);
    before[threadIdx.x] = n;
    __syncthreads();
    int at = n_routed;
    for (int i = 0; i < int(threadIdx.x); ++i) at += before[i];
    for (int i = first; i < end; ++i)
      if (elsewhere(i) && at++ == entry) found = i;
    __syncthreads();
    row = found;
  }
  if (threadIdx.x == 0) rows[entry] = row;
  if (!h) return;
  const uint4* from = reinterpret_cast<const uint4*>(h + int64_t(row) * d);
  uint4* to = reinterpret_cast<uint4*>(arranged + int64_t(entry) * d);
  for (int64_t i = threadIdx.x; i < d / 8; i += kArrangeThreads) to[i] = from[i];
}
}  // namespace

Arranged arrange(Scratch& scratch, const OpContext& ctx, const Route& route, int64_t first_expert, int64_t n_experts,
                 const View& h) {
  Arranged r;
  const int64_t n_rows = route.expert.elements(), d = h ? h.cols() : 0;
  r.rows = scratch.take_array<int32_t>(n_rows);
  if (h) r.h = scratch.take_array<bf16>(n_rows * d);
  r.groups = group_by_expert(scratch, ctx, route, first_expert, n_experts);
  if (ctx.measuring()) return r;
  launch({.grid = unsigned(n_rows), .block = kArrangeThreads, .stream = ctx.gpu.stream, .programmatic = true},
         arrange_kernel, route.expert.i32(), int(n_rows), int(first_expert), int(n_experts), r.groups.begin,
         r.groups.rows, r.rows, h ? data<bf16>(h) : nullptr, r.h, d);
  return r;
}

}  // namespace l4::cuda::grouped
