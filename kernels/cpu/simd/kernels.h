// The inner loops that decide the CPU backend's speed, once per instruction set; the best the CPU has is picked at run
// time. Plain C types only (see simd.h). None of them reads or writes outside the ranges stated here.
#pragma once

#include <cstdint>

namespace l4::cpu {

constexpr int kPanel = 32;    // output columns that lie together in a packed weight
constexpr int kMaxRows = 12;  // rows one gemm call takes

struct SimdKernels {
  const char* name;

  // One register tile: c[p][m][j] (+)= sum over i < k of x[i][m] * w[p][i][j], m < rows <= kMaxRows, j < kPanel, for
  // n_panels panels that are panel_stride elements apart in w and c_stride floats apart in c. `first` overwrites c.
  // Every element is one chain of k products in order: its bits depend on neither rows nor n_panels.
  // bf16 panels hold column j < 16 at 2 j and column 16 + j at 2 j + 1, so that one shift and one mask widen 32 of
  // them.
  void (*gemm_f32)(int rows, int n_panels, const float* x, const float* w, int64_t panel_stride, int64_t k, float* c,
                   int64_t c_stride, bool first);
  void (*gemm_bf16)(int rows, int n_panels, const float* x, const uint16_t* w, int64_t panel_stride, int64_t k,
                    float* c, int64_t c_stride, bool first);

  // `rows` rows of 32 codes (panels.h) to the rows of a bf16 panel, which has them exactly.
  void (*expand_fp8)(const uint8_t* codes, int64_t rows, uint16_t* to);
  void (*expand_int4)(const uint8_t* codes, int64_t rows, uint16_t* to);

  // to[m][j] (+)= from[m][j] * scale[j], m < rows, j < kPanel. `first` overwrites.
  void (*add_scaled)(int64_t rows, const float* from, const float* scale, float* to, bool first);

  // One block of attention for `rows` queries that all see the same n_keys keys. q [rows][width], k and v
  // [n_keys rounded up to 4][width], width a multiple of 16 (zero padded; keys beyond n_keys may hold anything), scores: scratch, rows * (n_keys rounded up
  // to 16). State of each row: running maximum m (starts -inf), sum l and acc [width] (start 0), relative to m. The
  // weights exp(s - m) are rounded to bf16 before they multiply v if round_p; l is summed before that.
  void (*attend)(int rows, int n_keys, int width, const float* q, const float* k, const float* v, float scale,
                 bool round_p, float* scores, float* m, float* l, float* acc);

  void (*widen_bf16)(const uint16_t* from, float* to, int64_t n);
  void (*widen_fp8)(const uint8_t* from, float scale, float* to, int64_t n);  // quant/fp8.h's codes, times scale

  // to[i] = z / (1 + e^-z), z = from[i]; `to` may be `from`.
  void (*silu)(const float* from, float* to, int64_t n);

  // to[i] = e^from[i], at most 1 ulp off; `to` may be `from`.
  void (*exp)(const float* from, float* to, int64_t n);
};

const SimdKernels& simd_kernels();  // the best this CPU runs

// One table an instruction set; null where the build or the CPU does not have it. For the dispatcher and for tests.
const SimdKernels* simd_kernels_generic();
const SimdKernels* simd_kernels_avx2();
const SimdKernels* simd_kernels_avx512();

}  // namespace l4::cpu
