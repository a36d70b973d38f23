#include "engine/watchdog.h"

#include <algorithm>
#include <utility>

namespace l4 {

Watchdog::Watchdog(std::chrono::duration<double> limit, std::function<void()> on_late)
    : limit_(std::chrono::duration_cast<Clock::duration>(limit)),
      period_(std::clamp<Clock::duration>(limit_ / 8, std::chrono::milliseconds(1), std::chrono::seconds(1))),
      on_late_(std::move(on_late)) {
  if (limit_ > Clock::duration::zero()) thread_ = std::thread([this] { watch(); });
}

Watchdog::~Watchdog() {
  {
    std::lock_guard lock(mutex_);
    quit_ = true;
  }
  changed_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void Watchdog::begin() {
  if (!thread_.joinable()) return;
  std::lock_guard lock(mutex_);
  deadline_ = Clock::now() + limit_;
}

void Watchdog::end() {
  if (!thread_.joinable()) return;
  std::lock_guard lock(mutex_);
  deadline_.reset();
}

// Looks now and then: begin() and end() come with every step and wake nobody.
void Watchdog::watch() {
  std::unique_lock lock(mutex_);
  while (!changed_.wait_for(lock, period_, [&] { return quit_; })) {
    if (!deadline_ || Clock::now() < *deadline_) continue;
    lock.unlock();
    on_late_();
    return;
  }
}

}  // namespace l4
