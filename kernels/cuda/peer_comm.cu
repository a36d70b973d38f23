#include "kernels/cuda/peer_comm.h"

#include <algorithm>
#include <atomic>

#include "kernels/cuda/device/peer.h"
#include "kernels/cuda/device/piece.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/ptx/pdl.h"

namespace l4::cuda {

namespace {

constexpr int kThreads = 512;
constexpr int64_t kPartBytes = int64_t(1) << 20;
// Beyond, everybody sending everything costs more than NCCL's ring: 1 MB for two GPUs, 512 KB for four, 256 KB for
// eight.
int64_t small_bytes(int size) {
  return std::min(kPartBytes, 2 * kPartBytes / size);
}

__device__ void add(float (&sum)[4], uint4 v, float) {
  sum[0] += __uint_as_float(v.x), sum[1] += __uint_as_float(v.y);
  sum[2] += __uint_as_float(v.z), sum[3] += __uint_as_float(v.w);
}
__device__ void add(float (&sum)[8], uint4 v, bf16) {
  float part[8];
  widen(v, part);
#pragma unroll
  for (int j = 0; j < 8; ++j) sum[j] += part[j];
}
__device__ void add(float (&sum)[1], uint32_t v, float) {
  sum[0] += __uint_as_float(v);
}
__device__ void add(float (&sum)[2], uint32_t v, bf16) {
  float low, high;
  widen(v, low, high);
  sum[0] += low, sum[1] += high;
}

// data [n words of A] becomes the sum over ranks, in their order, rounded once.
template <class A, class Word>
__global__ void __launch_bounds__(kThreads)
    all_reduce_kernel(const __grid_constant__ PeerLinks links, A* data, int64_t n) {
  constexpr int kPer = sizeof(Word) / sizeof(A);
  wait_for_predecessor();
  let_successor_start();
  PeerExchange peers(links);
  const int64_t first = int64_t(blockIdx.x) * kThreads + threadIdx.x, stride = int64_t(gridDim.x) * kThreads;
  for (int64_t i = first; i < n; i += stride) peers.push(i, reinterpret_cast<const Word*>(data)[i]);
  peers.empty_previous();
  for (int64_t i = first; i < n; i += stride) {
    float sum[kPer] = {};
    peers.parts(i, reinterpret_cast<const Word*>(data), [&](const Word& part) { add(sum, part, A{}); });
#pragma unroll
    for (int j = 0; j < kPer; ++j) data[i * kPer + j] = rounded<A>(sum[j]);
  }
  peers.finish(n * int64_t(sizeof(Word)));
}

// out[r] = rank r's part, n words each.
template <class Word>
__global__ void __launch_bounds__(kThreads) all_gather_kernel(const __grid_constant__ PeerLinks links, const Word* part,
                                                              Word* out, int64_t out_stride, int64_t n) {
  wait_for_predecessor();
  let_successor_start();
  PeerExchange peers(links);
  const int64_t first = int64_t(blockIdx.x) * kThreads + threadIdx.x, stride = int64_t(gridDim.x) * kThreads;
  for (int64_t i = first; i < n; i += stride) peers.push(i, part[i]);
  peers.empty_previous();
  for (int64_t i = first; i < n; i += stride) {
    Word* to = out + i;
    peers.parts(i, part, [&](const Word& word) { *to = word, to += out_stride; });
  }
  peers.finish(n * int64_t(sizeof(Word)));
}

__global__ void __launch_bounds__(kThreads) empty_kernel(uint32_t* inboxes, int64_t n) {
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < n; i += int64_t(gridDim.x) * kThreads)
    inboxes[i] = kNotThere;
}

// What the ranks share: their inboxes and the word that says that one has failed.
struct Group {
  std::vector<Gpu*> gpus;
  std::vector<Buffer> inboxes, states;
  Buffer aborted;

