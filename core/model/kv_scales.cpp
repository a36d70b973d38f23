#include "model/kv_scales.h"

#include "base/error.h"
#include "base/strings.h"
#include "model/weight_pieces.h"

namespace l4 {

std::vector<std::string> kv_scale_names(int64_t layer, bool is_value) {
  const std::string attention = cat("language_model.model.layers.", layer, ".self_attn.");
  const char* side = is_value ? "v" : "k";
  return {cat(attention, side, "_scale"), cat(attention, side, "_proj.", side, "_scale"),
          cat(attention, side, "_proj.output_scale")};
}

const TensorInfo* find_kv_scale(const HfCheckpoint& checkpoint, int64_t layer, bool is_value) {
  for (const std::string& name : kv_scale_names(layer, is_value))
    if (const TensorInfo* info = checkpoint.find(name)) return info;
  return nullptr;
}

std::vector<KvScales> load_kv_scales(const HfCheckpoint& checkpoint, Range layers) {
  auto load = [&](int64_t layer, bool is_value) {
    const TensorInfo* info = find_kv_scale(checkpoint, layer, is_value);
    L4_CHECK(info, layer);  // check_tensors() has seen to it
    const float scale = stored_number(checkpoint.data(*info), 0);
    if (!(scale >= kLeastKvScale && scale <= kMostKvScale))
      fail_input(checkpoint.dir().string(), ": ", shown(info->name), ": a scale of ", scale, " for ",
                 is_value ? "values" : "keys", ", expected a positive number from ", kLeastKvScale, " to ", kMostKvScale);
    return scale;
  };
  std::vector<KvScales> scales;
  for (int64_t layer = layers.begin; layer < layers.end; ++layer) scales.push_back({load(layer, false), load(layer, true)});
  return scales;
}

}  // namespace l4
