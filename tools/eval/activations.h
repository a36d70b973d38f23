// Activations of a run as NumPy files, one each: where two implementations part is seen by comparing them in order.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "formats/npy.h"
#include "tensor/view.h"

namespace l4::eval {

class ActivationFiles {
 public:
  // Makes the folder where there is none; Error{io} naming it.
  explicit ActivationFiles(fs::path folder);

  // Rows go behind those that came before under the same name: prompt steps and decode steps give one matrix, its rows
  // being the positions. float32 [rows, everything else]. Any thread.
  void append(const std::string& name, const std::vector<float>& values, const Shape& shape);
  // Without it no file is left.
  void finish();

 private:
  fs::path folder_;
  std::mutex mutex_;
  std::map<std::string, std::unique_ptr<NpyWriter>> files_;
};

}  // namespace l4::eval