  explicit Group(std::span<Gpu* const> all) : gpus(all.begin(), all.end()), aborted(pinned_buffer(64, "a flag")) {
    std::atomic_ref(flag()).store(0);
    const size_t inbox_bytes = size_t(kInboxes) * gpus.size() * size_t(kPartBytes);
    for (Gpu* gpu : gpus) {
      L4_CUDA(cudaSetDevice(gpu->index));
      for (Gpu* other : gpus) {
        if (other == gpu) continue;
        const cudaError_t status = cudaDeviceEnablePeerAccess(other->index, 0);
        if (status == cudaErrorPeerAccessAlreadyEnabled)
          cudaGetLastError();
        else
          check(status, "cudaDeviceEnablePeerAccess");
      }
      inboxes.push_back(device_buffer(inbox_bytes, "small sums among GPUs"));
      states.push_back(device_buffer(sizeof(PeerState), "small sums among GPUs"));
      L4_CUDA(cudaMemsetAsync(states.back().data(), 0, sizeof(PeerState), gpu->stream));
      launch({.grid = unsigned(gpu->n_sms), .block = kThreads, .stream = gpu->stream}, empty_kernel,
             static_cast<uint32_t*>(inboxes.back().data()), int64_t(inbox_bytes / sizeof(uint32_t)));
      L4_CUDA(cudaStreamSynchronize(gpu->stream));  // before anybody writes into it
    }
  }
  uint32_t& flag() { return *static_cast<uint32_t*>(aborted.data()); }
  void abort() { std::atomic_ref(flag()).store(1); }
  PeerLinks links(int rank) {
    PeerLinks links;
    for (size_t r = 0; r < gpus.size(); ++r) links.inboxes[r] = static_cast<std::byte*>(inboxes[r].data());
    links.state = static_cast<PeerState*>(states[size_t(rank)].data());
    links.aborted = &flag();
    links.rank = rank;
    links.size = int32_t(gpus.size());
    links.part_bytes = kPartBytes;
    return links;
  }
};

class PeerComm : public Comm {
 public:
  PeerComm(std::shared_ptr<Group> group, int rank, std::unique_ptr<Comm> large, bool own_sums)
      : group_(std::move(group)),
        large_(std::move(large)),
        own_sums_(own_sums),
        gpu_(*group_->gpus[size_t(rank)]),
        links_(group_->links(rank)) {}
  ~PeerComm() override {
    cudaSetDevice(gpu_.index);
    cudaStreamSynchronize(gpu_.stream);
  }
  int rank() const override { return links_.rank; }
  int size() const override { return links_.size; }
  const PeerLinks& links() const { return links_; }
  const Gpu& gpu() const { return gpu_; }
  PeerMemory one_token_memory() const {
    PeerMemory peers;
    peers.aborted = links_.aborted;
    for (const Gpu* gpu : group_->gpus) peers.memory.push_back(gpu->one_token);
    return peers;
  }

  void all_reduce_sum(const View& data) override {
    if (large_ && !own_sums_ && !is_small(data)) return large_->all_reduce_sum(data);
    with_activation(data.dtype, [&](auto a) {
      using A = decltype(a);
      in_pieces(data.bytes(), {data}, [&]<class Word>(Word, int64_t first, int64_t n) {
        start(all_reduce_kernel<A, Word>, n, static_cast<A*>(data.data) + first * int64_t(sizeof(Word) / sizeof(A)), n);
      });
    });
  }
  void all_gather(const View& part, const View& out) override {
    L4_CHECK(out.bytes() == part.bytes() * size_t(size()));
    if (large_ && !is_small(part)) return large_->all_gather(part, out);
    in_pieces(part.bytes(), {part, out}, [&]<class Word>(Word, int64_t first, int64_t n) {
      start(all_gather_kernel<Word>, n, static_cast<const Word*>(part.data) + first,
            static_cast<Word*>(out.data) + first, int64_t(part.bytes() / sizeof(Word)), n);
    });
  }
  void broadcast(const View& data, int root) override { large().broadcast(data, root); }
  void send(const View& data, int to) override { large().send(data, to); }
  void recv(const View& data, int from) override { large().recv(data, from); }
  void all_to_all(const View& from, const View& to) override { large().all_to_all(from, to); }

