#pragma once

#include <cuda_runtime.h>

#include <span>

#include "ops/op_args.h"

namespace l4::cuda {

// Copy-on-write: pages of the layer's kind, all its n_layers layers, each source to its copy. No page may be both.
void copy_pages(cudaStream_t stream, const KvLayer& first_layer, int64_t n_layers, std::span<const PageCopy> copies);

}  // namespace l4::cuda
