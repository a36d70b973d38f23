#include "kernels/cuda/nccl_comm.h"

#include <atomic>
#include <cstdlib>

#include "base/log.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/libraries.h"

namespace l4::cuda {

namespace {

void check(ncclResult_t status, const char* call) {
  if (status != ncclSuccess)
    fail(ErrorKind::device, "NCCL: ", nccl().ncclGetErrorString(status), " in ", call, ": ",
         nccl().ncclGetLastError(nullptr), " (NCCL_DEBUG=INFO says more)");
}
#define L4_NCCL(call) check(nccl().call, #call)

ncclDataType_t type_of(const View& v) {
  switch (v.dtype) {
    case DType::f32:
      return ncclFloat32;
    case DType::bf16:
      return ncclBfloat16;
    default:
      L4_CHECK(false, "no sums of ", dtype_name(v.dtype));
  }
}

class NcclComm : public Comm {
 public:
  NcclComm(Gpu& gpu, ncclComm_t comm, int rank, int size, const std::function<void(int)>& forget_recordings)
      : gpu_(gpu), comm_(comm), rank_(rank), size_(size), forget_recordings_(forget_recordings) {}
  ~NcclComm() override {
    if (aborted_.exchange(true)) return;
    cudaSetDevice(gpu_.index);
    cudaStreamSynchronize(gpu_.stream);
    if (forget_recordings_) forget_recordings_(rank_);
    nccl().ncclCommAbort(comm_);  // frees it; unlike ncclCommDestroy it waits for no other rank
  }
  int rank() const override { return rank_; }
  int size() const override { return size_; }

  void all_reduce_sum(const View& data) override {
    L4_NCCL(ncclAllReduce(data.data, data.data, size_t(data.elements()), type_of(data), ncclSum, comm_, gpu_.stream));
  }
  void all_gather(const View& part, const View& out) override {
    L4_CHECK(out.bytes() == part.bytes() * size_t(size_));
    L4_NCCL(ncclAllGather(part.data, out.data, part.bytes(), ncclUint8, comm_, gpu_.stream));
  }
  void broadcast(const View& data, int root) override {
    L4_NCCL(ncclBroadcast(data.data, data.data, data.bytes(), ncclUint8, root, comm_, gpu_.stream));
  }
  void send(const View& data, int to) override {
    L4_NCCL(ncclSend(data.data, data.bytes(), ncclUint8, to, comm_, gpu_.stream));
  }
  void recv(const View& data, int from) override {
    L4_NCCL(ncclRecv(data.data, data.bytes(), ncclUint8, from, comm_, gpu_.stream));
  }
  void all_to_all(const View& from, const View& to) override {
    L4_CHECK(from.bytes() == to.bytes() && from.rows() % size_ == 0);
    const size_t block = from.bytes() / size_t(size_);
    L4_NCCL(ncclGroupStart());
    for (int peer = 0; peer < size_; ++peer) {
      L4_NCCL(ncclSend(static_cast<std::byte*>(from.data) + size_t(peer) * block, block, ncclUint8, peer, comm_,
                       gpu_.stream));
      L4_NCCL(ncclRecv(static_cast<std::byte*>(to.data) + size_t(peer) * block, block, ncclUint8, peer, comm_,
                       gpu_.stream));
    }
    L4_NCCL(ncclGroupEnd());
  }

  void abort() override {
    if (!aborted_.exchange(true)) nccl().ncclCommAbort(comm_);  // ends its kernels that wait for other ranks
  }

 private:
  Gpu& gpu_;
  const ncclComm_t comm_;
  const int rank_, size_;
  const std::function<void(int)> forget_recordings_;
  std::atomic<bool> aborted_{false};
};

}  // namespace

std::vector<std::unique_ptr<Comm>> make_nccl_comms(std::span<Gpu* const> gpus,
                                                   const std::function<void(int rank)>& forget_recordings) {
  ::setenv("NCCL_NVLS_ENABLE", "0", /*overwrite=*/0);
  // Connections are made here and not at the first sum: making them allocates, which can wait for the devices, whose
  // kernels may wait for other ranks (peer_comm.h) whose hosts are held up by it. Registering buffers of recordings
  // does the same.
  ::setenv("NCCL_RUNTIME_CONNECT", "0", /*overwrite=*/0);
  ::setenv("NCCL_GRAPH_REGISTER", "0", /*overwrite=*/0);
  const int size = int(gpus.size());
  int version = 0;
  L4_NCCL(ncclGetVersion(&version));
  log_info("NCCL ", version / 10000, ".", version / 100 % 100, ".", version % 100, ", ", size, " GPUs");
  ncclUniqueId id;
  L4_NCCL(ncclGetUniqueId(&id));
  std::vector<ncclComm_t> handles(gpus.size());
  L4_NCCL(ncclGroupStart());
  for (int rank = 0; rank < size; ++rank) {
    L4_CUDA(cudaSetDevice(gpus[size_t(rank)]->index));
    L4_NCCL(ncclCommInitRank(&handles[size_t(rank)], size, id, rank));
  }
  L4_NCCL(ncclGroupEnd());
  std::vector<std::unique_ptr<Comm>> comms;
  for (int rank = 0; rank < size; ++rank)
    comms.push_back(
        std::make_unique<NcclComm>(*gpus[size_t(rank)], handles[size_t(rank)], rank, size, forget_recordings));
  return comms;
}

}  // namespace l4::cuda
