#include "tools/eval/activations.h"

#include "base/error.h"

namespace l4::eval {

ActivationFiles::ActivationFiles(fs::path folder) : folder_(std::move(folder)) {
  std::error_code ec;
  fs::create_directories(folder_, ec);
  if (!fs::is_directory(folder_)) fail(ErrorKind::io, folder_.string(), ": cannot be made a folder");
}

void ActivationFiles::append(const std::string& name, const std::vector<float>& values, const Shape& shape) {
  const std::lock_guard lock(mutex_);
  std::unique_ptr<NpyWriter>& file = files_[name];
  if (!file) file = std::make_unique<NpyWriter>(folder_ / (name + ".npy"), shape.elements() / shape[0]);
  file->append(values);
}

void ActivationFiles::finish() {
  for (auto& [name, file] : files_) file->finish();
}

}  // namespace l4::eval
