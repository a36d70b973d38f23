// What the tests of packed codes share: weights from memory or from a file that the CUDA backend streams.
#pragma once

#include <initializer_list>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "kernels/cpu/quantized.h"
#include "kernels/cuda/gpu_testing.h"
#include "ops/backend.h"

namespace l4::test {

// Memory as a mapped file, and slices of that memory as slices of the file.
class InFile {
 public:
  InFile(const TempDir& dir, std::initializer_list<std::span<const std::byte>> parts) {
    AtomicFile out(dir / "weights");
    size_t size = 0;
    for (std::span<const std::byte> part : parts) {
      out.write(part);
      parts_.push_back({part, size});
      size += part.size();
    }
    out.commit();
    file_.emplace(dir / "weights");
  }
  std::vector<WeightSlice> operator()(std::vector<WeightSlice> slices) const {
    for (WeightSlice& s : slices)
      for (const auto& [part, begin] : parts_) {
        const auto* at = static_cast<const std::byte*>(s.data);
        if (s.file || at < part.data() || at >= part.data() + part.size()) continue;
        s.data = file_->bytes().data() + begin + (at - part.data());
        s.file = &*file_;
      }
    return slices;
  }

 private:
  std::vector<std::pair<std::span<const std::byte>, size_t>> parts_;
  std::optional<MappedFile> file_;
};

// Packs by the backend, from memory or, there is a folder, from a file in it, in its own good time.
struct Packer {
  std::unique_ptr<Backend> backend = make_cuda_backend(0, {});

  PackedWeight operator()(const QuantizedWeights& w, const TempDir* dir) {
    if (!dir) return backend->pack(w.spec, w.weight_slices(), w.bias_slices(), w.scale_slices());
    const InFile file(
        *dir, {std::as_bytes(std::span(w.codes)), std::as_bytes(std::span(w.words)), w.scale.storage, w.b.storage});
    PackedWeight packed = backend->pack(w.spec, file(w.weight_slices()), file(w.bias_slices()), file(w.scale_slices()));
    backend->finish_loading();
    return packed;
  }
  template <class T>
  std::vector<T> contents(const Buffer& buffer) {
    std::vector<T> out(buffer.bytes() / sizeof(T));
    if (buffer) backend->download(out.data(), {buffer.data(), DType::u8, {int64_t(buffer.bytes())}});
    return out;
  }
};

}  // namespace l4::test
