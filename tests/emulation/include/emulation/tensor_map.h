// What an emulated CUtensorMap holds.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "emulation/block.h"

namespace l4::emulation {

struct TensorMap {
  static constexpr uint64_t kMark = 0x4C34'7465'6E73'6F72;
  uint64_t mark = kMark;
  unsigned char* data = nullptr;
  uint32_t rank = 0, element_bytes = 0;
  uint64_t sizes[5] = {};         // innermost first
  uint64_t stride_bytes[4] = {};  // of axes 1..
  uint32_t box[5] = {};
  uint32_t swizzle = 0;  // cuda::Swizzle
};
static_assert(sizeof(TensorMap) <= sizeof(CUtensorMap));

CUresult encode_tensor_map(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* data,
                           const cuuint64_t* sizes, const cuuint64_t* stride_bytes, const cuuint32_t* box,
                           const cuuint32_t* steps, CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                           CUtensorMapL2promotion promotion, CUtensorMapFloatOOBfill fill);

// One box of the tensor to shared memory: this block's, or that of each block of the cluster whose bit is set.
void issue_tensor_copy(const CUtensorMap* map, void* shared, const int* coordinates, uint32_t rank, const void* barrier,
                       Where where, uint16_t blocks = 0);
// A run of bytes to shared memory.
void issue_bulk_load(void* shared, const void* global, uint32_t n_bytes, const void* barrier, Where where);
void issue_bulk_store(void* global, const void* shared, uint32_t n_bytes, Where where);

}  // namespace l4::emulation
