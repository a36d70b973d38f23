// cuBLASLt's product of a shape on random data, for comparing with: allocated and chosen once, issued as often as wanted.
#pragma once

#include <memory>

#include "kernels/cuda/gpu.h"
#include "ops/ceilings.h"

namespace l4::cuda {

class CublasProduct {
 public:
  // Of the library's first choices the fastest on this device.
  CublasProduct(Gpu& gpu, const ProductShape& shape);
  ~CublasProduct();
  void issue();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace l4::cuda
