// What the warps of a block share, and how blocks and ranks hand over what they found.
#pragma once

#include "kernels/cuda/attention/decode_attend.h"
#include "kernels/cuda/device/peer.h"
#include "kernels/cuda/one_token/program.h"
#include "kernels/cuda/ptx/barrier.h"
#include "kernels/cuda/ptx/load.h"
#include "kernels/cuda/ptx/mbarrier.h"

namespace l4::cuda::one_token {

using small_m::kAllLanes;
using small_m::Turn;

constexpr int kMeetings = 4;                        // items whose sums may be on their way to who adds them
constexpr int kSlabs = kTeamWarps, kTileRows = 32;  // of a stage
constexpr int kMultiply = 1;                        // the named barrier of the warps that multiply

constexpr int kPieces = kMostWidth / (256 * kWarps);  // of 8 columns, of a thread, of a row of the residual stream

struct Shared {
  Layer layers[2];  // in turns: what is read from memory at the time takes as long as a trip to it under load
  uint4 residual[kPieces][32 * kWarps];  // the stream, the same in every block; each thread's columns are its own
  Mbarrier full[kRing], empty[kRing];
  Mbarrier handed[kMeetings], taken[kMeetings];
  Mbarrier to_clean, routed, cleaned;  // once a layer
  int products_begun;                  // since the launch: multiplied by x, that is
  alignas(16) float meeting[kMeetings][kWarps][kTileRows];
  float by_warp[4][kWarps];  // one for each purpose, so that no barrier need protect it
  float x_scale[2];          // what x, and the expert's x, was divided by
  // the choice of the layer's route; complete when a stage of the expert's weights is
  int32_t expert;
  float score;
  alignas(16) float logits[kMostExperts];
  // attention
  float cosine[kHd / 2], sine[kHd / 2];
  alignas(16) bf16 q[kHeads][kHd];
  alignas(16) std::byte new_row[2][2 * kHd];  // this step's key and value as the cache has them
  float new_scale[2];
};

// After the ring, by turns: operands of x, and what attention's warps have found.
constexpr int kAttendWarps = 8;
constexpr size_t kXBytes = size_t(kMostX) / 256 * small_m::Int4One::kXSlab;
static_assert(sizeof(Meeting<kAttendWarps>) <= kXBytes + 1024);
constexpr size_t kAfterRing = (std::max(kXBytes, sizeof(Meeting<kAttendWarps>)) + 127) / 128 * 128;
constexpr size_t kSharedBytes = size_t(kRing) * kStageBytes + kAfterRing;

// Of a stage of the ring.
__device__ inline unsigned char* codes_of(unsigned char* ring, int stage) {
  return ring + stage * kCodesBytes;
}
__device__ inline bf16* scales_of(unsigned char* ring, int stage) {
  return reinterpret_cast<bf16*>(ring + kRing * kCodesBytes + stage * kScaleBytes);
}

// All warps that multiply.
__device__ inline void sync_multiply() {
  barrier_sync(kMultiply, 32 * kWarps);
}
// By a whole warp, or several: thread i of n.
__device__ inline void copy_layer(Layer& to, const Layer& from, int i, int n) {
  for (; i < int(sizeof(Layer) / sizeof(uint4)); i += n)
    reinterpret_cast<uint4*>(&to)[i] = __ldg(reinterpret_cast<const uint4*>(&from) + i);
}
// Sum over them, the same in every thread. `which`: of by_warp; not the same twice without a barrier in between.
__device__ inline float sum_of_all(Shared& s, float v, int which) {
  v = warp_sum(v);
  if (threadIdx.x % 32 == 0) s.by_warp[which][threadIdx.x / 32] = v;
  sync_multiply();
  float sum = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) sum += s.by_warp[which][w];
  return sum;
}

// ---- words (program.h). A fence and a count would be two or three trips to L2 more: 1.7 us for what takes
// ---- 0.46 on an H200 that does nothing else, and several times that while weights stream.
//
// Whoever reads all of a product's words knows that every block has read all of the product's before it, since each has
// a part in every product. So while a block multiplies `up` of a layer, a warp of its own empties, for its share, all
// words of the layer before; a fence then lies between that and the block's words of `down`, without which nobody comes
// to the layer that uses them again.

__device__ inline void send(float* to, float v) {
  store_relaxed_sys(reinterpret_cast<uint32_t*>(to), sendable(__float_as_uint(v)));
}
__device__ inline void send(uint32_t* to, uint32_t v) {
  store_relaxed_sys(to, sendable(v));
}
// v += four floats as they come.
__device__ inline void add_words(float* v, const uint4& w) {
  v[0] += __uint_as_float(w.x), v[1] += __uint_as_float(w.y);
  v[2] += __uint_as_float(w.z), v[3] += __uint_as_float(w.w);
}
__device__ inline bool given_up(const Program& a, uint32_t tries) {
  return a.ranks > 1 && tries % 1024 == 0 && load_relaxed_sys(a.aborted) != 0;
}
// v[i] = *at(i) for begin <= i < n where has(i), when all are there: what few blocks wait for, or has just come. By a
// warp's lanes, each for itself.
template <int begin = 0, int n, class At, class Has>
__device__ inline void receive_together(const Program& a, uint4 (&v)[n], const At& at, const Has& has) {
  bool all = true;
  uint32_t tries = 0;
  do {
#pragma unroll
    for (int i = begin; i < n; ++i)
      if (has(i)) v[i] = load_volatile16(at(i));
    all = true;
#pragma unroll
    for (int i = begin; i < n; ++i) all = all && (!has(i) || is_there(v[i]));
  } while (!all && !given_up(a, ++tries));
}
// The same for what all blocks wait for: looks for the first alone until it is there, since many looks at everything
// would be more traffic than the weights.
template <int n, class At, class Has>
__device__ inline void receive(const Program& a, uint4 (&v)[n], const At& at, const Has& has) {
  for (uint32_t tries = 1; has(0); ++tries) {
    v[0] = load_volatile16(at(0));
    if (is_there(v[0]) || given_up(a, tries)) break;
  }
  receive_together<1>(a, v, at, has);
}

}  // namespace l4::cuda::one_token
