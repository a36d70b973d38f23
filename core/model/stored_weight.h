// How a checkpoint stores a weight that the unquantised layout calls by one name ("...q_proj.weight",
// "...experts.gate_up_proj"). Decided tensor by tensor from what is there, never from the config (llama4-spec 6.5, 6.6).
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "quant/format.h"
#include "tensor/dtype.h"

namespace l4 {

struct StoredWeight {
  StoredWeight(DType type = DType::bf16) : dtype(type) {}

  DType dtype;  // of values (F32, F16, BF16) or codes: F8_E4M3; I32, words of eight 4-bit codes
  // One scale for the tensor, one a row, one for each `group` of a row's columns, one for each block of 128 x 128.
  enum class Scales : uint8_t { none, tensor, row, group, block };
  Scales scales = Scales::none;
  int64_t group = 0;         // columns of a group
  bool zero_points = false;  // 4-bit codes that mean code - zero point
  bool group_index = false;  // columns belong to groups by a table (weight_g_idx)
  bool input_scale = false;  // a static scale of the product's inputs, in a tensor of its own
  bool experts_apart = false;  // "experts.3.up_proj.weight", [out, in], in place of the fused experts
  InputFormat input = InputFormat::as_is;
  bool to_fp8 = false;  // where it is not quantised: as it is loaded
  bool operator==(const StoredWeight&) const = default;

  bool is_quantized() const { return dtype == DType::f8_e4m3 || dtype == DType::i32; }
  // How it is held when the activations are F32 or BF16. FP8 by tensor or row and INT4 by groups without further tables stay
  // what they are; other quantised weights become BF16 as they are loaded.
  WeightFormat held(DType activation) const;
  // Bytes of n x k of it, scales included (counted as BF16).
  uint64_t bytes(int64_t n, int64_t k) const;
};

constexpr int64_t kScaleBlock = 128;  // Scales::block

// By canonical name of the unquantised layout. A dry run without weights answers BF16.
using StoredWeights = std::function<StoredWeight(const std::string& name)>;

// What is quantised as it is loaded: each row to FP8 with a scale of its own, the products' inputs by token (--attn-dtype fp8,
// --head-dtype fp8). Published INT4 checkpoints leave both in BF16, which is 28 % of a token's bytes.
struct QuantizeAtLoad {
  bool attention = false, head = false;
};
StoredWeights quantized_at_load(StoredWeights stored, QuantizeAtLoad what);

// Names of the tensors of a linear "X" whose unquantised weight is called X.weight; of fused experts the weight's own name.
struct StoredNames {
  std::string weight, scale, zero_point, group_index, shape, input_scale;
};
StoredNames stored_names(const std::string& weight, DType stored);
// "...experts.gate_up_proj", 3, "gate_proj" -> "...experts.3.gate_proj.weight"
std::string expert_weight(const std::string& fused, int64_t expert, const char* projection);
// Of which a fused tensor's outputs are made, in order: gate_proj and up_proj, or down_proj.
std::vector<const char*> expert_projections(const std::string& fused);

}  // namespace l4
