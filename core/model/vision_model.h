// The vision tower and the projector: tiles in, rows of the text model's hidden width out.
#pragma once

#include "model/config.h"
#include "model/rank.h"
#include "model/weights.h"

namespace l4 {

class VisionModel {
 public:
  VisionModel(const ModelConfig& config, const Weights& weights, DType activation);

  void prepare(Backend& backend) const;  // what images need there beside the weights; before any rank works on one

  // `pixels` [N, C, side, side] bf16, all tiles on every rank; `features` out [N * tokens_per_tile, D] A. The tiles are
  // divided among the ranks of rank.tp and gathered.
  void encode(const Rank& rank, const View& pixels, const View& features) const;

 private:
  void encode_tiles(const Rank& rank, const View& pixels, const View& out) const;
  View rope() const;  // [S, hd / 2, 2], on the host

  const VisionConfig& vision_;
  const Weights& weights_;
  const DType activation_;
  std::vector<float> rope_;  // [S, hd / 2, 2]
};

}  // namespace l4
