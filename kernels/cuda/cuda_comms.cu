// make_cuda_comms (dist/comm.h): NCCL for large messages, our own kernels over peer memory for small ones; for all sums where
// backends are batch-invariant: NCCL's order follows a sum's size.
#include <algorithm>

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
  const bool own_sums = std::any_of(on_gpus.begin(), on_gpus.end(), [](auto* gpu) { return gpu->is_batch_invariant(); });
  if (own_sums && !peers)
    fail(ErrorKind::unsupported, "batch-invariant results of ", gpus.size(), " GPUs that do not all reach each other's ",
         "memory: NCCL, which would make their sums, adds up in an order that follows the number of rows");
  std::vector<std::unique_ptr<Comm>> nccl;
  try {
    nccl = cuda::make_nccl_comms(gpus, [on_gpus](int rank) { on_gpus[size_t(rank)]->forget_recordings(); });
  } catch (const Error& e) {
    if (!peers) throw;
    log_warning(e.message(), "; the GPUs exchange everything by our own, slower for large sums");
  }
  return peers ? cuda::make_peer_comms(gpus, std::move(nccl), own_sums) : std::move(nccl);
}

}  // namespace l4
