// The blocks of an emulated cluster. Each is on an OS thread of its own, since static shared memory is thread-local,
// but one of them runs at a time: it hands over when none of its threads can go on. So what a block does to another one
// needs no locks, and a cluster without a block that can go on is a deadlock.
#pragma once

#include <condition_variable>
#include <mutex>
#include <vector>

#include "emulation/block.h"

namespace l4::emulation {

class Cluster {
 public:
  // n_blocks of n_threads each; block `first` runs first.
  Cluster(size_t n_blocks, size_t n_threads, size_t first);

  // ---- taking turns; b's OS thread
  void join(Block& b);                  // returns when all blocks are there and it is b's turn
  bool hand_over(Block& b, bool idle);  // returns at b's next turn; false: all blocks were idle in turn
  void leave(Block& b);                 // b has ended: returns when all have
  void give_up();                       // a block failed: no other runs again
  bool given_up() const { return given_up_; }

  Block* block(size_t rank) const { return rank < blocks_.size() ? blocks_[rank] : nullptr; }  // null: ended
  size_t size() const { return blocks_.size(); }

  // ---- barrier.cluster
  bool has_arrived(const Thread& t) const { return t.n_cluster_arrivals > n_phases_; }  // in the phase that goes on
  void arrive(Thread& t);
  void wait(Block& b, Thread& t) { waiting_.emplace_back(&b, &t); }
  void end(const Thread& t);

 private:
  void next_turn(size_t after);
  void wait_for_turn(std::unique_lock<std::mutex>& lock, const Block& b);
  void complete_if_all_arrived();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Block*> blocks_;
  size_t n_joined_ = 0, n_left_ = 0, turn_;
  size_t n_idle_ = 0;  // blocks in a row that could do nothing at their turn
  bool given_up_ = false;

  size_t n_threads_, n_arrived_ = 0;  // threads that have not ended
  uint64_t n_phases_ = 0;             // complete
  std::vector<std::pair<Block*, Thread*>> waiting_;
};

}  // namespace l4::emulation
