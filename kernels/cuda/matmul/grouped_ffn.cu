// The feed-forward stages of prefill, and of decode of more than 16 rows, as grouped products.
//
// What is multiplied. Rows of h are first put in the order of their experts (arrange), since the copy engine
// takes tiles of neighbouring rows. In that order every stage is one launch over groups of rows, one for each expert.
// Up has one more group of all rows, for the shared expert (or the dense block): same shapes, no second launch, no
// tail. Down adds the shared expert's product to each expert's tile in the same accumulators, as if k were F_shared +
// F_experts: no sum in memory, every output written once, rounded once; rows without an expert here are a group of
// their own. With few rows, where weights are read for a handful of tokens each, reading the shared weights again for
// every expert would cost more than it saves: there the shared product is a launch of its own, k in as many parts as
// fill the SMs, that leaves float32 sums, to which the experts' launch adds.
//
// Formats. Weights of one kind (bfloat16; FP8 with its input quantised; INT4 in groups of one size) are one launch;
// where the shared expert's and the experts' are of two, each has its own, and down leaves sums as it does with few
// rows. Up and down may be of any two formats: the order of their rows is the same. What is neither becomes bfloat16 in
// scratch first (dequantize.h), which holds only some experts at a time: then the groups are those experts', a launch
// each.
#include "kernels/cuda/matmul/cublas.h"
#include "kernels/cuda/matmul/grouped.h"
#include "kernels/cuda/matmul/grouped_rows.h"
#include "kernels/cuda/matmul/grouped_stage.h"
#include "kernels/cuda/matmul/quantise.h"

