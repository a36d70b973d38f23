// From a slice of the plan, in the unquantised layout's names, to the checkpoint's tensors: pieces of [out, in] matrices, their
// scales, and their values where a backend is not to have the codes.
#pragma once

#include <string>
#include <vector>

#include "base/error.h"
#include "formats/hf_checkpoint.h"
#include "model/stored_weight.h"
#include "model/weights.h"

namespace l4 {

// Element i of an unquantised tensor: F32, BF16 or F16.
inline float stored_number(const View& view, int64_t i) {
  switch (view.dtype) {
    case DType::f32:
      return view.f32()[i];
    case DType::bf16:
      return to_float(view.bf16()[i]);
    case DType::f16:
      return f16_to_float(static_cast<const uint16_t*>(view.data)[i]);
    default:
      fail(ErrorKind::internal, "no unquantised type: ", dtype_name(view.dtype));
  }
}

// A rectangle of one matrix of a checkpoint.
struct WeightPiece {
  std::string name;       // "...weight", or fused experts
  bool fused = false;     // of [E, in, out], expert `stored_expert`
  int64_t stored_expert = 0;
  Range n, k;             // in the matrix's own numbering
  int64_t expert = 0, n_offset = 0;  // where it goes
};
// In order. Where experts lie apart, those of gate_up_proj are two each.
std::vector<WeightPiece> pieces_of(const SlicePlan& slice, Range experts, const StoredWeight& stored, int64_t ffn);

class PieceReader {
 public:
  explicit PieceReader(const HfCheckpoint& checkpoint) : checkpoint_(checkpoint) {}

  // Values or codes as they lie in the file.
  WeightSlice weight(const WeightPiece& piece, const StoredWeight& stored) const;
  // k counts groups.
  WeightSlice scale(const WeightPiece& piece, const StoredWeight& stored) const;
  // code * scale, rounded to BF16, [n, k]. Error{input} naming tensor and row where a scale is no positive number.
  std::vector<BFloat16> values(const WeightPiece& piece, const StoredWeight& stored) const;
  // Of fp8_static. Error{input} where it is no positive number.
  float input_scale(const WeightPiece& piece, const StoredWeight& stored) const;
  // Error{input} where weight_shape is there and says something else than weight_packed does.
  void check_shape(const WeightPiece& piece, const StoredWeight& stored) const;

 private:
  const TensorInfo& find(const std::string& name) const;

  const HfCheckpoint& checkpoint_;
};

}  // namespace l4
