// make_cuda_comms (dist/comm.h): NCCL for large messages, our own kernels over peer memory for small ones.
#include "base/log.h"
#include "dist/comm.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/nccl_comm.h"
#include "kernels/cuda/peer_comm.h"

namespace l4 {

std::vector<std::unique_ptr<Comm>> make_cuda_comms(std::span<Backend* const> backends) {
  std::vector<cuda::Gpu*> gpus;
  std::vector<CudaBackend*> on_gpus;
  for (Backend* backend : backends) {
    auto* on_gpu = dynamic_cast<CudaBackend*>(backend);
    L4_CHECK(on_gpu, backend->device_name());
    gpus.push_back(&on_gpu->gpu());
    on_gpus.push_back(on_gpu);
  }
  const bool peers = cuda::are_peers(gpus);
  std::vector<std::unique_ptr<Comm>> nccl;
  try {
    nccl = cuda::make_nccl_comms(gpus, [on_gpus](int rank) { on_gpus[size_t(rank)]->forget_recordings(); });
  } catch (const Error& e) {
    if (!peers) throw;
    log_warning(e.message(), "; the GPUs exchange everything by our own, slower for large sums");
  }
  return peers ? cuda::make_peer_comms(gpus, std::move(nccl)) : std::move(nccl);
}

}  // namespace l4