namespace l4::cuda {

using namespace grouped;

namespace {
// What is neither INT4 that int4.cu takes nor FP8 with quantised input is bfloat16, or becomes so.
Start* start_of(const PackedWeight& w) {
  if (has_int4_kernel(w.spec)) return start_int4;
  return w.spec.input == InputFormat::as_is ? start_bf16 : start_fp8;
}
// One launch serves both.
bool alike(const PackedWeight& shared, const PackedWeight* experts) {
  return !experts || (start_of(shared) == start_of(*experts) && shared.spec.group == experts->spec.group);
}

// Columns of a step in bfloat16: launches set their own (set_steps).
constexpr int kTileK = 64;

// The experts that there are weights of. The last group, of all rows or those without an expert, comes with the last
// ones.
Work of_window(const Work& all, const PlainWeights& p) {
  Work w = all;
  if (!p.experts) return w;
  w.n_experts = int(p.experts->spec.n_experts);
  w.begin += p.first_expert;
  if (p.first_expert + w.n_experts < all.n_experts) w.n_shared = 0;
  return w;
}

// Of rows that lie in the order of the groups already.
Tokens tokens_of(Scratch& scratch, const OpContext& ctx, const PackedWeight& w, const View& x) {
  if (w.spec.input == InputFormat::as_is) return {x.data, nullptr};
  const QuantisedRows codes = quantise(scratch, ctx, x, w.spec);
  return {codes.codes, codes.scales};
}

// y = x W^T of all rows and, with experts, of each group's.
void start_down(const OpContext& ctx, Scratch& scratch, const Work& w, Results r, const PackedWeight& shared,
                const PackedWeight* experts, const Tokens& shared_tokens, const Tokens& expert_tokens, const View& y,
                int64_t scratch_bytes) {
  // Invariant: any number of rows is added up as the fewest are.
  const bool narrow = ctx.invariant || w.n_rows <= kNarrowRows;
  r.n_sums = narrow ? parts_of_shared(w, ctx.invariant ? 1 : w.n_rows, ctx.gpu.n_sms) : 1;
  const bool two_launches = r.n_sums > 1 || (experts && (narrow || !alike(shared, experts)));
  if (two_launches) r.sums = scratch.take_array<float>(r.n_sums * y.elements());
  if (!ctx.measuring()) r.shared_out = r.expert_out = data<bf16>(y);
  with_plain_weights(scratch, ctx, shared, experts, scratch_bytes, [&](const PlainWeights& p) {
    const Factors of_shared{p.shared, shared_tokens}, of_experts{p.experts, expert_tokens};
    Work window = of_window(w, p);
    Start* const start_shared = start_of(*p.shared);
    if (!two_launches) {
      window.add_shared = p.experts != nullptr;
      return start_shared(ctx, false, window, r, of_shared, of_experts);
    }
    if (p.first_expert == 0) {
      Work alone = work_of(*p.shared, nullptr, w.n_rows, kTileK);
      alone.n_parts = r.n_sums;
      Results leaves_sums = r;
      leaves_sums.leaves_sums = true;
      start_shared(ctx, false, alone, leaves_sums, of_shared, {});
    }
    const Factors& second = p.experts ? of_experts : of_shared;  // without experts it only adds
    start_of (*second.weight)(ctx, false, window, r, {}, second);
  });
}
}  // namespace

void grouped_ffn_up(const OpContext& ctx, const FfnUpArgs& args) {
  dequantized_ffn_up(ctx, args);
}
void grouped_ffn_down(const OpContext& ctx, const FfnDownArgs& args, const View& y) {
  dequantized_ffn_down(ctx, args, y);
}

void dequantized_ffn_up(const OpContext& ctx, const FfnUpArgs& args, int64_t scratch_bytes) {
  Scratch scratch(ctx.work);
  Work w = work_of(*args.shared, args.experts, args.h.rows(), kTileK);
  Results r;
  Tokens shared_tokens, expert_tokens;
  if (!args.experts) {
    shared_tokens = tokens_of(scratch, ctx, *args.shared, args.h);
  } else {
    const Arranged at =
        arrange(scratch, ctx, args.route, args.first_expert, args.h, args.shared->spec, args.experts->spec);
    w.begin = at.groups.begin;
    r.scores = at.groups.scores;
    shared_tokens = at.for_shared, expert_tokens = at.for_experts;
  }
  if (!ctx.measuring()) {
    r.shared_out = data<bf16>(args.act_shared);
    if (args.experts) r.expert_out = data<bf16>(args.act_routed);
  }
  with_plain_weights(scratch, ctx, *args.shared, args.experts, scratch_bytes, [&](const PlainWeights& p) {
    const Factors shared{p.shared, shared_tokens}, experts{p.experts, expert_tokens};
    Work window = of_window(w, p);
    if (alike(*p.shared, p.experts)) return start_of(*p.shared)(ctx, true, window, r, shared, experts);
    if (p.first_expert == 0)
      start_of (*p.shared)(ctx, true, work_of(*p.shared, nullptr, w.n_rows, kTileK), r, shared, {});
    window.n_shared = 0;
    start_of (*p.experts)(ctx, true, window, r, {}, experts);
  });
}

void dequantized_ffn_down(const OpContext& ctx, const FfnDownArgs& args, const View& y, int64_t scratch_bytes) {
  Scratch scratch(ctx.work);
  Work w = work_of(*args.shared, args.experts, y.rows(), kTileK);
  Results r;
  const Tokens shared_tokens = tokens_of(scratch, ctx, *args.shared, args.act_shared);
  Tokens expert_tokens;
  if (args.experts) {
    expert_tokens = tokens_of(scratch, ctx, *args.experts, args.act_routed);
    const Arranged at = arrange(scratch, ctx, args.route, args.first_expert, w.n_experts);
    r.rows = at.rows;
    w.begin = at.groups.begin;
    w.all_rows = false;
  }
  start_down(ctx, scratch, w, r, *args.shared, args.experts, shared_tokens, expert_tokens, y, scratch_bytes);
}

namespace {
void start_linear(const OpContext& ctx, Scratch& scratch, int64_t n_rows, const PackedWeight& w, const Tokens& tokens,
                  const View& y, DType round_to) {
  const Work work = work_of(w, nullptr, n_rows, kTileK);
  if (y.dtype == DType::bf16) return start_down(ctx, scratch, work, {}, w, nullptr, tokens, {}, y, 0);
  if (ctx.measuring()) return;
  Results r;
  r.sums = data<float>(y);
  r.leaves_sums = true;
  r.round_sums = round_to == DType::bf16;
  start_of(w)(ctx, false, work, r, {&w, tokens}, {});
}
}  // namespace

void fp8_linear(const OpContext& ctx, const View& x, const PackedWeight& w, const View& y, DType round_to) {
  const int64_t n_rows = x.elements() / w.spec.k;
  Scratch scratch(ctx.work);
  const QuantisedRows codes = quantise(scratch, ctx, x, w.spec);
  const bool by_cublas = !ctx.invariant && w.spec.n % kCodesTogether == 0;
  if (by_cublas && cublas_fp8_linear(ctx, codes, n_rows, w, y, round_to)) return;
  start_linear(ctx, scratch, n_rows, w, {codes.codes, codes.scales}, y, round_to);
}

void grouped_linear(const OpContext& ctx, const View& x, const PackedWeight& w, const View& y, DType round_to) {
  Scratch scratch(ctx.work);
  start_linear(ctx, scratch, x.elements() / w.spec.k, w, {x.data, nullptr}, y, round_to);
}
void int4_linear(const OpContext& ctx, const View& x, const PackedWeight& w, const View& y, DType round_to) {
  grouped_linear(ctx, x, w, y, round_to);
}

}  // namespace l4::cuda
