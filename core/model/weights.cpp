#include "model/weights.h"

#include <algorithm>
#include <deque>

#include "model/weight_pieces.h"
#include "model/weight_walk.h"

namespace l4 {

namespace {

constexpr const char* kText = "language_model.model.";

class Planner {
 public:
  Planner(const ModelConfig& config, const ShardPlan& shard, DType activation, const StoredWeights& stored)
      : config_(config), shard_(shard), activation_(activation), stored_(stored) {}

  WeightPlan plan() {
    const TextConfig& text = config_.text;
    WeightPlan p;
    const std::string embedding = cat(kText, "embed_tokens.weight");
    if (shard_.first_stage()) p.embedding = rows_of(embedding, shard_.vocab, text.hidden);
    for (int64_t l = shard_.layers.begin; l < shard_.layers.end; ++l) p.layers.push_back(layer(l));
    if (shard_.last_stage()) {
      p.final_norm = whole(cat(kText, "norm.weight"), {text.hidden});
      p.lm_head =
          linear(text.tied_embeddings ? embedding : "language_model.lm_head.weight", shard_.vocab, {0, text.hidden});
    }
    if (config_.vision && shard_.first_stage()) vision(p);
    return p;
  }

 private:
  using Layer = LayerWeightsOf<TensorPlan, LinearPlan>;

  TensorPlan whole(const std::string& tensor, Shape shape) { return {tensor, shape, {0, shape[0]}}; }
  TensorPlan rows_of(const std::string& tensor, Range rows, int64_t cols) {
    return {tensor, {rows.size(), cols}, rows};
  }

  enum class Codes : bool { kept, widened };  // of quantised weights

  // How a tensor is held, of which a rank takes columns k.
  void set_format(LinearSpec& spec, const std::string& tensor, Range k, Codes codes) const {
    const StoredWeight stored = stored_(tensor);
    spec.format = stored.held(activation_);
    if (is_quantized(spec.format) && codes == Codes::widened) spec.format = WeightFormat::bf16;
    if (!is_quantized(spec.format)) return;
    spec.input = stored.input;
    if (spec.format != WeightFormat::int4) return;
    spec.group = stored.group;
    if (k.begin % stored.group != 0 || k.end % stored.group != 0)
      fail(ErrorKind::unsupported, spec.name, ": columns ", k.begin, " to ", k.end, " of rank ", shard_.rank,
           " do not begin and end with groups of ", stored.group, "; split it among fewer ranks");
  }

  // One [out, in] tensor: output range n, input range k.
  LinearPlan linear(const std::string& tensor, Range n, Range k, const std::string& bias = "", Codes codes = Codes::kept) {
    LinearPlan p;
    p.spec = {.name = tensor, .n = n.size(), .k = k.size(), .bias = !bias.empty()};
    set_format(p.spec, tensor, k, codes);
    p.weight.push_back({tensor, n, k, 0, false});
    if (!bias.empty()) p.bias.push_back({bias, n, {0, 1}, 0, false});
    return p;
  }

  void append(LinearPlan& p, const std::string& tensor, Range n, Range k, const std::string& bias = "",
              Codes codes = Codes::kept) {
    LinearSpec alone = p.spec;
    alone.group = 0, alone.input = InputFormat::as_is;
    set_format(alone, tensor, k, codes);
    // Not stored alike: the wider of two unquantised types, as it always was, or BF16.
    if (alone.format != p.spec.format || alone.group != p.spec.group || alone.input != p.spec.input) {
      const bool quantized = is_quantized(alone.format) || is_quantized(p.spec.format);
      if (quantized) p.spec.format = WeightFormat::bf16;
      p.spec.group = 0, p.spec.input = InputFormat::as_is;
    }
    p.weight.push_back({tensor, n, k, p.spec.n, false});
    if (!bias.empty()) p.bias.push_back({bias, n, {0, 1}, p.spec.n, false});
    p.spec.n += n.size();
  }

