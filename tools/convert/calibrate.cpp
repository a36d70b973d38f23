#include "tools/convert/calibrate.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <mutex>
#include <set>
#include <thread>

#include "base/error.h"
#include "base/log.h"
#include "base/thread_pool.h"
#include "formats/json_fields.h"
#include "model/weight_walk.h"
#include "quant/gptq.h"
#include "tools/convert/pieces.h"
#include "tools/convert/target.h"

namespace l4::convert {

namespace {

constexpr uint64_t kMaxNotesBytes = 100'000'000;

// What shares its inputs, and with them the sums over them.
using Key = std::pair<Site, int64_t>;  // expert, or -1
Key key_of(const Item& item) {
  const std::string last = item.module.substr(item.module.rfind('.') + 1);
  if (last == "o_proj") return {Site::o, -1};
  if (last == "q_proj" || last == "k_proj" || last == "v_proj") return {Site::qkv, -1};
  const bool routed = item.part == ModelPart::routed_experts;
  if (last == "down_proj") return {routed ? Site::expert_down : Site::shared_down, item.expert};
  return {routed ? Site::expert_up : Site::shared_up, item.expert};
}

class Sums : public InputObserver {
 public:
  explicit Sums(ThreadPool& pool) : pool_(pool) {}
  void add(Key key, int64_t k) { hessians_.emplace(key, k); }
  const Hessian& of(Key key) const { return hessians_.at(key); }

  bool wants(Site site, int64_t expert) const override { return hessians_.contains({site, expert}); }
  void inputs(Site site, int64_t expert, std::span<const float> rows) override {
    hessians_.at({site, expert}).add(rows, pool_);
  }
  bool wants_cache() const override { return false; }
  void cache(float, float) override {}

 private:
  ThreadPool& pool_;
  std::map<Key, Hessian> hessians_;
};

class CacheMaxima : public InputObserver {
 public:
  bool wants(Site, int64_t) const override { return false; }
  void inputs(Site, int64_t, std::span<const float>) override {}
  bool wants_cache() const override { return true; }
  void cache(float k_now, float v_now) override { k = std::max(k, k_now), v = std::max(v, v_now); }
  float k = 0, v = 0;
};

// The source's weights but for what the layer's file holds in INT4.
class QuantizedLayer : public WeightSource {
 public:
  QuantizedLayer(const CheckpointWeights& source, const fs::path& dir, const std::vector<const Item*>& items,
                 int64_t group)
      : source_(source), quantized_(dir) {
    for (const Item* item : items) {
      StoredWeight& w = stored_[item->source];
      w.dtype = DType::i32;
      w.scales = StoredWeight::Scales::group;
      w.group = group;
      w.experts_apart = item->is_transposed();
    }
  }

  StoredWeight stored(const std::string& name) const override {
    const auto found = stored_.find(name);
    return found == stored_.end() ? source_.stored(name) : found->second;
  }

  Weights load(const WeightPlan& plan, Backend& backend, DType activation,
               const std::function<void(uint64_t)>& on_bytes) const override {
    // Linears are of one file or the other as a whole: plans refuse what would tear them apart.
    WeightPlan rest = plan, mine = plan;
    const auto is_mine = [&](const LinearPlan& p) { return !p.weight.empty() && stored_.contains(p.weight[0].tensor); };
    const auto keep = [&](bool of_mine) {
      return [&, of_mine]<class Part>(const char*, const Part& part, Part& kept) {
        if constexpr (std::is_same_v<Part, TensorPlan>) {
          if (of_mine) kept.tensor.clear();
        } else if (is_mine(part) != of_mine) {
          kept.spec.n = 0;
        }
      };
    };
    for_each_weight(plan, rest, keep(false));
    for_each_weight(plan, mine, keep(true));
    Weights weights = source_.load(rest, backend, activation, on_bytes);
    Weights quantized = load_weights(mine, quantized_, all_stored(), backend, activation, on_bytes);
    std::vector<PackedWeight*> found;
    const auto collect = [&]<class Part, class Loaded>(const char*, const Part&, Loaded& loaded) {
      if constexpr (std::is_same_v<Loaded, PackedWeight>) found.push_back(&loaded);
    };
    for_each_weight(plan, quantized, collect);
    size_t next = 0;
    for_each_weight(plan, weights, [&]<class Part, class Loaded>(const char*, const Part&, Loaded& loaded) {
      if constexpr (std::is_same_v<Loaded, PackedWeight>) {
        if (*found[next]) loaded = std::move(*found[next]);
        ++next;
      }
    });
    return weights;
  }

