// A model to measure: a checkpoint's folder, or a synthetic one.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "model/synthetic.h"

namespace l4::bench {

struct SyntheticOptions {
  bool on = false;
  std::optional<int64_t> n_layers;  // the first so many
  uint64_t seed = 1;
  std::string format = "bf16";  // synthetic_format()
  std::optional<int64_t> group;

  SyntheticFormat stored() const { return synthetic_format(format, group.value_or(128)); }
};

class BenchModel {
 public:
  // `name`: a folder, or the name of a synthetic model; empty: the built-in demo. Reads the config and, of a checkpoint,
  // the tables of its shards. Error{usage | io | input}.
  BenchModel(const std::string& name, const SyntheticOptions& synthetic);

  std::string name;  // "Llama-4-Scout-17B-16E-Instruct", "scout, synthetic, 16 layers"
  std::string type;  // "llama4 16Ex"
  ModelConfig config;
  int64_t n_parameters = 0;
  const WeightSource& weights() const { return *weights_; }
  StoredWeights stored() const { return weights_->all_stored(); }
  // How its linears are held once loaded, in --format's words, INT4 in other groups than 128 with their size: "int4-mix
  // g32". "mixed": none of them.
  std::string format(const QuantizeAtLoad& quantize, DType activation) const;

 private:
  std::unique_ptr<HfCheckpoint> checkpoint_;
  std::unique_ptr<WeightSource> weights_;
};

}  // namespace l4::bench
