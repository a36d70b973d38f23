// How many ranks there are and which part each one has.
#pragma once

#include "base/error.h"

namespace l4 {

// world = tp * pp ranks; rank = stage * tp + tp_rank. ep divides tp: the tp group is cut into ep groups that each hold
// whole experts (within such a group an expert's columns are still split tp / ep ways). ep == 1: experts are split by
// columns only.
struct Topology {
  int tp = 1, pp = 1, ep = 1;
  int world() const { return tp * pp; }
  int stage_of(int rank) const { return rank / tp; }
  int tp_rank_of(int rank) const { return rank % tp; }
};

}  // namespace l4