 private:
  const CheckpointWeights& source_;
  const HfCheckpoint quantized_;
  std::map<std::string, StoredWeight> stored_;  // by canonical name of the unquantised layout
};

class Calibrator {
 public:
  Calibrator(const ModelConfig& config, const HfCheckpoint& source, const Plan& plan, const CalibrationOptions& options,
             const fs::path& dir)
      : config_(config),
        plan_(plan),
        options_(options),
        dir_(dir),
        source_(config, source),
        files_(source),
        pool_(options.threads),
        workers_(size_t(pool_.size())),
        layers_(size_t(config.text.n_layers)) {
    for (const Item& item : plan.items)
      if (options.gptq && item.scheme == Scheme::int4 && item.layer >= 0) layers_[size_t(item.layer)].push_back(&item);
    for (const auto& ids : options.sequences) n_tokens_ += int64_t(ids.size());
  }

  Calibration run() {
    int64_t end = 0, done = 0;  // layers behind `end` have nothing to learn
    for (int64_t l = 0; l < n_layers(); ++l)
      if (options_.kv_scales || !layers_[size_t(l)].empty()) end = l + 1;
    while (done < end && fs::exists(notes_path(done))) ++done;
    if (done < end) run_layers(done, end);
    return collect(end);
  }

 private:
  int64_t n_layers() const { return config_.text.n_layers; }
  fs::path layer_dir(int64_t l) const {
    const std::string digits = cat(l);
    return dir_ / (std::string(digits.size() < 5 ? 5 - digits.size() : 0, '0') + digits);
  }
  fs::path notes_path(int64_t l) const { return layer_dir(l) / "notes.json"; }

  void run_layers(int64_t done, int64_t end) {
    LayerRunner runner(config_, options_.device, options_.threads, options_.sequences);
    log_info("calibrating on ", runner.device_name(), " with ", options_.sequences.size(), " sequences, ", n_tokens_,
             " tokens");
    for (int64_t l = 0; l < end; ++l) {
      const std::vector<const Item*>& items = layers_[size_t(l)];
      Json notes = Json::Object{};
      if (l >= done) {
        std::error_code ec;
        fs::create_directories(layer_dir(l), ec);
        if (ec) fail(ErrorKind::io, layer_dir(l).string(), ": cannot create: ", ec.message());
        if (!items.empty()) {
          runner.load(l, source_);
          notes.set("linears", quantize(runner, l, items));
        }
      }
      const bool last = l + 1 == end;
      CacheMaxima maxima;
      const bool cache = options_.kv_scales && l >= done;
      if (!last || cache) {
        if (items.empty())
          runner.load(l, source_);
        else
          runner.load(l, QuantizedLayer(source_, layer_dir(l), items, plan_.recipe.group));
        runner.run(!last, cache ? &maxima : nullptr);
      }
      if (cache) {
        for (const float most : {maxima.k, maxima.v})
          if (!std::isfinite(most))
            fail_input(config_.source, ": layer ", l, " gives keys or values that are not finite");
        notes.set("k_max", double(maxima.k));
        notes.set("v_max", double(maxima.v));
      }
      if (l >= done) write_file_atomic(notes_path(l), dump_json(notes));
      if (options_.on_progress) options_.on_progress((l + 1) * n_tokens_, end * n_tokens_);
    }
  }

