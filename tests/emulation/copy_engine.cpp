#include <algorithm>

#include "emulation/tensor_map.h"
#include "kernels/cuda/ptx/swizzle.h"

namespace l4::emulation {

CUresult encode_tensor_map(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* data,
                           const cuuint64_t* sizes, const cuuint64_t* stride_bytes, const cuuint32_t* box,
                           const cuuint32_t* steps, CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                           CUtensorMapL2promotion, CUtensorMapFloatOOBfill fill) {
  // The conditions of the driver's documentation.
  TensorMap t;
  t.element_bytes = type == CU_TENSOR_MAP_DATA_TYPE_UINT8      ? 1
                    : type == CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 ? 2
                    : type == CU_TENSOR_MAP_DATA_TYPE_FLOAT32  ? 4
                                                               : 0;
  if (!t.element_bytes || rank < 1 || rank > 5 || interleave != CU_TENSOR_MAP_INTERLEAVE_NONE ||
      fill != CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE || !data || reinterpret_cast<uintptr_t>(data) % 16 ||
      reinterpret_cast<uintptr_t>(map) % 64)
    return CUDA_ERROR_INVALID_VALUE;
  t.rank = rank;
  t.data = static_cast<unsigned char*>(data);
  uint32_t span = 0;  // the widest inner row
  switch (swizzle) {
    case CU_TENSOR_MAP_SWIZZLE_NONE:
      t.swizzle = uint32_t(cuda::Swizzle::none);
      break;
    case CU_TENSOR_MAP_SWIZZLE_32B:
      t.swizzle = uint32_t(cuda::Swizzle::bytes32), span = 32;
      break;
    case CU_TENSOR_MAP_SWIZZLE_64B:
      t.swizzle = uint32_t(cuda::Swizzle::bytes64), span = 64;
      break;
    case CU_TENSOR_MAP_SWIZZLE_128B:
      t.swizzle = uint32_t(cuda::Swizzle::bytes128), span = 128;
      break;
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
  for (cuuint32_t i = 0; i < rank; ++i) {
    if (sizes[i] < 1 || sizes[i] > uint64_t(1) << 32 || box[i] < 1 || box[i] > 256 || steps[i] != 1)
      return CUDA_ERROR_INVALID_VALUE;
    t.sizes[i] = sizes[i];
    t.box[i] = box[i];
    if (i + 1 == rank) break;
    if (stride_bytes[i] % 16 || stride_bytes[i] >= uint64_t(1) << 40) return CUDA_ERROR_INVALID_VALUE;
    if (i == 0 && stride_bytes[0] < sizes[0] * t.element_bytes) return CUDA_ERROR_INVALID_VALUE;
    t.stride_bytes[i] = stride_bytes[i];
  }
  const uint32_t inner = box[0] * t.element_bytes;
  if (inner % 16 || (span && inner > span)) return CUDA_ERROR_INVALID_VALUE;
  std::memset(map, 0, sizeof *map);
  std::memcpy(map, &t, sizeof t);
  return CUDA_SUCCESS;
}

void issue_tensor_copy(const CUtensorMap* map, void* shared, const int* coordinates, uint32_t rank, const void* barrier,
                       Where where, uint16_t blocks) {
  Block& b = block();
  TensorMap t;
  std::memcpy(&t, map, sizeof t);
  if (t.mark != TensorMap::kMark) b.fail(where, "a tensor copy without a tensor map");
  if (t.rank != rank) b.fail(where, cat("a ", rank, "-D copy of a ", t.rank, "-D tensor map"));
  uint32_t n_rows = 1;
  for (uint32_t i = 1; i < rank; ++i) n_rows *= t.box[i];
  const uint32_t row_bytes = t.box[0] * t.element_bytes;
  const uint32_t alignment = t.swizzle == uint32_t(cuda::Swizzle::bytes128)  ? 1024
                             : t.swizzle == uint32_t(cuda::Swizzle::bytes64) ? 512
                             : t.swizzle == uint32_t(cuda::Swizzle::bytes32) ? 256
                                                                             : 128;
  // The hardware wants 128; a pattern that does not begin at its own alignment is a mistake of ours.
  b.check_shared(shared, size_t(n_rows) * row_bytes, alignment, "tensor copy", where);
  std::array<int64_t, 5> at{};
  for (uint32_t i = 0; i < rank; ++i) at[i] = coordinates[i];
  auto copy = [=](Block& to, void* shared, const void* barrier) {
    for (uint32_t row = 0; row < n_rows; ++row) {
      const unsigned char* line = t.data;
      bool inside = true;
      for (uint32_t i = 1, rest = row; i < rank; ++i) {
        const int64_t index = at[i] + rest % t.box[i];
        rest /= t.box[i];
        inside &= index >= 0 && index < int64_t(t.sizes[i]);
        line += index * int64_t(t.stride_bytes[i - 1]);
      }
      for (uint32_t byte = 0; byte < row_bytes; ++byte) {
        const int64_t column = at[0] + byte / t.element_bytes;
        const bool there = inside && column >= 0 && column < int64_t(t.sizes[0]);
        // Bits of the address itself are permuted; shared memory begins at a multiple of 1024 here too.
        const auto place = reinterpret_cast<uintptr_t>(shared) + row * row_bytes + byte;
        const auto low = uint32_t(place & 1023);
        auto in_shared = reinterpret_cast<unsigned char*>(place - low + cuda::swizzled(cuda::Swizzle(t.swizzle), low));
        const unsigned char* in_tensor = line + at[0] * int64_t(t.element_bytes) + byte;
        *in_shared = there ? *in_tensor : 0;
      }
    }
    to.mbarrier_arrive(barrier, 0, 0, int64_t(n_rows) * row_bytes, where);
  };
  Step step = [=, &b] {
    if (!blocks) copy(b, shared, barrier);
    for (uint32_t rank = 0; rank < 16; ++rank)
      if (blocks >> rank & 1) {
        Block& to = b.neighbour(rank, where);
        copy(to, b.address_in(to, shared), b.address_in(to, barrier));
      }
  };
  if (!b.in_shared(barrier, 8)) b.fail(where, "the mbarrier of a tensor copy is not in shared memory");
  b.issue_load(std::move(step));
}

void issue_bulk_load(void* shared, const void* global, uint32_t n_bytes, const void* barrier, Where where) {
  Block& b = block();
  b.check_shared(shared, n_bytes, 16, "bulk_load", where);
  if (n_bytes % 16 || reinterpret_cast<uintptr_t>(global) % 16)
    b.fail(where, cat("bulk_load of ", n_bytes, " bytes: the address and the number must be multiples of 16"));
  b.issue_load([=, &b] {
    std::memcpy(shared, global, n_bytes);
    b.mbarrier_arrive(barrier, 0, 0, n_bytes, where);
  });
}

void issue_bulk_store(void* global, const void* shared, uint32_t n_bytes, Where where) {
  Block& b = block();
  b.check_shared(shared, n_bytes, 16, "bulk_store", where);
  if (n_bytes % 16 || reinterpret_cast<uintptr_t>(global) % 16)
    b.fail(where, cat("bulk_store of ", n_bytes, " bytes: the address and the number must be multiples of 16"));
  thread().bulk_stores.issue(b.late, [=] { std::memcpy(global, shared, n_bytes); });
}

}  // namespace l4::emulation
