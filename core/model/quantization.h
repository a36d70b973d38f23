// What config.json says of a checkpoint's quantisation (llama4-spec 6.5, 6.6). Which tensors are quantised, and how finely
// they are scaled, the tensors themselves say (model/stored_weight.h); from here come refusals and what becomes of inputs.
#pragma once

#include "model/config.h"
#include "quant/format.h"

namespace l4 {

struct Quantization {
  // Of products with FP8 weights that have no input scale of their own.
  InputFormat fp8_input = InputFormat::fp8_token;
  // Keys and values are meant to be kept in FP8 (kv_cache_scheme, ModelOpt's kv_cache_quant_algo); with cache_scales by one
  // scale for each layer's keys and one for its values, which lie beside the weights (model/kv_scales.h).
  bool fp8_cache = false, cache_scales = false;
};

// Nothing for an unquantised checkpoint. Error{unsupported} naming what this build does not load (NVFP4, INT8, GPTQ, ...);
// Error{input} naming the field that is no such thing.
std::optional<Quantization> read_quantization(const ModelConfig& config);

}  // namespace l4
