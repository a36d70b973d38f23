#include "model/weight_pieces.h"

#include <cmath>
#include <cstring>

#include "base/error.h"
#include "base/strings.h"
#include "quant/fp8.h"

namespace l4 {

std::vector<WeightPiece> pieces_of(const SlicePlan& s, Range experts, const StoredWeight& stored, int64_t ffn) {
  std::vector<WeightPiece> pieces;
  if (!s.fused_experts) return {{.name = s.tensor, .n = s.n, .k = s.k, .n_offset = s.n_offset}};
  for (int64_t e = experts.begin; e < experts.end; ++e) {
    const int64_t to = e - experts.begin;
    if (!stored.experts_apart) {
      pieces.push_back(
          {.name = s.tensor, .fused = true, .stored_expert = e, .n = s.n, .k = s.k, .expert = to, .n_offset = s.n_offset});
    } else {  // one projection's outputs after another's
      const std::vector<const char*> projections = expert_projections(s.tensor);
      const int64_t width = projections.size() == 1 ? s.n.end : ffn;
      int64_t first = 0;
      for (const char* projection : projections) {
        const Range n{std::max(s.n.begin, first), std::min(s.n.end, first + width)};
        if (n.begin < n.end)
          pieces.push_back({.name = expert_weight(s.tensor, e, projection),
                            .n = {n.begin - first, n.end - first},
                            .k = s.k,
                            .expert = to,
                            .n_offset = s.n_offset + n.begin - s.n.begin});
        first += width;
      }
    }
  }
  return pieces;
}

const TensorInfo& PieceReader::find(const std::string& name) const {
  const TensorInfo* info = checkpoint_.find(name);
  L4_CHECK(info, name);  // check_tensors() has seen to it
  return *info;
}

WeightSlice PieceReader::weight(const WeightPiece& p, const StoredWeight& stored) const {
  const TensorInfo& info = find(stored_names(p.name, stored.dtype).weight);
  const View from = checkpoint_.data(info);
  WeightSlice slice;
  int64_t first;  // element
  if (p.fused) {
    const int64_t k_dim = from.shape[1], n_dim = from.shape[2];
    first = (p.stored_expert * k_dim + p.k.begin) * n_dim + p.n.begin;
    slice.n_stride = 1, slice.k_stride = n_dim;
  } else {
    const int64_t per_element = stored.dtype == DType::i32 ? 8 : 1;
    first = p.n.begin * from.shape[1] + p.k.begin / per_element;
    slice.n_stride = from.shape[1], slice.k_stride = 1;
  }
  slice.data = static_cast<const std::byte*>(from.data) + size_t(first) * dtype_bytes(from.dtype);
  slice.file = &checkpoint_.shard(info).file();
  slice.dtype = from.dtype;
  slice.n = p.n.size(), slice.k = p.k.size();
  slice.expert = p.expert, slice.n_offset = p.n_offset;
  return slice;
}

WeightSlice PieceReader::scale(const WeightPiece& p, const StoredWeight& stored) const {
  const TensorInfo& info = find(stored_names(p.name, stored.dtype).scale);
  const View from = checkpoint_.data(info);
  WeightSlice slice;
  int64_t first = 0;
  slice.k = 1, slice.k_stride = 0;
  switch (stored.scales) {
    case StoredWeight::Scales::tensor:
      break;
    case StoredWeight::Scales::row:
      first = p.n.begin, slice.n_stride = 1;
      break;
    case StoredWeight::Scales::group: {
      const int64_t groups = from.shape[1];
      first = p.n.begin * groups + p.k.begin / stored.group;
      slice.n_stride = groups, slice.k_stride = 1, slice.k = p.k.size() / stored.group;
      break;
    }
    default:
      fail(ErrorKind::internal, p.name, ": no such scales");
  }
  slice.data = static_cast<const std::byte*>(from.data) + size_t(first) * dtype_bytes(from.dtype);
  slice.file = &checkpoint_.shard(info).file();
  slice.dtype = from.dtype;
  slice.n = p.n.size();
  slice.expert = p.expert, slice.n_offset = p.n_offset;
  return slice;
}

std::vector<BFloat16> PieceReader::values(const WeightPiece& p, const StoredWeight& stored) const {
  const StoredNames names = stored_names(p.name, stored.dtype);
  const WeightSlice from = weight(p, stored);
  const View scales = checkpoint_.data(find(names.scale));
  const View zeros = stored.zero_points ? checkpoint_.data(find(names.zero_point)) : View{};
  const View index = stored.group_index ? checkpoint_.data(find(names.group_index)) : View{};
  const int64_t groups = scales.shape.rank() == 2 ? scales.shape[1] : 1;
  auto scale_at = [&](int64_t n, int64_t k) {  // of the whole matrix's element
    int64_t i = 0;
    if (stored.scales == StoredWeight::Scales::row) i = n;
    if (stored.scales == StoredWeight::Scales::block) i = n / kScaleBlock * groups + k / kScaleBlock;
    if (stored.scales == StoredWeight::Scales::group) {
      int64_t group = k / stored.group;
      if (stored.group_index) {
        group = index.dtype == DType::i32 ? index.i32()[k] : static_cast<const int64_t*>(index.data)[k];
        if (group < 0 || group >= groups)
          fail_input(checkpoint_.dir().string(), ": ", shown(names.group_index), ": column ", k, " belongs to group ", group,
                     " of ", groups);
      }
      i = n * groups + group;
    }
    const float scale = stored_number(scales, i);
    if (!std::isfinite(scale) || scale == 0)
      fail_input(checkpoint_.dir().string(), ": ", shown(names.scale), ": row ", n, ": a scale of ", scale);
    return std::pair(scale, i % groups);
  };
  std::vector<BFloat16> out(size_t(p.n.size() * p.k.size()));
  // A scale is looked up where it may change: at the multiples of 8 columns.
  const int64_t run = stored.group_index ? 1 : 8;
  for (int64_t i = 0; i < p.n.size(); ++i) {
    const int64_t n = p.n.begin + i;
    for (int64_t j0 = 0; j0 < p.k.size(); j0 += run) {
      const auto [scale, group] = scale_at(n, p.k.begin + j0);
      int64_t zero = 8;
      if (stored.zero_points) {
        zero = uint32_t(zeros.i32()[n / 8 * groups + group]) >> (n % 8 * 4) & 15;
      }
      for (int64_t j = j0; j < std::min(j0 + run, p.k.size()); ++j) {
        float code;
        if (stored.dtype == DType::i32)
          code = float(int64_t(static_cast<const uint32_t*>(from.data)[i * from.n_stride + j / 8] >> (j % 8 * 4) & 15) - zero);
        else
          code = fp8_to_float(static_cast<const uint8_t*>(from.data)[i * from.n_stride + j * from.k_stride]);
        out[size_t(i * p.k.size() + j)] = to_bf16(code * scale);
      }
    }
  }
  return out;
}

float PieceReader::input_scale(const WeightPiece& p, const StoredWeight& stored) const {
  const std::string name = stored_names(p.name, stored.dtype).input_scale;
  const float scale = stored_number(checkpoint_.data(find(name)), 0);
  if (!(scale > 0) || !std::isfinite(scale))
    fail_input(checkpoint_.dir().string(), ": ", shown(name), ": an input scale of ", scale);
  return scale;
}

void PieceReader::check_shape(const WeightPiece& p, const StoredWeight& stored) const {
  if (stored.dtype != DType::i32) return;
  const StoredNames names = stored_names(p.name, stored.dtype);
  const TensorInfo* said = checkpoint_.find(names.shape);
  if (!said) return;
  if (said->dtype != DType::i64 && said->dtype != DType::i32)
    fail_input(checkpoint_.dir().string(), ": ", shown(names.shape), ": expected I64, found ", dtype_name(said->dtype));
  const View view = checkpoint_.data(*said);
  auto at = [&](int i) { return said->dtype == DType::i64 ? static_cast<const int64_t*>(view.data)[i] : view.i32()[i]; };
  const Shape& packed = find(names.weight).shape;
  if (at(0) != packed[0] || at(1) != packed[1] * 8)
    fail_input(checkpoint_.dir().string(), ": ", shown(names.shape), ": says [", at(0), ", ", at(1), "], and ",
               shown(names.weight), " has [", packed[0], ", ", packed[1] * 8, "]");
}

}  // namespace l4
