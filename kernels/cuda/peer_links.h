// The memory through which GPUs exchange small vectors (device/peer.h says how), as the host sets it up.
#pragma once

#include <cstddef>
#include <cstdint>

namespace l4::cuda {

constexpr int kMaxPeers = 8;
constexpr int kInboxes = 3;
constexpr uint32_t kNotThere = 0x80000000u;  // -0.0f; two bfloat16: 0.0 and -0.0

struct PeerState {
  uint32_t inbox;           // that the next exchange uses
  uint32_t arrived;         // blocks; zero between kernels
  uint32_t used[kInboxes];  // bytes of each part that the last exchange through it had
};

struct PeerLinks {
  std::byte* inboxes[kMaxPeers] = {};  // of rank r, in its memory: [kInboxes][size][part_bytes]
  PeerState* state = nullptr;          // this GPU's
  const uint32_t* aborted = nullptr;   // host memory: not 0 when a rank has failed and nothing more will come
  int32_t rank = 0, size = 1;
  int64_t part_bytes = 0;
  bool sent = false;  // the kernel before the exchange has pushed this rank's part already, to this rank too
};

inline int most_exchange_blocks(int n_sms) {
  return n_sms >= 8 ? n_sms / 4 : 1;
}

}  // namespace l4::cuda
