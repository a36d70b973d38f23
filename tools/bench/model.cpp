#include "tools/bench/model.h"

#include <algorithm>

#include "base/paths.h"
#include "model/tensor_names.h"

namespace l4::bench {

namespace {

fs::path checkpoint_dir(const std::string& name) {
  if (name.empty()) return demo_model_dir();
  std::error_code ec;
  if (fs::is_directory(name, ec)) return name;
  const bool is_name = name == "scout" || name == "maverick" || name == "tiny";
  if (!fs::exists(name, ec))
    fail(ErrorKind::io, name, ": no such folder", is_name ? "; with --synthetic the model is made up" : "");
  fail(ErrorKind::io, name, ": not a folder; -m takes the folder of a checkpoint");
}

}  // namespace

BenchModel::BenchModel(const std::string& model, const SyntheticOptions& synthetic) {
  if (synthetic.on) {
    config = synthetic_config(model.empty() ? "scout" : model);
    name = config.source.substr(config.source.find(' ') + 1) + ", synthetic";
    if (synthetic.n_layers) {
      keep_layers(config, *synthetic.n_layers);
      name += cat(", ", *synthetic.n_layers, *synthetic.n_layers == 1 ? " layer" : " layers");
    }
    config.vision.reset();  // only text is measured
    weights_ = std::make_unique<SyntheticWeights>(config, synthetic.seed, synthetic.stored());
  } else {
    const fs::path dir = checkpoint_dir(model);
    config = load_model_config(dir);
    checkpoint_ = std::make_unique<HfCheckpoint>(dir);
    weights_ = std::make_unique<CheckpointWeights>(config, *checkpoint_);
    name = model.empty() ? "demo" : fs::weakly_canonical(dir).filename().string();
  }
  type = config.text.n_experts > 0 ? cat("llama4 ", config.text.n_experts, "E") : "llama4";
  n_parameters = parameter_count(expected_tensors(config));
}

std::string BenchModel::format(const QuantizeAtLoad& quantize, DType activation) const {
  const StoredWeights stored = quantized_at_load(this->stored(), quantize);
  struct Held {
    ModelPart part;
    WeightFormat format;
  };
  std::vector<Held> all;
  int64_t group = 128;
  for (const ExpectedTensor& t : expected_tensors(config)) {
    if (t.shape.rank() < 2) continue;
    all.push_back({t.part, stored(t.name).held(activation)});
    if (all.back().format == WeightFormat::int4) group = stored(t.name).group;
  }
  const auto are = [&](const auto& wanted) {
    return std::all_of(all.begin(), all.end(), [&](const Held& h) {
      const bool small = h.part == ModelPart::embedding || h.part == ModelPart::router || h.part == ModelPart::vision ||
                         h.part == ModelPart::projector;
      return small || h.format == wanted(h.part);
    });
  };
  for (const std::string& format : synthetic_format_names()) {
    const SyntheticFormat f = synthetic_format(format, group);
    if (are([&](ModelPart part) { return f.of(part); })) return group == 128 ? format : cat(format, " g", group);
  }
  return are([](ModelPart) { return WeightFormat::f32; }) ? "f32" : "mixed";
}

}  // namespace l4::bench
