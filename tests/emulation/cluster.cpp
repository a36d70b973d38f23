#include "cluster.h"

namespace l4::emulation {

Cluster::Cluster(size_t n_blocks, size_t n_threads, size_t first)
    : blocks_(n_blocks), turn_(first), n_threads_(n_blocks * n_threads) {}

void Cluster::wait_for_turn(std::unique_lock<std::mutex>& lock, const Block& b) {
  changed_.wait(lock, [&] { return given_up_ || (n_joined_ == blocks_.size() && turn_ == b.rank()); });
  if (b.can_go_on()) n_idle_ = 0;
}

void Cluster::next_turn(size_t after) {
  for (size_t i = 1; i <= blocks_.size(); ++i) {
    turn_ = (after + i) % blocks_.size();
    if (blocks_[turn_]) break;
  }
  changed_.notify_all();
}

void Cluster::join(Block& b) {
  std::unique_lock lock(mutex_);
  blocks_[b.rank()] = &b;
  ++n_joined_;
  changed_.notify_all();
  wait_for_turn(lock, b);
}

bool Cluster::hand_over(Block& b, bool idle) {
  std::unique_lock lock(mutex_);
  n_idle_ = idle ? n_idle_ + 1 : 0;
  if (n_idle_ == blocks_.size() - n_left_) return false;
  next_turn(b.rank());
  wait_for_turn(lock, b);
  return true;
}

void Cluster::leave(Block& b) {
  std::unique_lock lock(mutex_);
  blocks_[b.rank()] = nullptr;
  ++n_left_;
  n_idle_ = 0;
  next_turn(b.rank());
  changed_.wait(lock, [&] { return given_up_ || n_left_ == blocks_.size(); });
}

void Cluster::give_up() {
  const std::lock_guard lock(mutex_);
  given_up_ = true;
  changed_.notify_all();
}

void Cluster::arrive(Thread& t) {
  ++t.n_cluster_arrivals;
  ++n_arrived_;
  complete_if_all_arrived();
}

void Cluster::end(const Thread& t) {
  --n_threads_;
  if (has_arrived(t)) --n_arrived_;
  complete_if_all_arrived();
}

void Cluster::complete_if_all_arrived() {
  if (n_arrived_ == 0 || n_arrived_ < n_threads_) return;
  n_arrived_ = 0;
  ++n_phases_;
  for (auto [block, thread] : waiting_) block->wake(thread);
  waiting_.clear();
}

// ---- what a block does in its cluster

Block& Block::neighbour(uint32_t rank, Where where) {
  if (rank >= launch.cluster) fail(where, cat("there is no block ", rank, " in a cluster of ", launch.cluster));
  if (!cluster_) return *this;
  Block* const other = cluster_->block(rank);
  if (!other) fail(where, cat("block ", rank, " of the cluster has ended, and its shared memory is touched"));
  return *other;
}

uintptr_t Block::place_in(const Block& other, uintptr_t p) const {
  const auto dynamic = reinterpret_cast<uintptr_t>(shared_);
  const bool is_dynamic = p >= dynamic && p <= dynamic + launch.shared_bytes;
  return is_dynamic ? p - dynamic + reinterpret_cast<uintptr_t>(other.shared_)
                    : p - thread_pointer_ + other.thread_pointer_;
}

void Block::cluster_arrive(Where where) {
  if (!cluster_) fail(where, "cluster_arrive in a launch without clusters");
  if (cluster_->has_arrived(thread())) fail(where, "cluster_arrive twice without cluster_wait");
  cluster_->arrive(thread());
}

void Block::cluster_wait(Where where) {
  if (thread().n_cluster_arrivals == 0) fail(where, "cluster_wait without cluster_arrive");
  if (!cluster_->has_arrived(thread())) return;
  cluster_->wait(*this, thread());
  wait("cluster_wait", where);
}

}  // namespace l4::emulation
