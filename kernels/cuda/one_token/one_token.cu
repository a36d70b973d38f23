#include "kernels/cuda/one_token/one_token.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#include "kernels/cuda/attention/choose.h"
#include "kernels/cuda/attention/fragments.h"
#include "kernels/cuda/attention/kernels.h"
#include "kernels/cuda/matmul/small_m_kernel.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/one_token/attend.h"
#include "kernels/cuda/one_token/start.h"
#include "kernels/cuda/peer_comm.h"
#include "kernels/cuda/tensor_map.h"
#include "kernels/cuda/weight_layout.h"

namespace l4::cuda {

using namespace one_token;

namespace {
constexpr int64_t kMostLayers = 128;

// What the kernel multiplies by.
bool has_weights(const PackedWeight& w) {
  const LinearSpec& s = w.spec;
  const int64_t slab = small_m_slab(s);
  const bool codes = s.format == WeightFormat::fp8 || (s.format == WeightFormat::int4 && s.group == kGroup);
  return codes && slab > 0 && s.k % slab == 0 && !s.bias && s.n % 16 == 0 && (!s.gated || interleaves_gate_up(s));
}
bool is_fp8(const PackedWeight& w) {
  return w.spec.format == WeightFormat::fp8;
}
bool same_format(const PackedWeight& a, const PackedWeight& b) {
  return a.spec.format == b.spec.format;
}
// A layer's keys or values as the copy engine takes them: [pages][halves of a row][tokens of all heads][128 bytes].
CUtensorMap pages_map(const KvLayer& kv, int64_t offset) {
  const KvLayout& l = kv.layout;
  const bool codes = l.dtype == DType::f8_e4m3;
  const int64_t row_bytes = codes ? Fp8Unit::kRowBytes : Bf16Unit::kRowBytes;
  const int64_t halves = codes ? Fp8Unit::kHalves : Bf16Unit::kHalves, keys = codes ? Fp8Unit::kKeys : Bf16Unit::kKeys;
  constexpr int64_t kAnyNumber = int64_t(1) << 30;  // of pages
  return tensor_map(static_cast<const std::byte*>(kv.base) + offset, DType::u8,
                    {{128, l.n_kv_heads * l.page_tokens, halves, kAnyNumber}}, {{row_bytes, 128, kv.page_stride}},
                    {{128, keys, halves, 1}}, Swizzle::bytes128);
}
// What a product must know of a weight, by the weight's own format.
template <class Weights>
void put(const PackedWeight& w, Matrix& matrix, CUtensorMap& map, CUtensorMap& scales, float& x_scale) {
  using V = Variant<Weights>;
  matrix = small_m::matrix<V>(w);
  const CUtensorMap slabs = small_m::slabs<V>(w);
  map = slabs;
  if constexpr (V::Weights::kGroups) {
    const int64_t blocks = w.spec.n_experts * w.spec.n / 16, block_bytes = matrix.groups * 16 * int64_t(sizeof(bf16));
    const CUtensorMap of_groups = tensor_map(w.scales.data(), DType::u8, {{block_bytes, blocks}}, {{block_bytes}},
                                             {{kScaleBytes / V::kTileBlocks, V::kTileBlocks}}, Swizzle::none);
    scales = of_groups;
  }
  x_scale = small_m::input_scale(w.spec);
}
Product product(const PackedWeight& shared, const PackedWeight* routed) {
  auto put_weight = [](const PackedWeight& w) { return is_fp8(w) ? put<small_m::Fp8One> : put<small_m::Int4One>; };
  Product p;
  put_weight(shared)(shared, p.shared, p.shared_map, p.shared_scales, p.x_scale);
  if (routed) put_weight (*routed)(*routed, p.routed, p.routed_map, p.routed_scales, p.x_routed_scale);
  return p;
}
// Whether every block has an item, and tiles are in few enough parts.
bool deal(Product& p, const Deal& deal, int n_blocks) {
  p.deal = deal;
  for (int block = 0; block < n_blocks; ++block) {
    Items items(deal, block, n_blocks);
    Item i;
    int n = 0;
    while (items.next(i)) {
      ++n;
      p.deal.parts = std::max(p.deal.parts, i.part + 1);
    }
    if (n == 0) return false;
  }
  return p.deal.parts <= kMostParts;
}
}  // namespace

struct OneToken::Plan {
  Program program;
  bool fp8_attention = false, fp8_ffn = false, fp8_cache = false;
};

std::atomic<int64_t> g_one_token_launches = 0;

OneToken::~OneToken() = default;

OneToken::OneToken(Gpu& gpu)
    : gpu_(gpu),
      memory_(device_buffer(sizeof(Memory), "steps of one token")),
      layers_(device_buffer(size_t(kMostLayers) * sizeof(Layer), "steps of one token")),
      parts_(device_buffer(2 * size_t(gpu.n_sms) * sizeof(Part), "steps of one token")),
      plan_(std::make_unique<Plan>()) {
  auto empty = [&](const Buffer& words) {
    const std::vector<uint32_t> none(words.bytes() / sizeof(uint32_t), kNotThere);
    L4_CUDA(
        cudaMemcpyAsync(words.data(), none.data(), none.size() * sizeof(uint32_t), cudaMemcpyHostToDevice, gpu.stream));
    L4_CUDA(cudaStreamSynchronize(gpu.stream));
  };
  empty(memory_), empty(parts_);
  gpu.one_token = memory_.data();
}

// ---- notes ----------------------------------------------------------------------------------------------------------

// Of the number-th stage of a layer, which is noted.
template <class Args>
bool OneToken::takes(const Args& args, int number, Args LayerStages::*to) {
  if (state_ != State::noting) return launched();
  std::vector<LayerStages>& layers = stages_.layers;
  if (number == 0) layers.emplace_back();
  if (layers.empty() || layers.back().seen != number) {
    stages_.in_order = false;
  } else {
    layers.back().*to = args;
    ++layers.back().seen;
  }
  return false;
}

bool OneToken::takes(const NormArgs& args) {
  if (state_ == State::noting) {
    if (args.out_rows) return false;
    stages_.in_order = stages_.in_order && !stages_.norm && stages_.layers.empty();
    stages_.norm = args;
  }
  return launched() && !args.out_rows;
}
bool OneToken::takes(const QkvArgs& args) {
  if (state_ == State::first) {
    launch();
    state_ = State::rest;
  }
  return takes(args, 0, &LayerStages::qkv);
}
bool OneToken::takes(const AttentionArgs& args) {
  return takes(args, 1, &LayerStages::attention);
}
bool OneToken::takes(const AttnOutArgs& args) {
  return takes(args, 2, &LayerStages::o);
}
bool OneToken::takes(const FfnUpArgs& args) {
  return takes(args, 3, &LayerStages::up);
}
bool OneToken::takes(const FfnDownArgs& args) {
  return takes(args, 4, &LayerStages::down);
}
bool OneToken::takes_experts_in_turn() {
  if (state_ == State::noting && !stages_.layers.empty()) stages_.layers.back().experts_in_turn = true;
  return launched();
}

bool OneToken::is_one_launch() {
  if (!make_plan()) return false;
  state_ = State::first;
  ++g_one_token_launches;
  return true;
}

// ---- the plan -------------------------------------------------------------------------------------------------------

bool OneToken::make_plan() {
  const std::vector<LayerStages>& all = stages_.layers;
  if (!stages_.in_order || !stages_.norm || all.empty() || int64_t(all.size()) > kMostLayers) return false;
  const View x = stages_.norm->x;
  const int64_t width = x.cols();
  if (x.dtype != DType::bf16 || x.rows() != 1 || width > kMostWidth || width % 8 != 0) return false;
  const LayerStages &first = all.front(), &last = all.back();
  std::vector<Layer> layers;
  *plan_ = {};
  Program& p = plan_->program;
  for (size_t l = 0; l < all.size(); ++l) {
    const LayerStages& s = all[l];
    if (s.seen != 5 || s.o.x.data != x.data || s.down.x.data != x.data) return false;
    if (!same_format(*s.qkv.w, *first.qkv.w) || !same_format(*s.up.shared, *first.up.shared)) return false;
    const View norm = l == 0 ? stages_.norm->norm_weight : all[l - 1].down.norm_weight;
    const float eps = l == 0 ? stages_.norm->norm_eps : all[l - 1].down.norm_eps;
    Layer layer;
    if (!norm || !plan_layer(s, norm, eps, layer)) return false;
    if (s.qkv.inv_freq) {
      const float* of = s.qkv.inv_freq.f32();
      const bool unset = std::all_of(std::begin(p.inv_freq), std::end(p.inv_freq), [](float f) { return f == 0; });
      if (s.qkv.inv_freq.elements() != kHd / 2) return false;
      if (unset) std::copy_n(of, kHd / 2, p.inv_freq);
      if (!std::equal(of, of + kHd / 2, p.inv_freq)) return false;
    }
    layers.push_back(layer);
  }
  plan_->fp8_attention = is_fp8(*first.qkv.w), plan_->fp8_ffn = is_fp8(*first.up.shared);
  if (!plan_->fp8_attention && plan_->fp8_ffn) return false;
  plan_->fp8_cache = first.qkv.kv.layout.dtype == DType::f8_e4m3;

  p.rank = first.o.comm->rank(), p.ranks = first.o.comm->size();
  if (p.ranks == 1) {
    p.memory[0] = static_cast<Memory*>(gpu_.one_token);
  } else {
    const std::optional<PeerMemory> peers = one_token_memory(*first.o.comm);
    if (!peers || p.ranks > kMostRanks) return false;
    for (int r = 0; r < p.ranks; ++r) p.memory[r] = static_cast<Memory*>(peers->memory[r]);
    p.aborted = peers->aborted;
  }
  p.layers = static_cast<const Layer*>(layers_.data());
  p.n_layers = int32_t(all.size()), p.width = int32_t(width);
  p.x = data<bf16>(x);
  if (last.down.norm_weight) {
    p.last_norm = data<bf16>(last.down.norm_weight), p.last_eps = last.down.norm_eps;
    p.h = data<bf16>(last.down.h);
  }
  for (int turn = 0; turn < 2; ++turn) p.parts[turn] = static_cast<Part*>(parts_.data()) + turn * gpu_.n_sms;
  for (const Layer& layer : layers) {
    const Product &down = layer.of(Phase::down), &o = layer.of(Phase::o);
    p.qkv_parts = std::max(p.qkv_parts, layer.of(Phase::qkv).deal.parts),
    p.qkv_width = std::max(p.qkv_width, layer.of(Phase::qkv).shared.n);
    p.attention_words = std::max(p.attention_words, int32_t(o.shared.k / 2));
    p.activation_words =
        std::max(p.activation_words, int32_t((down.shared.k + (down.routed.n ? down.routed.k : 0)) / 2));
    p.sum_parts = std::max({p.sum_parts, o.deal.parts, down.deal.parts});
    p.n_logits = std::max(p.n_logits, layer.n_logits);
  }
  L4_CUDA(cudaMemcpyAsync(layers_.data(), layers.data(), layers.size() * sizeof(Layer), cudaMemcpyHostToDevice,
                          gpu_.stream));
  L4_CUDA(cudaStreamSynchronize(gpu_.stream));
  return true;
}

bool OneToken::plan_layer(const LayerStages& s, const View& norm_weight, float norm_eps, Layer& layer) const {
  const int n_blocks = gpu_.n_sms;
  const int64_t width = s.o.x.cols();
  const PackedWeight *experts_up = s.up.experts, *experts_down = s.down.experts;
  for (const PackedWeight* w : {s.qkv.w, s.o.w, s.up.shared, s.down.shared, experts_up, experts_down})
    if (w && !has_weights(*w)) return false;
  if (!same_format(*s.qkv.w, *s.o.w) || !same_format(*s.up.shared, *s.down.shared)) return false;
  if (bool(experts_up) != bool(experts_down) || bool(experts_up) != bool(s.o.router)) return false;
  Product &qkv = layer.of(Phase::qkv), &o = layer.of(Phase::o), &up = layer.of(Phase::up),
          &down = layer.of(Phase::down);
  qkv = product(*s.qkv.w, nullptr);
  o = product(*s.o.w, nullptr);
  up = product(*s.up.shared, experts_up);
  down = product(*s.down.shared, experts_down);
  if (experts_up) {
    const PackedWeight& router = *s.o.router;
    const int64_t n = router.spec.n;
    if (!same_format(*experts_up, *s.up.shared) || !same_format(*experts_down, *s.up.shared)) return false;
    if (router.spec.format != WeightFormat::bf16 || router.spec.k != width || s.o.route.top_k != 1 ||
        n > kMostExperts || experts_up->spec.n_experts != n || experts_down->spec.n_experts != n ||
        s.up.first_expert != 0 || up.x_scale != up.x_routed_scale)
      return false;
    layer.router = static_cast<const bf16*>(router.data.data());
    layer.n_experts = int32_t(n), layer.n_logits = int32_t((n + 3) / 4 * 4);
    layer.in_turn = s.experts_in_turn;
  }
  const int64_t k_down = down.shared.k + (experts_down ? down.routed.k : 0);
  if (qkv.shared.n > kMostQkv || o.shared.k > kMostX || k_down > kMostX || o.shared.n != width) return false;
  if (!deal(qkv, {.tiles = qkv.shared.tiles, .stages = qkv.shared.stages}, n_blocks) ||
      !deal(o, {.tiles = o.shared.tiles, .stages = o.shared.stages}, n_blocks) ||
      !deal(up, {.tiles = up.shared.tiles + up.routed.tiles, .stages = up.shared.stages, .whole = true}, n_blocks) ||
      !deal(down, {.tiles = down.shared.tiles, .stages = down.shared.stages + down.routed.stages}, n_blocks))
    return false;

  layer.attn_norm = data<bf16>(norm_weight), layer.attn_eps = norm_eps;
  layer.ffn_norm = data<bf16>(s.o.norm_weight), layer.ffn_eps = s.o.norm_eps;

  const KvLayer& kv = s.qkv.kv;
  const KvLayout& l = kv.layout;
  if (!has_fast_attention(attention_shape(s.attention)) || kv.page_stride % 16 != 0 || l.n_kv_heads > kMostKvHeads)
    return false;
  const PagedKv paged = paged_kv(kv, {});  // of its scales
  Attention& t = layer.attention;
  const CUtensorMap k_map = pages_map(kv, l.k_offset), v_map = pages_map(kv, l.v_offset);
  t.k_map = k_map, t.v_map = v_map;
  t.kind = int(kv.kind);
  t.n_heads = int32_t(s.attention.q.shape[1]), t.n_kv = int32_t(l.n_kv_heads), t.group = t.n_heads / t.n_kv;
  t.pages = static_cast<std::byte*>(kv.base);
  t.page_stride = kv.page_stride;
  t.k_offset = l.k_offset, t.v_offset = l.v_offset;
  t.k_scale_offset = l.k_scale_offset, t.v_scale_offset = l.v_scale_offset;
  t.k_scale = paged.k_scale, t.v_scale = paged.v_scale;
  t.scale = s.attention.scale * kLog2e * t.k_scale;
  t.rope = bool(s.qkv.inv_freq), t.qk_norm = s.qkv.qk_norm, t.qk_norm_eps = s.qkv.qk_norm_eps;
  t.temperature = s.qkv.temperature, t.floor_scale = s.qkv.floor_scale, t.attn_scale = s.qkv.attn_scale;
  return qkv.shared.n == int64_t(t.n_heads + 2 * t.n_kv) * kHd && o.shared.k == int64_t(t.n_heads) * kHd;
}

void OneToken::launch() {
  Program p = plan_->program;
  p.position = gpu_.step.positions;
  for (int kind = 0; kind < kNumAttentionKinds; ++kind)
    p.kv[kind] = {gpu_.step.kv[kind].spans, gpu_.step.kv[kind].pages};
  const auto start = plan_->fp8_ffn ? start_fp8_fp8 : plan_->fp8_attention ? start_fp8_int4 : start_int4_int4;
  start(gpu_, p, plan_->fp8_cache);
}

}  // namespace l4::cuda
