#include "model/check_tensors.h"

#include <unordered_set>

#include "base/error.h"
#include "base/strings.h"
#include "model/kv_scales.h"
#include "model/quantization.h"
#include "model/tensor_names.h"

namespace l4 {

namespace {

// One kind of disagreement: how many, and the first few in words.
struct Complaints {
  static constexpr size_t kShown = 4;
  explicit Complaints(const char* what) : kind(what) {}
  const char* kind;
  size_t count = 0;
  std::vector<std::string> first;

  void add(std::string text) {
    if (count++ < kShown) first.push_back(std::move(text));
  }
  std::string str() const {
    return cat(count, " ", kind, " (", join(first, ", "),
               count > first.size() ? cat(" and ", count - first.size(), " more") : "", ")");
  }
};

// Throws when any complaint was made, all kinds in one line.
void report(const ModelConfig& config, const std::string& source, std::initializer_list<const Complaints*> kinds) {
  std::vector<std::string> parts;
  for (const Complaints* c : kinds)
    if (c->count > 0) parts.push_back(c->str());
  if (!parts.empty())
    fail_input(source, ": tensors are not those that ", config.source, " implies: ", join(parts, "; "));
}

// Whether a quantiser may have turned it into codes.
bool is_linear(const ExpectedTensor& t) {
  return t.part != ModelPart::embedding && t.shape.rank() >= 2 &&
         (t.name.ends_with(".weight") || t.part == ModelPart::routed_experts);
}

// Scales of an FP8 cache that the config does not ask for, and of queries, which nobody quantises here.
bool is_cache_scale(std::string_view name) {
  return name.ends_with(".k_scale") || name.ends_with(".v_scale") || name.ends_with(".q_scale");
}

class Checker {
 public:
  Checker(const ModelConfig& config, const HfCheckpoint& checkpoint, const std::optional<Quantization>& quantization)
      : config_(config), checkpoint_(checkpoint), quantization_(quantization) {}

  StoredMap check() {
    StoredMap stored;
    for (const ExpectedTensor& t : expected_tensors(config_)) stored.emplace(t.name, find(t));
    if (quantization_ && quantization_->cache_scales) cache_scales();
    for (const std::string& name : checkpoint_.names())
      if (!used_.contains(name) && !is_harmless_extra(name) && !(quantization_ && is_cache_scale(name)))
        extra_.add(shown(name));
    report(config_, checkpoint_.dir().string(), {&missing_, &extra_, &shape_, &type_});
    return stored;
  }

 private:
  StoredWeight find(const ExpectedTensor& t) {
    if (!quantization_ || !is_linear(t)) return plain(t.name, t.shape);
    if (t.shape.rank() == 2) return linear(t.name, t.shape);
    if (checkpoint_.find(t.name)) return fused(t);
    return apart(t);
  }

  StoredWeight plain(const std::string& name, const Shape& shape) {
    const TensorInfo* info = use(name);
    if (!info) {
      missing_.add(shown(name));
      return {};
    }
    expect_shape(*info, name, {shape});
    if (!held_format(info->dtype)) expect_type(*info, name, "BF16, F16 or F32");
    return info->dtype;
  }

  // [out, in], in whatever form it is there.
  StoredWeight linear(const std::string& name, const Shape& shape) {
    const int64_t out = shape[0], in = shape[1];
    const StoredNames packed = stored_names(name, DType::i32);
    if (const TensorInfo* info = use(packed.weight)) {
      StoredWeight w(DType::i32);
      if (info->dtype != DType::i32) expect_type(*info, packed.weight, "I32");
      if (in % 8 != 0) shape_.add(cat(shown(name), ": ", in, " columns are no multiple of 8"));
      expect_shape(*info, packed.weight, {{out, in / 8}});
      group_scales(w, packed, out, in);
      if (const TensorInfo* words = use(packed.shape)) expect_shape(*words, packed.shape, {{2}});
      return w;
    }
    const TensorInfo* info = checkpoint_.find(name);
    if (!info || info->dtype != DType::f8_e4m3) return plain(name, shape);
    StoredWeight w(DType::f8_e4m3);
    use(name);
    expect_shape(*info, name, {shape});
    const StoredNames names = stored_names(name, w.dtype);
    if (const TensorInfo* scale = scales(names.scale)) {
      const int64_t down = (out + kScaleBlock - 1) / kScaleBlock, across = (in + kScaleBlock - 1) / kScaleBlock;
      const Shape block{down, across};
      expect_shape(*scale, names.scale, {{}, {1}, {out}, {out, 1}, block});
      if (scale->shape.elements() == 1)
        w.scales = StoredWeight::Scales::tensor;
      else if (scale->shape == block && !(scale->shape == Shape{out, 1}))
        w.scales = StoredWeight::Scales::block, w.group = kScaleBlock;
      else
        w.scales = StoredWeight::Scales::row;
    }
    input(w, names);
    return w;
  }

  // ModelOpt: [E, in, out] codes and one scale.
  StoredWeight fused(const ExpectedTensor& t) {
    if (checkpoint_.find(t.name)->dtype != DType::f8_e4m3) return plain(t.name, t.shape);
    StoredWeight w(DType::f8_e4m3);
    expect_shape(*use(t.name), t.name, {t.shape});
    const StoredNames names = stored_names(t.name, w.dtype);
    if (const TensorInfo* scale = scales(names.scale)) expect_shape(*scale, names.scale, {{}, {1}});
    w.scales = StoredWeight::Scales::tensor;
    input(w, names);
    return w;
  }

