#include "tools/bench/model.h"

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
    if (synthetic.format != "bf16") name += cat(", ", synthetic.format);
    if (synthetic.group) name += cat(" g", *synthetic.group);
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

}  // namespace l4::bench
