// Exchange of small vectors among GPUs that can write each other's memory, within a kernel: everybody pushes its part
// into everybody else's inbox and reads the others' parts from its own. No flags and no barriers: an inbox is filled
// with a word that is never sent, -0.0, and a word has arrived when it is another one (TensorRT-LLM's Lamport kernels
// work like this). Three inboxes are used in turn: while one is in use, the one before it is emptied. Nobody writes to
// that one before the exchange after the next, which he can only begin when he has everybody's part of the next one,
// and that they send after the kernel in which they emptied theirs.
//
// In a kernel (all threads of all blocks):
//
//   PeerExchange peers(links);          // after wait_for_predecessor(), unless links.sent
//   peers.push(i, word);                // uint4 or uint32_t, i counts them; each word once, by any thread
//   peers.empty_previous();             // when one has pushed: while the others' parts come
//   peers.parts(i, mine, add);          // add(rank 0's word i), add(rank 1's), ...; one's own is mine[i]
//   peers.finish(bytes);                // of one part; once, at the end
//
// The kernel before may push as well, as its results come (small_m.cu, PeerLinks::sent), into its own inbox too: it is
// younger than the last exchange, and all that was said holds for its pushes as for those of the exchange itself. The
// exchange then need not wait for that kernel's end: a late one (launch.h), so all before it has ended.
//
// A block waits for what blocks of the other GPUs push, and may not keep its own GPU's blocks from pushing: a launch
// has at most most_exchange_blocks(), so that all of them run at once, and no thread waits before it has pushed.
#pragma once

#include "kernels/cuda/peer_links.h"
#include "kernels/cuda/ptx/load.h"

namespace l4::cuda {

// ---- words that say by themselves that they are there

__device__ inline uint32_t sendable(uint32_t v) {
  return v == kNotThere ? 0 : v;
}
__device__ inline uint4 sendable(uint4 v) {
  return {sendable(v.x), sendable(v.y), sendable(v.z), sendable(v.w)};
}
__device__ inline bool is_there(uint32_t v) {
  return v != kNotThere;
}
__device__ inline bool is_there(const uint4& v) {
  return is_there(v.x) && is_there(v.y) && is_there(v.z) && is_there(v.w);
}

class PeerExchange {
 public:
  __device__ explicit PeerExchange(const PeerLinks& links)
      : links_(links), inbox_(links.state->inbox), previous_((inbox_ + kInboxes - 1) % kInboxes) {}

  // -0.0 becomes 0.0.
  template <class Word>
  __device__ void push(int64_t i, Word v) {
    push_to_all_but(links_.rank, i, v);
  }
  // Of the kernel before the exchange: into all inboxes.
  template <class Word>
  __device__ void push_to_all(int64_t i, Word v) {
    constexpr int kNobody = -1;
    push_to_all_but(kNobody, i, v);
  }

  // As they were pushed: the same bits on every rank. A look takes a trip to L2, so two words are looked for at once.
  template <class Word, class Add>
  __device__ void parts(int64_t i, const Word* mine, Add&& add) const {
    const std::byte* from = reinterpret_cast<const std::byte*>(inbox<Word>(links_.rank, inbox_, 0) + i);
    for (int first = 0; first < links_.size; first += 2, from += 2 * links_.part_bytes) {
      Word words[2];
      bool there[2];
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        there[k] = first + k == links_.size || (first + k == links_.rank && !links_.sent);
        if (there[k] && first + k < links_.size) words[k] = sendable(mine[i]);
      }
      for (uint32_t tries = 1; !(there[0] && there[1]); ++tries) {
#pragma unroll
        for (int k = 0; k < 2; ++k)
          if (!there[k]) words[k] = look(reinterpret_cast<const Word*>(from + k * links_.part_bytes));
#pragma unroll
        for (int k = 0; k < 2; ++k)
          if (!there[k]) there[k] = is_there(words[k]);
        if (tries % kTriesPerLook == 0 && given_up()) break;
      }
      add(words[0]);
      if (first + 1 < links_.size) add(words[1]);
    }
  }

  __device__ void empty_previous() {
    const int64_t words = (int64_t(links_.state->used[previous_]) + 15) / 16;
    const int64_t block = blockIdx.x + int64_t(gridDim.x) * (blockIdx.y + int64_t(gridDim.y) * blockIdx.z);
    const int64_t threads = int64_t(gridDim.x) * gridDim.y * gridDim.z * blockDim.x;
    for (int r = 0; r < links_.size; ++r)
      for (int64_t i = block * blockDim.x + threadIdx.x; i < words; i += threads)
        inbox<uint4>(links_.rank, previous_, r)[i] = {kNotThere, kNotThere, kNotThere, kNotThere};
  }

  // The counting is the last warp's: the first may have a row to route.
  __device__ void finish(int64_t bytes) {
    __syncthreads();
    if (threadIdx.x != blockDim.x - 1) return;
    PeerState& state = *links_.state;
    if (fetch_add_gpu(&state.arrived, 1) + 1 != gridDim.x * gridDim.y * gridDim.z) return;
    state.arrived = 0;  // the last block: all have read the state
    state.used[inbox_] = uint32_t(bytes);
    state.inbox = (inbox_ + 1) % kInboxes;
  }

 private:
  static constexpr uint32_t kTriesPerLook = 1024;  // a look at the host's flag takes a microsecond

  template <class Word>
  __device__ void push_to_all_but(int rank, int64_t i, Word v) {
    v = sendable(v);
    for (int r = 0; r < links_.size; ++r)
      if (r != rank) put(inbox<Word>(r, inbox_, links_.rank) + i, v);
  }
  __device__ static void put(uint4* at, uint4 v) { store_volatile16(at, v); }
  __device__ static void put(uint32_t* at, uint32_t v) { store_relaxed_sys(at, v); }
  // What rank `from` sends to rank `of`.
  template <class Word>
  __device__ Word* inbox(int of, uint32_t number, int from) const {
    return reinterpret_cast<Word*>(links_.inboxes[of] + (int64_t(number) * links_.size + from) * links_.part_bytes);
  }
  __device__ static uint4 look(const uint4* at) { return load_volatile16(at); }
  __device__ static uint32_t look(const uint32_t* at) { return load_relaxed_sys(at); }
  __device__ bool given_up() const {
    __nanosleep(100);
    return load_relaxed_sys(links_.aborted) != 0;
  }

  const PeerLinks& links_;
  const uint32_t inbox_, previous_;
};

}  // namespace l4::cuda