  // One linear for each expert and projection. They must be stored alike: they are multiplied by one kernel.
  StoredWeight apart(const ExpectedTensor& t) {
    const std::vector<const char*> projections = expert_projections(t.name);
    const int64_t n_experts = t.shape[0], out = t.shape[2] / int64_t(projections.size()), in = t.shape[1];
    std::optional<StoredWeight> first;
    std::string first_name;
    for (int64_t e = 0; e < n_experts; ++e)
      for (const char* projection : projections) {
        const std::string name = expert_weight(t.name, e, projection);
        const StoredWeight w = linear(name, {out, in});
        if (!first) {
          first = w;
          first_name = name;
        } else if (!(*first == w)) {
          type_.add(cat(shown(name), " is stored otherwise than ", shown(first_name)));
        }
      }
    first->experts_apart = true;
    return *first;
  }

  void group_scales(StoredWeight& w, const StoredNames& names, int64_t out, int64_t in) {
    w.scales = StoredWeight::Scales::group;
    w.group = in;
    const TensorInfo* scale = scales(names.scale);
    if (!scale) return;
    const int64_t groups = scale->shape.rank() == 2 ? scale->shape[1] : 0;
    if (groups <= 0 || scale->shape[0] != out || in % groups != 0 || in / groups % 8 != 0) {
      shape_.add(cat(shown(names.scale), " expected [", out, ", groups of a multiple of 8 that divide ", in, "] found ",
                     scale->shape.str()));
      return;
    }
    w.group = in / groups;
    if (const TensorInfo* zeros = use(names.zero_point)) {
      w.zero_points = true;
      if (zeros->dtype != DType::i32) expect_type(*zeros, names.zero_point, "I32");
      expect_shape(*zeros, names.zero_point, {{(out + 7) / 8, groups}});
    }
    if (const TensorInfo* index = use(names.group_index)) {
      w.group_index = true;
      if (index->dtype != DType::i32 && index->dtype != DType::i64) expect_type(*index, names.group_index, "I32 or I64");
      expect_shape(*index, names.group_index, {{in}});
    }
  }

  const TensorInfo* scales(const std::string& name) {
    const TensorInfo* info = use(name);
    if (!info)
      missing_.add(shown(name));
    else if (!held_format(info->dtype))
      expect_type(*info, name, "BF16, F16 or F32");
    return info;
  }

  void input(StoredWeight& w, const StoredNames& names) {
    w.input = quantization_->fp8_input;
    if (w.scales == StoredWeight::Scales::block) w.input = InputFormat::as_is;
    if (const TensorInfo* scale = use(names.input_scale)) {
      w.input_scale = true;
      w.input = InputFormat::fp8_static;
      expect_shape(*scale, names.input_scale, {{}, {1}});
      if (!held_format(scale->dtype)) expect_type(*scale, names.input_scale, "BF16, F16 or F32");
    } else if (w.input == InputFormat::fp8_static) {
      missing_.add(shown(names.input_scale));
    }
  }

  void cache_scales() {
    for (int64_t layer = 0; layer < config_.text.n_layers; ++layer)
      for (const bool is_value : {false, true}) {
        const TensorInfo* info = find_kv_scale(checkpoint_, layer, is_value);
        if (!info) {
          missing_.add(shown(kv_scale_names(layer, is_value).front()));
          continue;
        }
        const std::string name = canonical_tensor_name(info->name);
        used_.insert(name);
        expect_shape(*info, name, {{}, {1}});
        if (!held_format(info->dtype)) expect_type(*info, name, "BF16, F16 or F32");
      }
  }

  const TensorInfo* use(const std::string& name) {
    const TensorInfo* info = checkpoint_.find(name);
    if (info) used_.insert(name);
    return info;
  }
  void expect_shape(const TensorInfo& info, const std::string& name, std::initializer_list<Shape> allowed) {
    std::string list;
    for (const Shape& shape : allowed) {
      if (info.shape == shape) return;
      list += cat(list.empty() ? "" : " or ", shape.str());
    }
    shape_.add(cat(shown(name), " expected ", list, " found ", info.shape.str()));
  }
  void expect_type(const TensorInfo& info, const std::string& name, const char* expected) {
    type_.add(cat(shown(name), " expected ", expected, ", found ", dtype_name(info.dtype)));
  }

  const ModelConfig& config_;
  const HfCheckpoint& checkpoint_;
  const std::optional<Quantization>& quantization_;
  std::unordered_set<std::string> used_;
  Complaints missing_{"missing"}, extra_{"unexpected"}, shape_{"with a wrong shape"}, type_{"of a type that is no weight's"};
};

}  // namespace

StoredMap check_tensors(const ModelConfig& config, const HfCheckpoint& checkpoint) {
  const std::optional<Quantization> quantization = read_quantization(config);
  return Checker(config, checkpoint, quantization).check();
}

void check_tensors(const ModelConfig& config, const CheckpointIndex& index) {
  if (read_quantization(config))
    fail(ErrorKind::unsupported, index.source, ": the index of a quantised checkpoint does not say what its tensors are");
  Complaints missing{"missing"}, extra{"unexpected"};
  std::unordered_set<std::string> known;
  for (const ExpectedTensor& t : expected_tensors(config)) {
    known.insert(t.name);
    if (!index.find(t.name)) missing.add(shown(t.name));
  }
  for (const CheckpointIndex::Entry& e : index.entries)
    if (!known.contains(e.name) && !is_harmless_extra(e.name)) extra.add(shown(e.name));
  report(config, index.source, {&missing, &extra});
}

}  // namespace l4
