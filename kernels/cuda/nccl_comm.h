// Comm over NCCL: collectives of one process's GPUs, one thread a GPU, on the backends' streams; they may be part of a
// recorded step. NVLink multicast (NVLS) is switched off before NCCL starts unless the user says otherwise: it can put
// a host's shared GPUs out of service.
//
// NCCL adds bfloat16 in bfloat16, a ring hop at a time: with two GPUs one rounding, as Comm promises, with more one a
// hop.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "dist/comm.h"
#include "kernels/cuda/gpu.h"

namespace l4::cuda {

// One comm a GPU, in their order, made at once by the calling thread. Error{device} naming what NCCL or the loader
// said. forget_recordings(rank): of that rank's steps, called before its comm ends, which waits for all recordings that
// hold its collectives.
std::vector<std::unique_ptr<Comm>> make_nccl_comms(std::span<Gpu* const> gpus,
                                                   const std::function<void(int rank)>& forget_recordings = {});

}  // namespace l4::cuda