  Layer layer(int64_t l) {
    const TextConfig& text = config_.text;
    const LayerConfig& kind = text.layers[size_t(l)];
    const std::string base = cat(kText, "layers.", l, ".");
    const std::string attention = base + "self_attn.", ffn = base + "feed_forward.";
    const Range hidden{0, text.hidden};
    auto head_rows = [&](Range heads) { return Range{heads.begin * text.head_dim, heads.end * text.head_dim}; };
    auto bias = [&](const char* name) { return text.attention_bias ? attention + name + ".bias" : std::string(); };

    Layer p;
    p.input_norm = whole(base + "input_layernorm.weight", {text.hidden});
    p.post_norm = whole(base + "post_attention_layernorm.weight", {text.hidden});
    p.qkv = linear(attention + "q_proj.weight", head_rows(shard_.heads), hidden, bias("q_proj"));
    append(p.qkv, attention + "k_proj.weight", head_rows(shard_.kv_heads), hidden, bias("k_proj"));
    append(p.qkv, attention + "v_proj.weight", head_rows(shard_.kv_heads), hidden, bias("v_proj"));
    // A row-parallel linear's bias belongs to the sum, so one rank of the group adds it.
    p.o = linear(attention + "o_proj.weight", hidden, head_rows(shard_.heads),
                 shard_.tp_rank == 0 ? bias("o_proj") : std::string());

    const std::string mlp = kind.moe ? ffn + "shared_expert." : ffn;
    const Range columns = kind.moe ? shard_.ffn : shard_.dense_ffn;
    p.shared_up = linear(mlp + "gate_proj.weight", columns, hidden);
    append(p.shared_up, mlp + "up_proj.weight", columns, hidden);
    p.shared_up.spec.gated = true;
    p.shared_down = linear(mlp + "down_proj.weight", hidden, columns);
    if (!kind.moe) return p;

    p.router = linear(ffn + "router.weight", {0, text.n_experts}, hidden, "", Codes::widened);
    const std::string gate_up = ffn + "experts.gate_up_proj", down = ffn + "experts.down_proj";
    const Range e = shard_.expert_ffn;
    p.experts_up.experts = p.experts_down.experts = shard_.experts;
    p.experts_up.spec = {
        .name = gate_up, .n = 2 * e.size(), .k = text.hidden, .n_experts = shard_.experts.size(), .gated = true};
    set_format(p.experts_up.spec, gate_up, hidden, Codes::kept);
    if (e.size() == text.ffn)  // gate is the first half of the last axis, up the second
      p.experts_up.weight = {{gate_up, {0, 2 * text.ffn}, hidden, 0, true}};
    else
      p.experts_up.weight = {{gate_up, e, hidden, 0, true},
                             {gate_up, {text.ffn + e.begin, text.ffn + e.end}, hidden, e.size(), true}};
    p.experts_down.spec = {.name = down, .n = text.hidden, .k = e.size(), .n_experts = shard_.experts.size()};
    set_format(p.experts_down.spec, down, e, Codes::kept);
    p.experts_down.weight = {{down, hidden, e, 0, true}};
    return p;
  }

  void vision(WeightPlan& p) {
    const VisionConfig& v = *config_.vision;
    const std::string base = "vision_model.";
    const Range hidden{0, v.hidden}, ffn{0, v.ffn};
    p.class_embedding = whole(base + "class_embedding", {v.hidden});
    p.position_embedding = whole(base + "positional_embedding_vlm", {v.patches() + 1, v.hidden});
    p.pre_weight = whole(base + "layernorm_pre.weight", {v.hidden});
    p.pre_bias = whole(base + "layernorm_pre.bias", {v.hidden});
    p.post_weight = whole(base + "layernorm_post.weight", {v.hidden});
    p.post_bias = whole(base + "layernorm_post.bias", {v.hidden});
    auto widened = [&](const std::string& name, Range n, Range k, const std::string& bias = "") {
      return linear(name, n, k, bias, Codes::widened);
    };
    p.patch = widened(base + "patch_embedding.linear.weight", hidden, {0, v.n_channels * v.patch_size * v.patch_size});
    p.adapter1 = widened(base + "vision_adapter.mlp.fc1.weight", {0, v.projector_in}, ffn);
    p.adapter2 = widened(base + "vision_adapter.mlp.fc2.weight", {0, v.projector_out}, {0, v.projector_in});
    p.projector = widened("multi_modal_projector.linear_1.weight", {0, config_.text.hidden}, {0, v.output});
    for (int64_t l = 0; l < v.n_layers; ++l) {
      const std::string layer = cat(base, "model.layers.", l, ".");
      auto biased = [&](const std::string& name, Range n, Range k) {
        return widened(layer + name + ".weight", n, k, layer + name + ".bias");
      };
      VisionLayerWeightsOf<TensorPlan, LinearPlan> w;
      w.norm1_weight = whole(layer + "input_layernorm.weight", {v.hidden});
      w.norm1_bias = whole(layer + "input_layernorm.bias", {v.hidden});
      w.norm2_weight = whole(layer + "post_attention_layernorm.weight", {v.hidden});
      w.norm2_bias = whole(layer + "post_attention_layernorm.bias", {v.hidden});
      w.qkv = biased("self_attn.q_proj", hidden, hidden);
      for (const char* name : {"self_attn.k_proj", "self_attn.v_proj"})
        append(w.qkv, layer + name + ".weight", hidden, hidden, layer + name + ".bias", Codes::widened);
      w.o = biased("self_attn.o_proj", hidden, hidden);
      w.fc1 = biased("mlp.fc1", ffn, hidden);
      w.fc2 = biased("mlp.fc2", hidden, ffn);
      p.vision_layers.push_back(std::move(w));
    }
  }