  // As many sums over inputs at once as there is memory for; the text runs through the layer for each lot of them.
  Json quantize(LayerRunner& runner, int64_t l, const std::vector<const Item*>& items) {
    uint64_t budget = options_.memory_bytes;
    if (budget == 0) budget = make_cpu_backend(1)->memory().free_bytes / 2;
    std::vector<SafetensorsWriter::Tensor> tensors;
    for (const Item* item : items)
      tensors.push_back({item->module + ".weight_packed", DType::i32, {item->n, item->k / 8}});
    for (const Item* item : items)
      tensors.push_back({item->module + ".weight_scale", DType::bf16, {item->n, item->k / plan_.recipe.group}});
    SafetensorsWriter out(layer_dir(l) / "model.safetensors", tensors);

    std::map<Key, std::vector<size_t>> by_inputs;
    for (size_t i = 0; i < items.size(); ++i) by_inputs[key_of(*items[i])].push_back(i);
    Json::Array notes(items.size());
    for (auto next = by_inputs.begin(); next != by_inputs.end();) {
      Sums sums(pool_);
      uint64_t bytes = 0;
      auto end = next;
      for (; end != by_inputs.end(); ++end) {
        const int64_t k = items[end->second[0]]->k;
        if (end != next && bytes + Hessian::bytes(k) + GptqFactor::peak_bytes(k) > budget) break;
        bytes += Hessian::bytes(k);
        sums.add(end->first, k);
      }
      runner.run(false, &sums);
      for (; next != end; ++next) {
        const Hessian& hessian = sums.of(next->first);
        std::optional<GptqFactor> factor;
        if (hessian.n_rows() >= min_calibration_rows(hessian.k())) factor = GptqFactor::make(hessian, pool_);
        for (const size_t i : next->second)
          notes[i] = quantize(*items[i], factor, hessian.n_rows(), out, {i, items.size() + i});
      }
    }
    out.finish();
    return notes;
  }

  Json quantize(const Item& item, const std::optional<GptqFactor>& factor, int64_t n_rows, SafetensorsWriter& out,
                const Int4Place& place) {
    const std::vector<Piece> pieces = cut_rows(item, 2 * pool_.size());
    std::vector<QuantError> errors(pieces.size());
    std::vector<double> losses(pieces.size());
    pool_.parallel_items(int64_t(pieces.size()), [&](int64_t slot, int64_t i) {
      losses[size_t(i)] = workers_[size_t(slot)].run_int4(item, plan_.recipe.group, pieces[size_t(i)], files_,
                                                          factor ? &*factor : nullptr, out, place, errors[size_t(i)]);
    });
    QuantError error;
    double loss = 0;
    for (size_t i = 0; i < pieces.size(); ++i) error.add(errors[i]), loss += losses[i];
    Json note = error_json(error);
    note.set("module", item.module);
    note.set("rows", n_rows);
    note.set("gptq", bool(factor));
    note.set("loss", loss);
    return note;
  }

  // From the files alone, whichever run made them.
  Calibration collect(int64_t end) const {
    Calibration found;
    for (int64_t l = 0; l < end; ++l) {
      const std::string source = notes_path(l).string();
      const Json notes = parse_json(read_file(notes_path(l), kMaxNotesBytes), source);
      const JsonFields fields(notes, source);
      if (options_.kv_scales) {
        found.k_max.push_back(float(fields.number("k_max", {}, 0, 1e38)));
        found.v_max.push_back(float(fields.number("v_max", {}, 0, 1e38)));
      }
      const Json* linears = notes.find("linears");
      if (!linears) continue;
      found.files.push_back(std::make_unique<SafetensorsFile>(layer_dir(l) / "model.safetensors"));
      for (const Json& note : linears->as_array()) {
        CalibratedLinear linear;
        const JsonFields values(note, source);
        linear.file = found.files.back().get();
        linear.n_rows = values.integer("rows", {}, 0, INT64_MAX);
        linear.gptq = note.find("gptq")->as_bool();
        linear.loss = values.number("loss", {}, 0, 1e308);
        linear.error = parse_error(note, source);
        found.linears.emplace(note.find("module")->as_string(), linear);
      }
    }
    return found;
  }

  const ModelConfig& config_;
  const Plan& plan_;
  const CalibrationOptions& options_;
  const fs::path dir_;
  const CheckpointWeights source_;
  const SourceFiles files_;
  ThreadPool pool_;
  std::vector<Worker> workers_;
  std::vector<std::vector<const Item*>> layers_;  // what each has to quantise
  int64_t n_tokens_ = 0;
};

}  // namespace

Calibration calibrate(const ModelConfig& config, const HfCheckpoint& source, const Plan& plan,
                      const CalibrationOptions& options, const fs::path& dir) {
  return Calibrator(config, source, plan, options, dir).run();
}

}  // namespace l4::convert
