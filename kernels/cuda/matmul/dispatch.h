// Which kernel serves which product. Pure functions of shapes, formats and the number of rows: the same for every step
// of a graph, and ffn_up and ffn_down of a layer come to the same answer, on which the order of act_routed depends.
//
// Invariant (OpContext): the number of rows has no say, and cuBLASLt, whose choice of a kernel follows it, serves none
// of them. The grouped kernels add up in order of k, in as many parts as the shape alone asks for; a tile's width
// changes which outputs are made together and nothing in any one. What they do not take (a bias, odd shapes) is the
// generic path's, which is slow.
#pragma once

#include <string>

#include "kernels/cuda/ops.h"

namespace l4::cuda {

enum class MatmulKernel : uint8_t {
  generic,      // generic.cu: any type, format, shape and alignment
  small_m,      // small_m.cu: at most kSmallM rows, bound by the bytes of the weights
  cublaslt,     // cublas.cu: bfloat16, more rows, one matrix
  fp8,          // FP8 weights and inputs, more rows, one matrix: cublas.cu, or where that has no kernel grouped_fp8.cu
  int4,         // int4.cu: INT4 weights, bfloat16 input, more rows, one matrix
  grouped,      // grouped_ffn.cu: any of these three formats, more rows, the feed-forward stages; invariant: bfloat16
                // linears
  dequantized,  // dequantize.cu, then as bfloat16: weights of other groups and shapes than int4.cu's, and FP8 alone
};
const char* matmul_kernel_name(MatmulKernel);
// Of a feed-forward block, by their names: whether one's ffn_down takes the rows of experts as the other's ffn_up leaves them.
bool have_same_order(const std::string& up, const std::string& down);

constexpr int64_t kSmallM = 16;

MatmulKernel linear_kernel(const LinearSpec&, DType x, int64_t n_rows, bool invariant = false);

// Of a feed-forward block as a whole; 0 where there are no experts.
struct FfnShape {
  int64_t d = 0, f_shared = 0, f_experts = 0, n_experts = 0, top_k = 0;
  int64_t slab = 0;   // of small_m's (small_m_slab), with activations in bfloat16; 0: not its weights
  bool bf16 = false;  // activations and all weights, and no input to be quantised
  bool bias = false;
  // bfloat16 activations, and weights
  bool grouped = false;        // that are bfloat16, FP8 with input that is quantised too, or INT4 as int4.cu takes it
  bool dequantizable = false;  // the same, or such that can become bfloat16
};
FfnShape ffn_shape(const FfnUpArgs&);
FfnShape ffn_shape(const FfnDownArgs&);
MatmulKernel ffn_kernel(const FfnShape&, int64_t n_rows, bool invariant = false);

}  // namespace l4::cuda