  const ModelConfig& config_;
  const ShardPlan& shard_;
  const DType activation_;
  const StoredWeights& stored_;
};

uint64_t source_bytes_of(const SlicePlan& s, const LinearPlan& p, const StoredWeights& stored) {
  const int64_t experts = s.fused_experts ? p.experts.size() : 1;
  return uint64_t(experts) * stored(s.tensor).bytes(s.n.size(), s.k.size());
}

class Loader {
 public:
  Loader(const HfCheckpoint& checkpoint, const StoredWeights& stored, Backend& backend, DType activation,
         const std::function<void(uint64_t)>& on_bytes)
      : checkpoint_(checkpoint),
        stored_(stored),
        pieces_(checkpoint),
        backend_(backend),
        activation_(activation),
        on_bytes_(on_bytes) {}

  void operator()(const char*, const TensorPlan& plan, Tensor& into) {
    if (plan.tensor.empty()) return;
    const Source source = find(plan.tensor);
    const View from = source.view.slice(plan.rows.begin, plan.rows.size());
    L4_CHECK(from.elements() == plan.shape.elements(), plan.tensor);
    into.view = {nullptr, activation_, plan.shape};
    into.buffer = backend_.allocate(into.view.bytes(), plan.tensor.c_str());
    into.view.data = into.buffer.data();
    if (from.dtype == activation_) {
      backend_.load(into.view, from.data, *source.file);
    } else {
      std::vector<float> values = to_floats(from);
      if (activation_ == DType::f32) {
        backend_.upload(into.view, values.data());
      } else {
        std::vector<BFloat16> rounded;
        for (float v : values) rounded.push_back(to_bf16(v));
        backend_.upload(into.view, rounded.data());
      }
    }
    on_bytes_(from.bytes());
  }

  void operator()(const char*, const LinearPlan& plan, PackedWeight& into) {
    if (plan.spec.n == 0) return;
    LinearSpec spec = plan.spec;
    std::vector<WeightSlice> weight, scale, bias;
    std::deque<std::vector<BFloat16>> widened;  // until pack() returns: it has no file to read later
    uint64_t bytes = 0;
    // The backend takes codes of all or of none.
    const bool codes = is_quantized(spec.format) && std::all_of(plan.weight.begin(), plan.weight.end(), [&](const SlicePlan& s) {
                         const StoredWeight stored = stored_(s.tensor);
                         return stored.is_quantized() && stored.held(activation_) == spec.format;
                       });
    for (const SlicePlan& s : plan.weight) {
      const StoredWeight stored = stored_(s.tensor);
      for (const WeightPiece& piece : pieces_of(s, plan.experts, stored, ffn_of(plan))) {
        pieces_.check_shape(piece, stored);
        weight.push_back(pieces_.weight(piece, stored));
        if (codes) {
          scale.push_back(pieces_.scale(piece, stored));
          if (stored.input_scale) spec.input_scale = std::max(spec.input_scale, pieces_.input_scale(piece, stored));
        } else if (stored.is_quantized()) {
          WeightSlice& slice = weight.back();
          slice.data = widened.emplace_back(pieces_.values(piece, stored)).data();
          slice.file = nullptr;
          slice.dtype = DType::bf16;
          slice.n_stride = slice.k, slice.k_stride = 1;
        }
      }
      bytes += source_bytes_of(s, plan, stored_);
    }
    for (const SlicePlan& s : plan.bias) {
      const Source source = find(s.tensor);
      WeightSlice& slice = bias.emplace_back();
      slice.data = static_cast<const std::byte*>(source.view.data) + size_t(s.n.begin) * dtype_bytes(source.view.dtype);
      slice.file = source.file;
      slice.dtype = source.view.dtype;
      slice.n = s.n.size(), slice.k = 1;
      slice.n_stride = 1, slice.k_stride = 1;
      slice.n_offset = s.n_offset;
      bytes += uint64_t(s.n.size()) * dtype_bytes(source.view.dtype);
    }
    into = backend_.pack(spec, weight, bias, scale);
    on_bytes_(bytes);
  }

