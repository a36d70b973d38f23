// Decode steps of one token as one launch (kernel.h), where the model allows it. While a step is recorded the backend's
// stages are noted (StageNotes); if all of them together are what the kernel does, the step is recorded again, and the
// first stage issues the kernel in place of all.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <vector>

#include "kernels/cuda/gpu.h"
#include "ops/op_args.h"
#include "tensor/buffer.h"

namespace l4::cuda {

namespace one_token {
struct Layer;
}

class OneToken {
 public:
  explicit OneToken(Gpu& gpu);
  ~OneToken();

  // While it lives a step is recorded, and stages are noted.
  class Recording {
   public:
    explicit Recording(OneToken& one) : one_(one) { one_.stages_ = {}, one_.state_ = State::noting; }
    ~Recording() { one_.stages_ = {}, one_.state_ = State::off; }
    Recording(const Recording&) = delete;
    Recording& operator=(const Recording&) = delete;

   private:
    OneToken& one_;
  };
  // Whether what was noted is one launch. Then what is issued next is that launch.
  bool is_one_launch();

  // Of every stage, recorded or not: whether it is part of the launch, so that nothing else is to be done.
  bool takes(const NormArgs&);
  bool takes(const QkvArgs&);
  bool takes(const AttentionArgs&);
  bool takes(const AttnOutArgs&);
  bool takes(const FfnUpArgs&);
  bool takes(const FfnDownArgs&);
  bool takes_experts_in_turn();

 private:
  struct LayerStages {
    QkvArgs qkv;
    AttentionArgs attention;
    AttnOutArgs o;
    FfnUpArgs up;
    FfnDownArgs down;
    int seen = 0;  // of the five, in their order
    bool experts_in_turn = false;
  };
  struct Stages {
    std::optional<NormArgs> norm;
    std::vector<LayerStages> layers;
    bool in_order = true;
  };
  enum class State { off, noting, first, rest };

  template <class Args>
  bool takes(const Args& args, int number, Args LayerStages::*to);
  bool launched() const { return state_ == State::first || state_ == State::rest; }
  bool make_plan();
  bool plan_layer(const LayerStages& stages, const View& norm_weight, float norm_eps, one_token::Layer& layer) const;
  void launch();

  Gpu& gpu_;
  Buffer memory_, layers_, parts_;
  State state_ = State::off;
  Stages stages_;
  struct Plan;  // the kernel's arguments
  std::unique_ptr<Plan> plan_;
};

// Steps that have been recorded as one launch, by all backends: for tests.
extern std::atomic<int64_t> g_one_token_launches;

}  // namespace l4::cuda
