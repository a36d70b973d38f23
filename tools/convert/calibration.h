// What calibration found (calibrate.h): read by what writes the result and what reports on it.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "formats/safetensors.h"
#include "quant/quantize.h"

namespace l4::convert {

struct CalibratedLinear {
  const SafetensorsFile* file = nullptr;
  int64_t n_rows = 0;  // of inputs
  bool gptq = false;   // false: rounded
  double loss = 0;     // of GPTQ: sum over the rows of squared errors of the outputs, damping included
  QuantError error;
};

struct Calibration {
  std::map<std::string, CalibratedLinear> linears;  // by module; INT4 ones of layers
  std::vector<float> k_max, v_max;                  // by layer; empty unless asked for
  std::vector<std::unique_ptr<SafetensorsFile>> files;

  const CalibratedLinear* find(const std::string& module) const {
    const auto found = linears.find(module);
    return found == linears.end() ? nullptr : &found->second;
  }
};

}  // namespace l4::convert
