#pragma once

#include <cstdint>

namespace l4 {

// transformers' layer_types: "chunked_attention" and "full_attention". Pages, page tables and spans exist once per kind.
enum class AttentionKind : uint8_t { chunked, global };
constexpr int kNumAttentionKinds = 2;

}  // namespace l4
