// Products of few rows, bound by the bytes of the weights: decode.
#pragma once

#include "kernels/cuda/ops.h"

namespace l4::cuda {

constexpr int64_t kSmallMSlots = 32;  // (row, choice) pairs that a block sorts by expert in its prologue
// Columns in 128 bytes of a row, which the copy engine swizzles: k, D and F are multiples of it. 0: not with these
// weights, or with this input.
int64_t small_m_slab(const LinearSpec&);

// At most kSmallM rows, x and activations in bfloat16, the shared expert's weights in the experts' format. peers:
// linear() in ops.h.
bool small_m_linear(const OpContext&, const View& x, const PackedWeight& w, const View& y, DType round_to,
                    const PeerLinks* peers = nullptr);
// act_routed in the order of the slots. top_k >= 1 with rows * top_k <= kSmallMSlots.
void small_m_ffn_up(const OpContext&, const FfnUpArgs&);
bool small_m_ffn_down(const OpContext&, const FfnDownArgs&, const View& y, const PeerLinks* peers = nullptr);

}  // namespace l4::cuda
