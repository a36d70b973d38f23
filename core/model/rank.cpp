#include "model/rank.h"

#include <algorithm>

namespace l4 {

void Rank::trace_view(const std::string& name, const View& view) const {
  std::vector<float> values(static_cast<size_t>(view.elements()));
  if (view.dtype == DType::f32) {
    backend.download(values.data(), view);
  } else if (view.dtype == DType::i32) {
    std::vector<int32_t> raw(values.size());
    backend.download(raw.data(), view);
    std::copy(raw.begin(), raw.end(), values.begin());
  } else {
    std::vector<BFloat16> raw(values.size());
    L4_CHECK(view.dtype == DType::bf16);
    backend.download(raw.data(), view);
    for (size_t i = 0; i < raw.size(); ++i) values[i] = to_float(raw[i]);
  }
  trace->sink(name, values, view.shape);
}

}  // namespace l4