 private:
  struct Source {
    View view;  // in the map of:
    const MappedFile* file;
  };
  Source find(const std::string& name) {
    const TensorInfo* info = checkpoint_.find(name);
    L4_CHECK(info, name);  // check_tensors() has seen to it
    return {checkpoint_.data(*info), &checkpoint_.shard(*info).file()};
  }

  // Outputs of gate_up_proj that are the gate's.
  int64_t ffn_of(const LinearPlan& plan) const {
    if (plan.weight.empty() || !plan.weight[0].fused_experts) return 0;
    const TensorInfo* gate = checkpoint_.find(
        stored_names(expert_weight(plan.weight[0].tensor, 0, "gate_proj"), stored_(plan.weight[0].tensor).dtype).weight);
    return gate ? gate->shape[0] : 0;
  }

  static std::vector<float> to_floats(const View& from) {
    std::vector<float> out(static_cast<size_t>(from.elements()));
    for (size_t i = 0; i < out.size(); ++i) out[i] = stored_number(from, int64_t(i));
    return out;
  }

  const HfCheckpoint& checkpoint_;
  const StoredWeights& stored_;
  const PieceReader pieces_;
  Backend& backend_;
  const DType activation_;
  const std::function<void(uint64_t)>& on_bytes_;
};

}  // namespace

WeightPlan plan_weights(const ModelConfig& config, const ShardPlan& shard, DType activation,
                        const StoredWeights& stored) {
  return Planner(config, shard, activation, stored).plan();
}

std::vector<PartBytes> weight_bytes_by_part(const WeightPlan& plan, DType activation) {
  std::vector<PartBytes> parts;
  auto add = [&](const char* part, uint64_t bytes) {
    if (bytes == 0) return;
    for (PartBytes& p : parts)
      if (p.part == part) {
        p.bytes += bytes;
        return;
      }
    parts.push_back({part, bytes});
  };
  for_each_weight(plan, plan, [&]<class Plan>(const char* part, const Plan& p, const Plan&) {
    if constexpr (std::is_same_v<Plan, TensorPlan>)
      add(part, p.tensor.empty() ? 0 : uint64_t(p.shape.elements()) * dtype_bytes(activation));
    else
      add(part, uint64_t(p.spec.n_experts) * weight_bytes(p.spec.format, p.spec.n, p.spec.k, p.spec.group) +
                    (p.spec.bias ? uint64_t(p.spec.n) * dtype_bytes(activation) : 0));
  });
  return parts;
}

uint64_t source_bytes(const WeightPlan& plan, const StoredWeights& stored) {
  uint64_t bytes = 0;
  for_each_weight(plan, plan, [&]<class Plan>(const char*, const Plan& p, const Plan&) {
    if constexpr (std::is_same_v<Plan, TensorPlan>) {
      if (!p.tensor.empty()) bytes += uint64_t(p.shape.elements()) * dtype_bytes(stored(p.tensor).dtype);
    } else {
      for (const SlicePlan& s : p.weight) bytes += source_bytes_of(s, p, stored);
      for (const SlicePlan& s : p.bias) bytes += source_bytes_of(s, p, stored);
    }
  });
  return bytes;
}

Weights shapes_of(const WeightPlan& plan, DType activation) {
  Weights weights = empty_weights(plan);
  for_each_weight(plan, weights, [&]<class Plan, class Loaded>(const char*, const Plan& p, Loaded& into) {
    if constexpr (std::is_same_v<Plan, TensorPlan>)
      into.view = {nullptr, activation, p.shape};
    else
      into.spec = p.spec;
  });
  return weights;
}

Weights load_weights(const WeightPlan& plan, const HfCheckpoint& checkpoint, const StoredWeights& stored, Backend& backend,
                     DType activation, const std::function<void(uint64_t)>& on_bytes) {
  Weights weights = empty_weights(plan);
  for_each_weight(plan, weights, Loader(checkpoint, stored, backend, activation, on_bytes));
  backend.finish_loading();
  return weights;
}

}  // namespace l4
