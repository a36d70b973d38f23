// What one rank runs the model with. The forward reads it and never asks who it is.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "dist/comm.h"
#include "dist/shard_plan.h"
#include "ops/backend.h"

namespace l4 {

// Takes a named activation to the host as float32. For comparing with the reference, not for speed.
using TraceSink = std::function<void(const std::string& name, const std::vector<float>& values, const Shape& shape)>;
struct Trace {
  TraceSink sink;
  std::string suffix;  // of the names that are wanted
};

struct Rank {
  Backend& backend;
  Comm& tp;     // the ranks that share this stage's layers
  Comm& world;  // all ranks: pipeline stages send and receive here
  const ShardPlan& shard;
  Arena& work;  // activations of the step; the caller resets it
  const Trace* trace = nullptr;

  void note(const std::string& name, const View& view) const {
    if (trace && trace->sink && !work.measuring() && name.ends_with(trace->suffix)) trace_view(name, view);
  }
  // Pipeline seam: the residual stream from and to the neighbour stage's rank with the same tp_rank.
  void recv_previous(const View& x) const {
    if (!work.measuring()) world.recv(x, shard.rank - shard.topology.tp);
  }
  void send_next(const View& x) const {
    if (!work.measuring()) world.send(x, shard.rank + shard.topology.tp);
  }

 private:
  void trace_view(const std::string& name, const View& view) const;
};

}  // namespace l4
