// Comm for messages of decode size among GPUs of one process that can write each other's memory: one kernel, in which
// everybody pushes its part to everybody and adds up what arrives (device/peer.h). Larger messages go to another Comm.
//
//   bytes (bf16)    10 KB   64 KB   256 KB   1 MB
//   2 GPUs, us      2.7     2.9     3.5      5.5     predicted: 2.5 us launch, NVLink write and poll, and 375 GB/s
//   measured
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "dist/comm.h"
#include "kernels/cuda/gpu.h"
#include "kernels/cuda/peer_links.h"

namespace l4::cuda {

// Whether every one of these GPUs can write every other's memory.
bool are_peers(std::span<Gpu* const> gpus);

// One comm a GPU. `large[rank]` takes what is not small; without them everything goes in pieces through here, and what
// is neither a sum nor a gather is Error{device}. own_sums: sums of any size go through here.
std::vector<std::unique_ptr<Comm>> make_peer_comms(std::span<Gpu* const> gpus, std::vector<std::unique_ptr<Comm>> large,
                                                   bool own_sums = false);

// For kernels that sum as part of another operation: the links, where `comm` has them and the rank's part is a small
// one of bfloat16 in pieces of 16 bytes, in no more rows than there may be blocks.
std::optional<PeerLinks> links_for(Comm& comm, const View& part);

// Gpu::one_token of every rank, where `comm` is one of GPUs that write each other's memory.
struct PeerMemory {
  std::vector<void*> memory;
  const uint32_t* aborted = nullptr;  // PeerLinks
};
std::optional<PeerMemory> one_token_memory(Comm& comm);

}  // namespace l4::cuda
