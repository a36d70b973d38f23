// Routing and the order of the expert products (contracts: kernels/cpu/ops.h and kernels/cuda/ops.h).
#include <algorithm>

#include "kernels/cuda/device/top_experts.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/ptx/pdl.h"

namespace l4::cuda {

namespace {
constexpr int kRouteThreads = 128;

// A warp a row.
template <class A>
__global__ void __launch_bounds__(kRouteThreads) route_rows_kernel(const A* logits, int64_t n_rows, const Routing to) {
  wait_for_predecessor();
  let_successor_start();
  const int64_t row = int64_t(blockIdx.x) * (kRouteThreads / 32) + threadIdx.x / 32;
  if (row >= n_rows) return;
  route_row<A>(logits + row * to.n_experts, row, to);
}

// A stable counting sort without counters: block e reads all slots, which are few (8,192 rows of Scout: 32 KB, from the
// L2 cache), counts those of the experts before e to know where e begins, and writes its own in order. Every thread has
// one run of neighbouring slots. Nothing depends on timing, and nothing must be cleared before.
constexpr int kGroupThreads = 1024;

__global__ void __launch_bounds__(kGroupThreads)
    group_by_expert_kernel(const int32_t* expert, const float* score, int n_slots, int top_k, int first_expert,
                           int32_t* begin, int32_t* slots, int32_t* rows, float* scores) {
  wait_for_predecessor();
  let_successor_start();
  __shared__ int warp_before[32], warp_mine[32];
  const int mine_is = int(blockIdx.x), lane = int(threadIdx.x % 32), warp = int(threadIdx.x / 32);
  const int run = (n_slots + int(blockDim.x) - 1) / int(blockDim.x);
  const int run_begin = min(int(threadIdx.x) * run, n_slots), run_end = min(run_begin + run, n_slots);
  int before = 0, mine = 0;  // slots of experts before this block's; this block's own
  for (int slot = run_begin; slot < run_end; ++slot) {
    const int e = expert[slot] - first_expert;
    before += e >= 0 && e < mine_is;
    mine += e == mine_is;
  }
  int up_to = mine;  // own slots in this warp up to this thread's run
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const int below = __shfl_up_sync(0xffffffffu, up_to, offset);
    if (lane >= offset) up_to += below;
    before += __shfl_xor_sync(0xffffffffu, before, offset);
  }
  if (lane == 31) warp_before[warp] = before, warp_mine[warp] = up_to;
  __syncthreads();
  int at = 0, total = 0;
  for (int w = 0; w < int(blockDim.x / 32); ++w) {
    at += warp_before[w] + (w < warp ? warp_mine[w] : 0);
    total += warp_before[w] + warp_mine[w];
  }
  if (threadIdx.x == 0) {
    if (mine_is == 0) begin[0] = 0;
    begin[mine_is + 1] = total;
  }
  at += up_to - mine;
  for (int slot = run_begin; slot < run_end; ++slot) {
    if (expert[slot] - first_expert != mine_is) continue;
    slots[at] = slot;
    rows[at] = slot / top_k;
    scores[at] = score[slot];
    ++at;
  }
}
}  // namespace

void route_rows(const OpContext& ctx, const View& logits, const Route& route) {
  if (ctx.measuring()) return;
  const int64_t n_rows = logits.rows();
  with_activation(logits.dtype, [&](auto a) {
    using A = decltype(a);
    constexpr int64_t kRows = kRouteThreads / 32;
    launch({.grid = unsigned((n_rows + kRows - 1) / kRows),
            .block = kRouteThreads,
            .stream = ctx.gpu.stream,
            .programmatic = true},
           route_rows_kernel<A>, data<A>(logits), n_rows, routing(route, n_rows, logits.cols(), ctx.gpu.step));
  });
}

ExpertGroups group_by_expert(Scratch& scratch, const OpContext& ctx, const Route& route, int64_t first_expert,
                             int64_t n_experts) {
  const int64_t n_slots = route.expert.elements();
  ExpertGroups groups{.n_experts = n_experts,
                      .n_slots = n_slots,
                      .begin = scratch.take_array<int32_t>(n_experts + 1),
                      .slots = scratch.take_array<int32_t>(n_slots),
                      .rows = scratch.take_array<int32_t>(n_slots),
                      .scores = scratch.take_array<float>(n_slots)};
  if (ctx.measuring()) return groups;
  const int64_t threads = std::clamp<int64_t>((n_slots + 31) / 32 * 32, 32, kGroupThreads);
  launch({.grid = unsigned(n_experts), .block = unsigned(threads), .stream = ctx.gpu.stream, .programmatic = true},
         group_by_expert_kernel, route.expert.i32(), route.score.f32(), int(n_slots), int(route.top_k),
         int(first_expert), groups.begin, groups.slots, groups.rows, groups.scores);
  return groups;
}

}  // namespace l4::cuda
