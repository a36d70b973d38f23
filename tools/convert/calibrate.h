// What a conversion learns from text: INT4 codes by GPTQ, and how large keys and values become. Layer after layer: the
// model's own forward gives the inputs of a layer's linears, these are quantised, and the next layer gets what the
// quantised layer makes of the text.
//
//   DIR/00007/model.safetensors   the layer's codes and scales, under the names they will have
//   DIR/00007/notes.json          how each was made and what it lost; largest |k| and |v|. Written last
//
// A run that was ended goes on behind the last layer that is done; the text then runs through the earlier ones again.
#pragma once

#include <functional>

#include "formats/hf_checkpoint.h"
#include "tools/common/conversion_plan.h"
#include "tools/convert/calibration.h"
#include "tools/convert/layer_runner.h"

namespace l4::convert {

struct CalibrationOptions {
  Sequences sequences;
  Device device = Device::automatic;
  int threads = 0;
  bool gptq = true, kv_scales = false;
  // For the sums over inputs at once; 0: half of what is free. The result does not depend on it.
  uint64_t memory_bytes = 0;
  std::function<void(int64_t done, int64_t total)> on_progress;  // tokens through layers
};

// A linear of k columns whose inputs had fewer rows is rounded (RTN): so few know too little of other text. The demo's
// experts (k = 256) on text that was not calibrated on, rounded and by GPTQ: mean KL 0.0053 and 0.0071 with some 100
// rows an expert (47 to 200), 0.0079 and 0.0039 with some 200 (69 to 600).
constexpr int64_t min_calibration_rows(int64_t k) {
  return k / 4;
}

Calibration calibrate(const ModelConfig& config, const HfCheckpoint& source, const Plan& plan,
                      const CalibrationOptions& options, const fs::path& dir);

}  // namespace l4::convert
