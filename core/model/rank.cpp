#include "model/rank.h"

namespace l4 {

void Rank::trace_view(const std::string& name, const View& view) const {
  std::vector<float> values(static_cast<size_t>(view.elements()));
  if (view.dtype == DType::f32) {
    backend.download(values.data(), view);
  } else {
    std::vector<BFloat16> raw(values.size());
    L4_CHECK(view.dtype == DType::bf16);
    backend.download(raw.data(), view);
    for (size_t i = 0; i < raw.size(); ++i) values[i] = to_float(raw[i]);
  }
  (*trace)(name, values, view.shape);
}

}  // namespace l4
