// Collectives among the ranks of a group. Calls are made in the same order on every rank. Implementations: none (one
// rank), threads (tests TP, PP and EP without GPUs), GPUs (NCCL and peer memory). Views are device memory of the rank's
// own backend.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "tensor/view.h"

namespace l4 {

class Comm {
 public:
  virtual ~Comm() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  // Every rank's `data` becomes the elementwise sum (f32 or bf16; bf16 is summed in fp32 and rounded once). Order of
  // summation is by rank, the same on every rank: all ranks get the same bits.
  virtual void all_reduce_sum(const View& data) = 0;
  // `out` is [size, ...part]: every rank's part in rank order.
  virtual void all_gather(const View& part, const View& out) = 0;
  virtual void broadcast(const View& data, int root) = 0;
  virtual void send(const View& data, int to) = 0;
  virtual void recv(const View& data, int from) = 0;
  // Row block i of `send` ([size, ...]) goes to rank i; row block j of `recv` came from rank j.
  virtual void all_to_all(const View& send, const View& recv) = 0;

  // A rank failed: the others' pending and later calls end (on the CPU with Error{internal}) instead of waiting for
  // ever. The group is of no further use. Any thread may call it.
  virtual void abort() {}
};

class Backend;

// A group of one: every collective is a no-op or a copy (`host` memory; a device backend brings its own).
std::unique_ptr<Comm> make_single_comm();
// `size` comms of one group whose ranks are threads of this process and whose views are host memory.
std::vector<std::unique_ptr<Comm>> make_thread_comms(int size);
// One comm for each CUDA backend, in their order; calls are issued to the backend's stream and may be part of a
// recorded step. Defined by kernels/cuda. Error{device} saying what is missing.
std::vector<std::unique_ptr<Comm>> make_cuda_comms(std::span<Backend* const> backends);

}  // namespace l4
