#include "tools/bench/checkpoint.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <map>
#include <numeric>

#include "base/thread_pool.h"
#include "quant/fp8.h"
#include "tools/common/conversion_plan.h"
#include "tools/common/terminal.h"

namespace l4::bench {

// ---- config.json ----------------------------------------------------------------------------------------------------

namespace {

void add_text(Json& json, const ModelConfig& config) {
  const TextConfig& t = config.text;
  Json rope_layers = Json::Array{}, moe_layers = Json::Array{}, eos = Json::Array{};
  for (int64_t l = 0; l < t.n_layers; ++l) {
    rope_layers.push_back(int64_t(t.layers[size_t(l)].rope));
    if (t.layers[size_t(l)].moe) moe_layers.push_back(l);
  }
  for (const int32_t id : config.eos_ids) eos.push_back(int64_t(id));
  Json scaling;
  if (t.rope.scaled)
    scaling = Json::Object{{"factor", t.rope.factor},
                           {"high_freq_factor", t.rope.high_freq_factor},
                           {"low_freq_factor", t.rope.low_freq_factor},
                           {"original_max_position_embeddings", t.rope.original_max_positions},
                           {"rope_type", "llama3"}};
  const Json::Object fields = {{"attention_bias", t.attention_bias},
                               {"attention_chunk_size", t.attention_chunk ? Json(t.attention_chunk) : Json()},
                               {"attn_scale", t.attn_scale},
                               {"attn_temperature_tuning", t.temperature_tuning},
                               {"bos_token_id", int64_t(config.bos_id)},
                               {"eos_token_id", std::move(eos)},
                               {"floor_scale", t.floor_scale},
                               {"head_dim", t.head_dim},
                               {"hidden_act", "silu"},
                               {"hidden_size", t.hidden},
                               {"intermediate_size", t.ffn},
                               {"intermediate_size_mlp", t.dense_ffn},
                               {"max_position_embeddings", t.max_positions},
                               {"model_type", "llama4_text"},
                               {"moe_layers", std::move(moe_layers)},
                               {"no_rope_layers", std::move(rope_layers)},
                               {"num_attention_heads", t.n_heads},
                               {"num_experts_per_tok", t.n_experts_per_token},
                               {"num_hidden_layers", t.n_layers},
                               {"num_key_value_heads", t.n_kv_heads},
                               {"num_local_experts", t.n_experts},
                               {"pad_token_id", int64_t(config.pad_id)},
                               {"rms_norm_eps", t.rms_eps},
                               {"rope_scaling", std::move(scaling)},
                               {"rope_theta", t.rope.theta},
                               {"tie_word_embeddings", t.tied_embeddings},
                               {"use_qk_norm", t.qk_norm},
                               {"vocab_size", t.vocab}};
  for (const auto& [key, value] : fields) json.set(key, value);
}

Json vision_json(const VisionConfig& v) {
  return Json::Object{{"hidden_size", v.hidden},
                      {"image_size", v.image_size},
                      {"intermediate_size", v.ffn},
                      {"model_type", "llama4_vision_model"},
                      {"num_attention_heads", v.n_heads},
                      {"num_channels", v.n_channels},
                      {"num_hidden_layers", v.n_layers},
                      {"patch_size", v.patch_size},
                      {"pixel_shuffle_ratio", v.pixel_shuffle_ratio},
                      {"projector_input_dim", v.projector_in},
                      {"projector_output_dim", v.projector_out},
                      {"rope_theta", v.rope_theta},
                      {"vision_output_dim", v.output}};
}

}  // namespace

Json config_json(const ModelConfig& config) {
  Json json = Json::Object{{"torch_dtype", config.weights_dtype}};
  if (!config.vision) {
    json.set("architectures", Json::Array{"Llama4ForCausalLM"});
    add_text(json, config);
    return json;
  }
  Json text = Json::Object{};
  add_text(text, config);
  json.set("architectures", Json::Array{"Llama4ForConditionalGeneration"});
  json.set("boi_token_index", int64_t(config.image_start_id));
  json.set("eoi_token_index", int64_t(config.image_end_id));
  json.set("image_token_index", int64_t(config.image_token_id));
  json.set("model_type", "llama4");
  json.set("text_config", std::move(text));
  json.set("vision_config", vision_json(*config.vision));
  return json;
}

// ---- values ---------------------------------------------------------------------------------------------------------

namespace {

using convert::Item;
using convert::Scheme;

// What a tensor is filled with: codes, or BF16 around a centre.
struct Kind {
  DType dtype = DType::bf16;
  float centre = 0, spread = 1;
  auto operator<=>(const Kind&) const = default;
};

// Of an item's tensors the `which`-th; not of weight_shape. Ranges are SyntheticWeights'.
Kind kind_of(const Item& item, size_t which) {
  const float spread = item.linear ? float(std::sqrt(3.0 / double(item.k))) : 0;
  if (item.scheme == Scheme::fp8) return which == 0 ? Kind{DType::f8_e4m3} : Kind{DType::bf16, spread / kFp8Max, 0};
  if (item.scheme == Scheme::int4) {
    const float scale = spread * 2 / 15;
    return which == 0 ? Kind{DType::i32} : Kind{DType::bf16, scale, scale / 8};
  }
  if (item.linear) return {DType::bf16, 0, spread};
  if (item.part == ModelPart::embedding) return {DType::bf16, 0, float(std::sqrt(3.0))};
  return {DType::bf16, item.module.ends_with(".bias") ? 0.0f : 1.0f, 0.125f};
}

// No multiple of any row, so that rows that come round to the pool's beginning are others than before.
constexpr int64_t kPoolBytes = (4 << 20) - 8 * 1237;

std::vector<std::byte> make_pool(const Kind& kind, uint64_t seed) {
  std::vector<std::byte> pool(static_cast<size_t>(kPoolBytes));
  const auto fill = [&](auto make) {
    using T = decltype(make(int64_t(0)));
    for (int64_t i = 0; i < kPoolBytes / int64_t(sizeof(T)); ++i) {
      const T value = make(i);
      std::memcpy(pool.data() + i * int64_t(sizeof(T)), &value, sizeof(T));
    }
  };
  const uint64_t key = sample_mix(seed);
  switch (kind.dtype) {
    case DType::f8_e4m3:
      fill([&](int64_t i) { return fp8_from_float(random_weight({key, 0, kFp8Max}, i)); });
      break;
    case DType::i32:
      fill([&](int64_t i) {
        uint32_t word = 0;
        for (int j = 0; j < 8; ++j) word |= uint32_t(random_int4_code({key, 0, 7.5f}, 8 * i + j, 1) + 8) << 4 * j;
        return word;
      });
      break;
    default:
      fill([&](int64_t i) { return to_bf16(random_weight({key, kind.centre, kind.spread}, i)); });
  }
  return pool;
}

using Pools = std::map<Kind, std::vector<std::byte>>;

Pools make_pools(const convert::Plan& plan, uint64_t seed, ThreadPool& threads) {
  Pools pools;
  for (const Item& item : plan.items)
    for (size_t which = 0; which < (item.scheme == Scheme::keep ? 1 : 2); ++which) pools[kind_of(item, which)];
  std::vector<Pools::value_type*> all;
  for (auto& pool : pools) all.push_back(&pool);
  threads.parallel_items(int64_t(all.size()),
                         [&](int64_t, int64_t i) { all[size_t(i)]->second = make_pool(all[size_t(i)]->first, seed); });
  return pools;
}

// ---- files ----------------------------------------------------------------------------------------------------------

void write_shard(const convert::Plan& plan, const convert::OutputShard& shard, const fs::path& dir, const Pools& pools,
                 uint64_t seed) {
  SafetensorsWriter out(dir / shard.file_name, shard.tensors);
  struct Owner {
    const Item* item;
    size_t which;
  };
  std::vector<Owner> owners(shard.tensors.size());
  for (const size_t i : shard.items) {
    const Item& item = plan.items[i];
    const size_t n_tensors = item.scheme == Scheme::int4 ? 3 : item.scheme == Scheme::fp8 ? 2 : 1;
    for (size_t which = 0; which < n_tensors; ++which) owners[item.tensors[which]] = {&item, which};
  }
  for (size_t t = 0; t < shard.tensors.size(); ++t) {
    const auto& [item, which] = owners[t];
    if (which == 2) {
      const int64_t shape[2] = {item->n, item->k};
      out.write(std::as_bytes(std::span(shape)));
      continue;
    }
    const SafetensorsWriter::Tensor& tensor = shard.tensors[t];
    const std::vector<std::byte>& pool = pools.at(kind_of(*item, which));
    uint64_t left = uint64_t(tensor.shape.elements()) * dtype_bytes(tensor.dtype);
    uint64_t at = sample_mix(seed + std::hash<std::string>{}(tensor.name)) % (pool.size() / 8) * 8;
    for (; left > 0; at = 0) {
      const uint64_t n = std::min<uint64_t>(left, pool.size() - at);
      out.write({pool.data() + at, size_t(n)});
      left -= n;
    }
  }
  out.finish();
}

convert::Recipe recipe_of(const SyntheticOptions& synthetic) {
  struct Row {
    const char *format, *preset;
    std::vector<const char*> rules;
  };
  static const std::vector<Row> kRows = {{"fp8", "fp8-all", {}},
                                         {"fp8-ffn", "fp8", {}},
                                         {"fp8-experts", "fp8-experts", {}},
                                         {"int4", "w4a16-all", {}},
                                         {"int4-ffn", "w4a16", {}},
                                         {"int4-mix", "w4a16", {"*.self_attn.*=fp8", "*lm_head=fp8"}}};
  for (const Row& row : kRows) {
    if (row.format != synthetic.format) continue;
    convert::Recipe recipe{.preset = row.preset, .group = synthetic.group.value_or(128), .rules = {}};
    for (const char* rule : row.rules) recipe.rules.emplace_back(rule);
    return recipe;
  }
  fail(ErrorKind::usage, "--format: expected fp8, fp8-ffn, fp8-experts, int4, int4-ffn or int4-mix, found ",
       synthetic.format.empty() ? "none" : synthetic.format);
}

}  // namespace

std::string write_checkpoint(const WriteOptions& o) {
  const auto begin = std::chrono::steady_clock::now();
  ModelConfig config = synthetic_config(o.model);
  if (o.synthetic.n_layers) keep_layers(config, *o.synthetic.n_layers);
  config.text_only_names = !config.vision;
  const convert::Recipe recipe = recipe_of(o.synthetic);
  std::map<std::string, TensorInfo> source;
  for (const ExpectedTensor& t : expected_tensors(config)) {
    TensorInfo& info = source[t.name];
    info.name = t.name, info.dtype = DType::bf16, info.shape = t.shape;
  }
  std::vector<Item> items = convert::list_items(config, recipe, config.text_only_names);
  for (Item& item : items) item.info = &source.at(item.source);
  const convert::Plan plan = convert::make_plan(std::move(items), config, recipe, o.max_shard_bytes);

  std::error_code ec;
  fs::create_directories(o.dir, ec);
  if (ec) fail(ErrorKind::io, o.dir.string(), ": cannot create: ", ec.message());
  if (!fs::is_empty(o.dir, ec) || ec) fail(ErrorKind::usage, o.dir.string(), ": not an empty folder");
  if (const fs::space_info space = fs::space(o.dir, ec); !ec && space.available < plan.bytes)
    fail(ErrorKind::io, o.dir.string(), ": ", human_bytes(plan.bytes), " are to be written, ",
         human_bytes(space.available), " are free");

  // A file is one thread's: writers of one file wait for each other in the kernel.
  ThreadPool threads(o.threads.value_or(0));
  const Pools pools = make_pools(plan, o.synthetic.seed, threads);
  threads.parallel_items(int64_t(plan.shards.size()), [&](int64_t, int64_t i) {
    write_shard(plan, plan.shards[size_t(i)], o.dir, pools, o.synthetic.seed);
  });
  write_file_atomic(o.dir / "model.safetensors.index.json",
                    dump_json(convert::index_json(plan), JsonStyle::python, 2) + "\n");
  Json json = config_json(config);
  json.set("quantization_config", plan.quantization);
  write_file_atomic(o.dir / "config.json", dump_json(json, JsonStyle::python, 2) + "\n");  // last: now it is a model
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return cat(o.dir.string(), ": ", o.synthetic.format, ", ", human_bytes(plan.bytes), " in ", plan.shards.size(),
             plan.shards.size() == 1 ? " file, " : " files, ", fixed(seconds, 1), " s (",
             fixed(double(plan.bytes) / seconds / 1e9, 2), " GB/s)\n");
}

}  // namespace l4::bench
