#include "ops/weight_slices.h"

#include <algorithm>
#include <vector>

namespace l4 {

void check_slices(const LinearSpec& spec, std::span<const WeightSlice> slices, int64_t k, const char* what,
                  bool codes) {
  const DType code = spec.format == WeightFormat::int4 ? DType::i32 : DType::f8_e4m3;
  int64_t area = 0;
  for (const WeightSlice& s : slices) {
    L4_CHECK(s.expert >= 0 && s.expert < spec.n_experts && s.n >= 0 && s.k >= 0 && s.n_offset >= 0 && s.k_offset >= 0 &&
                 s.n_offset + s.n <= spec.n && s.k_offset + s.k <= k,
             spec.name, ": a ", what, " slice lies outside [", spec.n_experts, ", ", spec.n, ", ", k, "]");
    L4_CHECK(codes ? s.dtype == code : s.dtype == DType::f32 || s.dtype == DType::bf16 || s.dtype == DType::f16, spec.name,
             ": a ", what, " slice is ", dtype_name(s.dtype));
    L4_CHECK(s.dtype != DType::i32 || (s.k % 8 == 0 && s.k_offset % 8 == 0 && s.k_stride == 1), spec.name,
             ": codes that begin within a word");
    area += s.n * s.k;
  }
  L4_CHECK(area == spec.n_experts * spec.n * k, spec.name, ": ", what, " slices have ", area, " elements, wanted ",
           spec.n_experts * spec.n * k);
  std::vector<const WeightSlice*> order;
  for (const WeightSlice& s : slices) order.push_back(&s);
  std::stable_sort(order.begin(), order.end(),
                   [](const WeightSlice* a, const WeightSlice* b) { return a->expert < b->expert; });
  for (size_t i = 0; i < order.size(); ++i)
    for (size_t j = i + 1; j < order.size() && order[j]->expert == order[i]->expert; ++j) {
      const WeightSlice &a = *order[i], &b = *order[j];
      bool apart = a.n_offset + a.n <= b.n_offset || b.n_offset + b.n <= a.n_offset || a.k_offset + a.k <= b.k_offset ||
                   b.k_offset + b.k <= a.k_offset;
      L4_CHECK(apart, spec.name, ": ", what, " slices of expert ", a.expert, " overlap");
    }
}

}  // namespace l4
