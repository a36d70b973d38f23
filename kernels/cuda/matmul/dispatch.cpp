#include "kernels/cuda/matmul/dispatch.h"

#include "kernels/cuda/matmul/cublas.h"
#include "kernels/cuda/matmul/dequantize.h"
#include "kernels/cuda/matmul/generic.h"
#include "kernels/cuda/matmul/grouped.h"
#include "kernels/cuda/matmul/int4.h"
#include "kernels/cuda/matmul/quantise.h"
#include "kernels/cuda/matmul/small_m.h"
#include "kernels/cuda/weight_layout.h"

namespace l4::cuda {

namespace {
constexpr int64_t kLoad = 8;  // bfloat16 values of a 16-byte access, of which our fast paths' rows are made

bool is_bf16(const LinearSpec& spec) {
  return spec.format == WeightFormat::bf16 && spec.input == InputFormat::as_is;
}
bool is_bf16(const PackedWeight* w) {
  return !w || is_bf16(w->spec);
}
// Columns of which both weights of a half have whole slabs; 0: not two that small_m takes together.
int64_t slab_of(const PackedWeight& shared, const PackedWeight* experts) {
  const bool alike = !experts || experts->spec.format == shared.spec.format;
  return alike && (!experts || experts->spec.group == shared.spec.group) ? small_m_slab(shared.spec) : 0;
}
bool has_bias(const PackedWeight* w) {
  return w && w->spec.bias;
}

// FP8 weights and inputs, rows that the copy engine takes.
bool is_fp8(const LinearSpec& spec) {
  return spec.format == WeightFormat::fp8 && spec.input != InputFormat::as_is && spec.k % kCodesTogether == 0;
}
// What small_m does not take.
MatmulKernel quantized_linear_kernel(const LinearSpec& spec, bool few_rows) {
  if (is_fp8(spec) && spec.n % kGateBlock == 0 && !spec.bias) return MatmulKernel::fp8;
  if (has_int4_kernel(spec) && spec.n % 2 == 0 && !spec.bias && few_rows) return MatmulKernel::int4;
  return is_dequantizable(spec) ? MatmulKernel::dequantized : MatmulKernel::generic;
}
MatmulKernel invariant_linear_kernel(const LinearSpec& spec) {
  if (spec.bias || spec.n % 2 != 0 || spec.k % kLoad != 0) return MatmulKernel::generic;
  if (is_bf16(spec)) return MatmulKernel::grouped;
  return is_quantized(spec.format) ? quantized_linear_kernel(spec, true) : MatmulKernel::generic;
}
void note_quantized(FfnShape& s, DType a, const PackedWeight* shared, const PackedWeight* experts) {
  // k of the other half is looked at as well: both halves are to come to the same answer.
  auto width = [](const LinearSpec& spec) { return spec.gated ? spec.n / 2 : spec.n; };
  auto grouped = [&](const PackedWeight* w) {
    return is_bf16(w) || (is_fp8(w->spec) && width(w->spec) % kCodesTogether == 0) || has_int4_kernel(w->spec);
  };
  auto plain = [&](const PackedWeight* w) { return grouped(w) || is_dequantizable(w->spec); };
  s.grouped = a == DType::bf16 && grouped(shared) && grouped(experts);
  s.dequantizable = a == DType::bf16 && plain(shared) && plain(experts);
}
MatmulKernel quantized_ffn_kernel(const FfnShape& s) {
  if (s.grouped) return MatmulKernel::grouped;
  return s.dequantizable ? MatmulKernel::dequantized : MatmulKernel::generic;
}
}  // namespace

const char* matmul_kernel_name(MatmulKernel kernel) {
  switch (kernel) {
    case MatmulKernel::generic:
      return "generic";
    case MatmulKernel::small_m:
      return "small_m";
    case MatmulKernel::cublaslt:
      return "cublaslt";
    case MatmulKernel::fp8:
      return "fp8";
    case MatmulKernel::grouped:
      return "grouped";
    case MatmulKernel::int4:
      return "int4";
    case MatmulKernel::dequantized:
      return "dequantized";
  }
  return "";
}

bool have_same_order(const std::string& up, const std::string& down) {
  auto by_expert = [](const std::string& name) { return name == "grouped" || name == "dequantized"; };
  return up == down || (by_expert(up) && by_expert(down));
}

MatmulKernel linear_kernel(const LinearSpec& spec, DType x, int64_t n_rows, bool invariant) {
  if (x != DType::bf16) return MatmulKernel::generic;
  if (invariant) return invariant_linear_kernel(spec);
  const int64_t slab = small_m_slab(spec);
  if (n_rows <= kSmallM && slab > 0 && spec.k % slab == 0) return MatmulKernel::small_m;
  if (is_quantized(spec.format)) return quantized_linear_kernel(spec, n_rows <= kInt4LinearRows);
  const bool more = n_rows > kSmallM && is_bf16(spec) && spec.k % 2 == 0;  // vision's patches have k 588
  return more ? MatmulKernel::cublaslt : MatmulKernel::generic;
}

FfnShape ffn_shape(const FfnUpArgs& args) {
  FfnShape s{.d = args.shared->spec.k, .f_shared = args.shared->spec.n / 2};
  if (args.experts) {
    s.f_experts = args.experts->spec.n / 2;
    s.n_experts = args.experts->spec.n_experts;
    s.top_k = args.route.top_k;
  }
  s.slab = args.h.dtype == DType::bf16 ? slab_of(*args.shared, args.experts) : 0;
  s.bf16 = args.h.dtype == DType::bf16 && is_bf16(args.shared) && is_bf16(args.experts);
  note_quantized(s, args.h.dtype, args.shared, args.experts);
  s.bias = has_bias(args.shared) || has_bias(args.experts);
  return s;
}

FfnShape ffn_shape(const FfnDownArgs& args) {
  FfnShape s{.d = args.shared->spec.n, .f_shared = args.shared->spec.k};
  if (args.experts) {
    s.f_experts = args.experts->spec.k;
    s.n_experts = args.experts->spec.n_experts;
    s.top_k = args.route.top_k;
  }
  s.slab = args.act_shared.dtype == DType::bf16 ? slab_of(*args.shared, args.experts) : 0;
  s.bf16 = args.act_shared.dtype == DType::bf16 && is_bf16(args.shared) && is_bf16(args.experts);
  note_quantized(s, args.act_shared.dtype, args.shared, args.experts);
  s.bias = has_bias(args.shared) || has_bias(args.experts);
  return s;
}

MatmulKernel ffn_kernel(const FfnShape& s, int64_t n_rows, bool invariant) {
  if (s.bias || s.d % kLoad != 0 || s.f_shared % kGateBlock != 0 || s.f_experts % kGateBlock != 0)
    return MatmulKernel::generic;
  const bool slabs = s.slab > 0 && s.d % s.slab == 0 && s.f_shared % s.slab == 0 && s.f_experts % s.slab == 0;
  if (slabs && !invariant && n_rows <= kSmallM && n_rows * s.top_k <= kSmallMSlots) return MatmulKernel::small_m;
  if (s.top_k > 1 || s.n_experts > kGroupedExperts) return MatmulKernel::generic;
  return s.bf16 ? MatmulKernel::grouped : quantized_ffn_kernel(s);
}

const char* linear_kernel_name(const LinearSpec& spec, DType x, int64_t n_rows, bool invariant) {
  return matmul_kernel_name(linear_kernel(spec, x, n_rows, invariant));
}
const char* ffn_kernel_name(const FfnUpArgs& args, bool invariant) {
  return matmul_kernel_name(ffn_kernel(ffn_shape(args), args.h.rows(), invariant));
}

bool linear(const OpContext& ctx, const View& x, const PackedWeight& w, const View& y, DType round_to,
            const PeerLinks* peers) {
  const LinearSpec& spec = w.spec;
  const int64_t n_rows = x.elements() / spec.k;
  L4_CHECK(spec.n_experts == 1 && x.elements() == n_rows * spec.k && y.elements() == n_rows * spec.n, spec.name, ": [",
           spec.n, ", ", spec.k, "], input ", x.shape.str(), ", output ", y.shape.str());
  if (n_rows == 0) return false;
  switch (linear_kernel(spec, x.dtype, n_rows, ctx.invariant)) {
    case MatmulKernel::small_m:
      return small_m_linear(ctx, x, w, y, round_to, peers);
    case MatmulKernel::cublaslt:
      cublas_linear(ctx, x, w, y, round_to);
      return false;
    case MatmulKernel::fp8:
      fp8_linear(ctx, x, w, y, round_to);
      return false;
    case MatmulKernel::int4:
      int4_linear(ctx, x, w, y, round_to);
      return false;
    case MatmulKernel::grouped:
      grouped_linear(ctx, x, w, y, round_to);
      return false;
    case MatmulKernel::dequantized:
      dequantized_linear(ctx, x, w, y, round_to);
      return false;
    default:
      generic_gemm(ctx, {.w = &w, .x = x, .y = y, .round_to = round_to});
      return false;
  }
}

void ffn_up(const OpContext& ctx, const FfnUpArgs& args) {
  if (args.h.rows() == 0) return;
  switch (ffn_kernel(ffn_shape(args), args.h.rows(), ctx.invariant)) {
    case MatmulKernel::small_m:
      return small_m_ffn_up(ctx, args);
    case MatmulKernel::grouped:
      return grouped_ffn_up(ctx, args);
    case MatmulKernel::dequantized:
      return dequantized_ffn_up(ctx, args);
    default:
      return generic_ffn_up(ctx, args);
  }
}

bool ffn_down(const OpContext& ctx, const FfnDownArgs& args, const View& y, const PeerLinks* peers) {
  if (y.rows() == 0) return false;
  switch (ffn_kernel(ffn_shape(args), y.rows(), ctx.invariant)) {
    case MatmulKernel::small_m:
      return small_m_ffn_down(ctx, args, y, peers);
    case MatmulKernel::grouped:
      grouped_ffn_down(ctx, args, y);
      return false;
    case MatmulKernel::dequantized:
      dequantized_ffn_down(ctx, args, y);
      return false;
    default:
      generic_ffn_down(ctx, args, y);
      return false;
  }
}

}  // namespace l4::cuda
