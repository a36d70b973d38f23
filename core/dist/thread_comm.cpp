// Comm for one rank, and for ranks that are threads of one process. Every collective is: publish a pointer, meet, read
// the others' memory, meet again. Slow and simple; it exists so that the parallel code paths run in tests on any
// machine.
#include <condition_variable>
#include <cstring>
#include <map>
#include <mutex>

#include "dist/comm.h"

namespace l4 {

namespace {

class SingleComm : public Comm {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  void all_reduce_sum(const View&) override {}
  void all_gather(const View& part, const View& out) override { same(part, out); }
  void broadcast(const View&, int) override {}
  void send(const View&, int) override { alone(); }
  void recv(const View&, int) override { alone(); }
  void all_to_all(const View& from, const View& to) override { same(from, to); }

 private:
  static void same(const View& from, const View& to) {
    L4_CHECK(from.bytes() == to.bytes());
    if (from.data != to.data) std::memcpy(to.data, from.data, from.bytes());
  }
  static void alone() { fail(ErrorKind::internal, "a group of one has nobody to send to or receive from"); }
};

class ThreadGroup {
 public:
  explicit ThreadGroup(int size) : size_(size), published_(size_t(size)) {}
  int size() const { return size_; }

  // Everybody publishes a view, then sees everybody's; the views stay valid until leave().
  const std::vector<View>& enter(int rank, const View& view) {
    published_[size_t(rank)] = view;
    meet();
    return published_;
  }
  void leave() { meet(); }

  void abort() {
    std::lock_guard lock(mutex_);
    aborted_ = true;
    changed_.notify_all();
  }

  void send(int from, int to, const View& view) {
    std::unique_lock lock(mutex_);
    const View*& slot = mail_[{from, to}];
    slot = &view;
    changed_.notify_all();
    wait(lock, [&] { return slot == nullptr; });  // the receiver has copied
  }
  void recv(int from, int to, const View& view) {
    std::unique_lock lock(mutex_);
    const View*& slot = mail_[{from, to}];
    wait(lock, [&] { return slot != nullptr; });
    L4_CHECK(slot->bytes() == view.bytes(), "sent ", slot->shape.str(), ", wanted ", view.shape.str());
    std::memcpy(view.data, slot->data, view.bytes());
    slot = nullptr;
    changed_.notify_all();
  }

 private:
  template <class Ready>
  void wait(std::unique_lock<std::mutex>& lock, Ready ready) {
    changed_.wait(lock, [&] { return aborted_ || ready(); });
    if (aborted_) fail(ErrorKind::internal, "another rank failed");
  }
  void meet() {
    std::unique_lock lock(mutex_);
    uint64_t round = round_;
    if (++arrived_ == size_) {
      arrived_ = 0;
      ++round_;
      changed_.notify_all();
    }
    wait(lock, [&] { return round_ != round; });
  }

  const int size_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool aborted_ = false;
  int arrived_ = 0;
  uint64_t round_ = 0;
  std::vector<View> published_;
  std::map<std::pair<int, int>, const View*> mail_;
};

class ThreadComm : public Comm {
 public:
  ThreadComm(std::shared_ptr<ThreadGroup> group, int rank) : group_(std::move(group)), rank_(rank) {}
  int rank() const override { return rank_; }
  int size() const override { return group_->size(); }

  void all_reduce_sum(const View& data) override {
    const std::vector<View>& parts = group_->enter(rank_, data);
    const size_t n = size_t(data.elements());
    sum_.assign(n, 0.0f);
    for (const View& part : parts) {
      L4_CHECK(part.dtype == data.dtype && part.elements() == data.elements());
      if (part.dtype == DType::f32) {
        const float* p = part.f32();
        for (size_t i = 0; i < n; ++i) sum_[i] += p[i];
      } else {
        const BFloat16* p = part.bf16();
        for (size_t i = 0; i < n; ++i) sum_[i] += to_float(p[i]);
      }
    }
    group_->leave();  // all have read before anybody writes
    if (data.dtype == DType::f32) {
      std::memcpy(data.data, sum_.data(), data.bytes());
    } else {
      BFloat16* p = data.bf16();
      for (size_t i = 0; i < n; ++i) p[i] = to_bf16(sum_[i]);
    }
  }

  void all_gather(const View& part, const View& out) override {
    L4_CHECK(out.bytes() == part.bytes() * size_t(size()));
    const std::vector<View>& parts = group_->enter(rank_, part);
    std::byte* to = static_cast<std::byte*>(out.data);
    for (const View& p : parts) {
      L4_CHECK(p.bytes() == part.bytes());
      std::memcpy(to, p.data, p.bytes());
      to += p.bytes();
    }
    group_->leave();
  }

  void broadcast(const View& data, int root) override {
    const View& from = group_->enter(rank_, data)[size_t(root)];
    L4_CHECK(from.bytes() == data.bytes());
    if (rank_ != root) std::memcpy(data.data, from.data, data.bytes());
    group_->leave();
  }

  void send(const View& data, int to) override { group_->send(rank_, to, data); }
  void recv(const View& data, int from) override { group_->recv(from, rank_, data); }

  void all_to_all(const View& from, const View& to) override {
    L4_CHECK(from.bytes() == to.bytes() && from.rows() % size() == 0);
    const std::vector<View>& all = group_->enter(rank_, from);
    const size_t block = from.bytes() / size_t(size());
    for (size_t r = 0; r < all.size(); ++r) {
      L4_CHECK(all[r].bytes() == from.bytes());
      std::memcpy(static_cast<std::byte*>(to.data) + r * block,
                  static_cast<const std::byte*>(all[r].data) + size_t(rank_) * block, block);
    }
    group_->leave();
  }

  void abort() override { group_->abort(); }

 private:
  std::shared_ptr<ThreadGroup> group_;
  const int rank_;
  std::vector<float> sum_;  // kept between calls
};

}  // namespace

std::unique_ptr<Comm> make_single_comm() {
  return std::make_unique<SingleComm>();
}

std::vector<std::unique_ptr<Comm>> make_thread_comms(int size) {
  auto group = std::make_shared<ThreadGroup>(size);
  std::vector<std::unique_ptr<Comm>> comms;
  for (int rank = 0; rank < size; ++rank) comms.push_back(std::make_unique<ThreadComm>(group, rank));
  return comms;
}

}  // namespace l4