  void abort() override {
    group_->abort();
    if (large_) large_->abort();
  }

 private:
  // Words that are numbers: kNotThere stands for nothing but -0.0.
  bool is_small(const View& part) const {
    return (part.dtype == DType::f32 || part.dtype == DType::bf16) && part.bytes() % sizeof(uint32_t) == 0 &&
           int64_t(part.bytes()) <= small_bytes(size());
  }
  Comm& large() {
    if (!large_) fail(ErrorKind::device, "this needs NCCL, which could not be started");
    return *large_;
  }

  // Calls body(Word{}, first, n) for runs of words that fit the inbox: of 16 bytes where everything is aligned to them.
  template <class Body>
  void in_pieces(size_t bytes, std::initializer_list<View> views, const Body& body) {
    L4_CHECK(bytes % sizeof(uint32_t) == 0, bytes, " bytes");
    bool wide = bytes % sizeof(uint4) == 0;
    for (const View& v : views) wide = wide && reinterpret_cast<uintptr_t>(v.data) % sizeof(uint4) == 0;
    auto run = [&](auto word) {
      const int64_t n = int64_t(bytes / sizeof word), most = kPartBytes / int64_t(sizeof word);
      for (int64_t first = 0; first < n; first += most) body(word, first, std::min(most, n - first));
    };
    if (wide)
      run(uint4{});
    else
      run(uint32_t{});
  }
  template <class... Parameters, class... Arguments>
  void start(void (*kernel)(PeerLinks, Parameters...), int64_t n_words, Arguments... arguments) {
    const int64_t blocks = std::min<int64_t>((n_words + kThreads - 1) / kThreads, most_exchange_blocks(gpu_.n_sms));
    launch({.grid = unsigned(blocks), .block = kThreads, .stream = gpu_.stream, .programmatic = true}, kernel, links_,
           arguments...);
  }

  const std::shared_ptr<Group> group_;
  const std::unique_ptr<Comm> large_;
  const bool own_sums_;
  Gpu& gpu_;
  const PeerLinks links_;
};

}  // namespace

bool are_peers(std::span<Gpu* const> gpus) {
  if (gpus.size() < 2 || gpus.size() > size_t(kMaxPeers)) return false;
  for (Gpu* a : gpus)
    for (Gpu* b : gpus) {
      int can = 0;
      if (a == b) continue;
      L4_CUDA(cudaDeviceCanAccessPeer(&can, a->index, b->index));
      if (!can) return false;
    }
  return true;
}

std::vector<std::unique_ptr<Comm>> make_peer_comms(std::span<Gpu* const> gpus,
                                                   std::vector<std::unique_ptr<Comm>> large, bool own_sums) {
  auto group = std::make_shared<Group>(gpus);
  large.resize(gpus.size());
  std::vector<std::unique_ptr<Comm>> comms;
  for (size_t rank = 0; rank < gpus.size(); ++rank)
    comms.push_back(std::make_unique<PeerComm>(group, int(rank), std::move(large[rank]), own_sums));
  return comms;
}

std::optional<PeerLinks> links_for(Comm& comm, const View& part) {
  const auto* peers = dynamic_cast<const PeerComm*>(&comm);
  const bool small = peers && int64_t(part.bytes()) <= small_bytes(peers->size()) &&
                     part.rows() <= most_exchange_blocks(peers->gpu().n_sms);
  if (!small || part.dtype != DType::bf16 || part.cols() % 8 != 0) return std::nullopt;
  return peers->links();
}

std::optional<PeerMemory> one_token_memory(Comm& comm) {
  const auto* peers = dynamic_cast<const PeerComm*>(&comm);
  if (!peers) return std::nullopt;
  return peers->one_token_memory();
}

}  // namespace l4::cuda
