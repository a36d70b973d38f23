// What no product could use, found while weights are packed: codes that are NaN, scales that are zero or no finite
// numbers. Kernels note the first place of all on the device; the host asks for it when everything is in its place.
#pragma once

#include <vector>

#include "base/host_device.h"
#include "kernels/cuda/gpu.h"
#include "ops/op_args.h"
#include "tensor/buffer.h"

namespace l4::cuda {

// Where a kernel notes places of one weight: the least of these numbers is kept.
struct DefectNotes {
  static constexpr int kWeightBits = 15, kRowBits = 26, kPositionBits = 22;
  unsigned long long* first = nullptr;  // device memory
  uint64_t weight = 0;

  // row: of all experts, as the model numbers them; position: a code's column, a scale's group.
  L4_HOST_DEVICE uint64_t place(int64_t row, bool is_code, int64_t position) const {
    return ((weight << kRowBits | uint64_t(row)) << 1 | is_code) << kPositionBits | uint64_t(position);
  }
};

class WeightDefects {
 public:
  explicit WeightDefects(cudaStream_t stream);
  // For one more weight, whose memory stays until check().
  DefectNotes notes(const PackedWeight& weight);
  // Error{input} naming the first defect, if there is one, in the words of the CPU backend. All packing has ended.
  void check(cudaStream_t stream) const;

 private:
  struct Known {
    LinearSpec spec;
    const void* scales;
  };
  std::vector<Known> weights_;
  Buffer first_;
};

}  // namespace l4::cuda
