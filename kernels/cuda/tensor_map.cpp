#include "kernels/cuda/tensor_map.h"

#include "kernels/cuda/check.h"

namespace l4::cuda {

namespace {

using Encode = decltype(&cuTensorMapEncodeTiled);

// From the driver, to which the program has no link.
Encode encoder() {
  static const Encode function = [] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
    constexpr unsigned kVersion = 12000;  // of the function's present signature
    L4_CUDA(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, kVersion, cudaEnableDefault, &found));
    if (found != cudaDriverEntryPointSuccess || !entry)
      fail(ErrorKind::device, "the NVIDIA driver has no cuTensorMapEncodeTiled: it is older than CUDA 12.0");
    return reinterpret_cast<Encode>(entry);
  }();
  return function;
}

std::string list(std::span<const int64_t> values) {
  std::string out = "[";
  for (size_t i = 0; i < values.size(); ++i) out += cat(i ? ", " : "", values[i]);
  return out + "]";
}

}  // namespace

CUtensorMap tensor_map(const void* data, DType dtype, std::span<const int64_t> sizes,
                       std::span<const int64_t> stride_bytes, std::span<const int64_t> box, Swizzle swizzle) {
  constexpr size_t kMaxRank = 5;
  const size_t rank = sizes.size();
  L4_CHECK(rank >= 2 && rank <= kMaxRank && stride_bytes.size() == rank - 1 && box.size() == rank, "sizes ",
           list(sizes), ", strides ", list(stride_bytes), ", box ", list(box));
  L4_CHECK(dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::u8, dtype_name(dtype));
  const CUtensorMapDataType type = dtype == DType::f32    ? CU_TENSOR_MAP_DATA_TYPE_FLOAT32
                                   : dtype == DType::bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                                          : CU_TENSOR_MAP_DATA_TYPE_UINT8;
  const CUtensorMapSwizzle mode = swizzle == Swizzle::bytes128  ? CU_TENSOR_MAP_SWIZZLE_128B
                                  : swizzle == Swizzle::bytes64 ? CU_TENSOR_MAP_SWIZZLE_64B
                                  : swizzle == Swizzle::bytes32 ? CU_TENSOR_MAP_SWIZZLE_32B
                                                                : CU_TENSOR_MAP_SWIZZLE_NONE;
  cuuint64_t dims[kMaxRank], strides[kMaxRank];
  cuuint32_t boxes[kMaxRank], steps[kMaxRank];
  for (size_t i = 0; i < rank; ++i) {
    dims[i] = cuuint64_t(sizes[i]);
    boxes[i] = cuuint32_t(box[i]);
    steps[i] = 1;
    if (i + 1 < rank) strides[i] = cuuint64_t(stride_bytes[i]);
  }
  CUtensorMap map;
  const CUresult status = encoder()(&map, type, cuuint32_t(rank), const_cast<void*>(data), dims, strides, boxes, steps,
                                    CU_TENSOR_MAP_INTERLEAVE_NONE, mode, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                                    CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS)
    fail(ErrorKind::device, "cuTensorMapEncodeTiled: error ", int(status), " for a ", dtype_name(dtype), " tensor of ",
         list(sizes), ", strides ", list(stride_bytes), " bytes, box ", list(box), ", swizzle ", int(swizzle),
         ", address ", reinterpret_cast<uintptr_t>(data) % 1024, " past a multiple of 1024");
  return map;
}

}  // namespace l4::cuda
