// What pack.cu reads, and what becomes of it: a value or a code and its place in the model and in the packed weight.
#pragma once

#include "kernels/cuda/device/math.h"
#include "kernels/cuda/weight_defects.h"
#include "kernels/cuda/weight_layout.h"
#include "quant/fp8.h"

namespace l4::cuda::packing {

// ---- what is read

struct F16 {
  uint16_t bits;
};
// Exact; by shifts, so that no header of half arithmetic is needed.
__device__ inline float get(F16 v) {
  const uint32_t sign = uint32_t(v.bits & 0x8000u) << 16, magnitude = v.bits & 0x7FFFu;
  constexpr float kSubnormal = 1.0f / (1 << 24);
  if (magnitude < 0x0400u) return __uint_as_float(__float_as_uint(float(magnitude) * kSubnormal) | sign);
  const uint32_t exponent = magnitude >= 0x7C00u ? 0x70000000u : 0x38000000u;  // infinity and NaN keep all ones
  return __uint_as_float(((magnitude << 13) + exponent) | sign);
}
using cuda::get;
// Codes are moved as they are.
__device__ inline uint8_t get(uint8_t fp8) {
  return fp8;
}
__device__ inline uint32_t get(uint32_t word_of_int4) {
  return word_of_int4;
}
template <class From>
using Moved = decltype(get(From{}));

// ---- what is stored, all of one expert

// Of a value: where it lies, and as the model counts. Column: of weights, words of int4, groups.
struct Place {
  int64_t packed_row, row, column;
};

struct Notes {
  DefectNotes of_weight;
  int64_t first_row;
  __device__ void note(int64_t row, bool is_code, int64_t position) const {
    atomicMin(of_weight.first, static_cast<unsigned long long>(of_weight.place(first_row + row, is_code, position)));
  }
  __device__ void check_scale(float scale, int64_t row, int64_t group) const {
    if (!(fabsf(scale) < INFINITY) || scale == 0) note(row, false, group);
  }
};

template <class To>
struct StoreValue {
  To* to;
  int64_t k;
  __device__ void operator()(const Place& at, float v) const { to[at.packed_row * k + at.column] = rounded<To>(v); }
};
struct StoreFp8 {
  uint8_t* to;
  int64_t k;
  Notes notes;
  __device__ void operator()(const Place& at, uint8_t code) const {
    if ((code & 0x7F) == 0x7F) notes.note(at.row, true, at.column);
    to[at.packed_row * k + at.column] = code;
  }
};
struct MakeFp8 {
  StoreFp8 store;
  const float* scales;
  __device__ void operator()(const Place& at, float v) const { store(at, fp8_from_float(v / scales[at.packed_row])); }
};
struct StoreInt4 {
  uint32_t* to;
  int64_t k;  // codes
  __device__ void operator()(const Place& at, uint32_t word) const {
    to[at.packed_row * (k / 8) + word_at(at.column, k)] = packed_word(word);
  }
};
struct StoreRowScale {
  float* to;
  Notes notes;
  __device__ void operator()(const Place& at, float scale) const {
    notes.check_scale(scale, at.row, 0);
    to[at.packed_row] = scale;
  }
};
struct StoreGroupScale {
  bf16* to;
  int64_t n_groups;
  Notes notes;
  __device__ void operator()(const Place& at, float stored) const {
    const float scale = round_to<bf16>(stored);
    notes.check_scale(scale, at.row, at.column);
    to[group_scale_at(at.packed_row, at.column, n_groups)] = rounded<bf16>(scale);
  }
};

}  // namespace l4::cuda::packing
