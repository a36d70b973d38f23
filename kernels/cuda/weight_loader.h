// Weights from mapped checkpoint files to a GPU, as fast as storage and bus allow: reader threads fill pinned buffers
// with the rank's slices, which one stream copies to a staging area and packs from there. The host holds the buffers
// and nothing else, the device the weights and one staging area.
//
// FP8 that is made of values whose pieces have not all columns of their rows (experts stored [in, out]) is read twice: for
// the largest value of each row, then to be packed.
//
//   one loader a GPU    8 threads, 2 buffers of 16 MB each    256 MB pinned, 16 MB staging
//   a piece of 16 MB    0.3 ms over PCIe 5 x16 (50 GB/s), then 15 us to pack; read in 2.3 ms by one thread at 7 GB/s
#pragma once

#include <condition_variable>
#include <deque>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "base/direct_file.h"
#include "kernels/cuda/gpu.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/weight_defects.h"
#include "ops/op_args.h"

namespace l4::cuda {

class WeightLoader {
 public:
  explicit WeightLoader(int device);
  ~WeightLoader();  // gives up what is not finished
  WeightLoader(const WeightLoader&) = delete;
  WeightLoader& operator=(const WeightLoader&) = delete;

  // Queues the slices, all of which lie in mapped files; waits while there is much to do already. The files and the
  // memory of `to` (not the struct) must stay until finish(). Throws what went wrong with earlier ones.
  void pack(std::span<const WeightSlice> weight, std::span<const WeightSlice> bias, std::span<const WeightSlice> scale,
            const PackedWeight& to);
  // The same for bytes that are copied as they are.
  void load(const View& to, const std::byte* from, const MappedFile& file);
  // Returns when everything is in its place. Throws too what no product could use (weight_defects.h).
  void finish();

 private:
  struct Piece {
    WeightSlice slice;  // a part of a weight, of its scales or its bias; k counts elements
    WeightPart part = WeightPart::weights;
    std::shared_ptr<const PackedWeight> to;  // names the memory, owns none
    DefectNotes defects;
    std::shared_ptr<const std::vector<std::byte>> gathered;  // that `slice` lies in instead of a file
    void* copy_to = nullptr;                 // instead: `slice` is one run of bytes that goes there
    size_t bytes() const { return size_t(slice.n * slice.k) * dtype_bytes(slice.dtype); }
  };
  struct Slot;  // a pinned buffer

  void cut(Piece whole);
  static std::shared_ptr<const std::vector<std::byte>> gather(const WeightSlice& slice);
  void push(Piece piece);
  void drain();  // everything queued has been issued
  void read_loop();
  const std::byte* read(const Piece& piece, std::span<std::byte> buffer);
  void issue(const Piece& piece, const std::byte* pinned, Slot& slot);
  const DirectFile& open(const MappedFile& file);
  void stop();

  const int device_;
  cudaStream_t stream_ = nullptr;
  Buffer staging_;
  std::unique_ptr<WeightDefects> defects_;
  std::mutex issue_mutex_;  // a copy and what reads the staging area after it stay together

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Piece> queue_;
  std::map<const MappedFile*, std::unique_ptr<DirectFile>> files_;
  size_t busy_ = 0;  // readers with a piece
  bool stopping_ = false;
  std::exception_ptr error_;
  std::vector<std::thread> readers_;
};

}  // namespace l4::cuda
