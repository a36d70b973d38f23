#include "kernels/cuda/matmul/grouped_rows.h"

#include "kernels/cuda/launch.h"
#include "kernels/cuda/matmul/quantise_row.h"
#include "kernels/cuda/ptx/pdl.h"

namespace l4::cuda::grouped {

namespace {
constexpr int kThreads = 128;

// What becomes of a row of h: a copy, codes, both or nothing (null).
struct Copies {
  const bf16* h = nullptr;
  int d = 0;
  bf16* rows = nullptr;
  QuantisedRows codes;
  float one_code_scale = 0;
};

// Block i: entry i's row number, the rows without an expert here after all others, and its copies. Of a copy 2 D bytes
// read and written a row, of codes 2 D and D.
template <bool kCodes>
__global__ void __launch_bounds__(kThreads)
    arrange_kernel(const int32_t* expert, int n_rows, int first_expert, int n_experts, const int32_t* begin,
                   const int32_t* routed_rows, int32_t* rows, Copies to) {
  wait_for_predecessor();
  let_successor_start();
  __shared__ int found, before[kThreads];
  const int entry = int(blockIdx.x), n_routed = begin[n_experts];
  int row;
  if (entry < n_routed) {
    row = routed_rows[entry];
  } else {  // the (entry - n_routed)-th of those whose expert is elsewhere
    const int run = (n_rows + kThreads - 1) / kThreads;
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
  const bf16* from = to.h + int64_t(row) * to.d;
  const int64_t at = int64_t(entry) * to.d;
  if (to.rows)
    for (int i = int(threadIdx.x); i < to.d / 8; i += kThreads)
      reinterpret_cast<uint4*>(to.rows + at)[i] = reinterpret_cast<const uint4*>(from)[i];
  if constexpr (kCodes)
    quantise_row<kThreads>(from, to.d, to.one_code_scale, to.codes.codes + at, to.codes.scales + entry);
}

Arranged arrange(Scratch& scratch, const OpContext& ctx, const Route& route, int64_t first_expert, int64_t n_experts,
                 const Copies& to) {
  Arranged r;
  const int64_t n_rows = route.expert.elements();
  r.rows = scratch.take_array<int32_t>(n_rows);
  r.groups = group_by_expert(scratch, ctx, route, first_expert, n_experts);
  if (ctx.measuring()) return r;
  launch({.grid = unsigned(n_rows), .block = kThreads, .stream = ctx.gpu.stream, .programmatic = true},
         to.codes.codes ? arrange_kernel<true> : arrange_kernel<false>, route.expert.i32(), int(n_rows),
         int(first_expert), int(n_experts), r.groups.begin, r.groups.rows, r.rows, to);
  return r;
}
}  // namespace

Arranged arrange(Scratch& scratch, const OpContext& ctx, const Route& route, int64_t first_expert, int64_t n_experts) {
  return arrange(scratch, ctx, route, first_expert, n_experts, Copies{});
}

Arranged arrange(Scratch& scratch, const OpContext& ctx, const Route& route, int64_t first_expert, const View& h,
                 const LinearSpec& shared, const LinearSpec& experts) {
  const bool shared_codes = shared.input != InputFormat::as_is, expert_codes = experts.input != InputFormat::as_is;
  const bool two_scales = shared_codes && expert_codes && one_code_scale(shared) != one_code_scale(experts);
  Copies to;
  to.d = int(h.cols());
  if (!shared_codes || !expert_codes) to.rows = scratch.take_array<bf16>(h.elements());
  if (shared_codes || expert_codes) to.codes = take_quantised_rows(scratch, h.rows(), to.d);
  to.one_code_scale = one_code_scale(expert_codes ? experts : shared);
  if (!ctx.measuring()) to.h = data<bf16>(h);
  Arranged r = arrange(scratch, ctx, route, first_expert, experts.n_experts, to);
  const Tokens rows{to.rows, nullptr}, codes{to.codes.codes, to.codes.scales};
  r.for_experts = expert_codes ? codes : rows;
  r.for_shared = shared_codes ? codes : rows;
  if (two_scales) {
    const QuantisedRows own = quantise(scratch, ctx, h, shared, r.rows);
    r.for_shared = {own.codes, own.scales};
  }
  return r;
}

}  // namespace l4::cuda::grouped
