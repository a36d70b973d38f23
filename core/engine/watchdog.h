// Notices that a call does not return. It cannot end the call; it tells someone who can do without it.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>

namespace l4 {

class Watchdog {
 public:
  // on_late is called once, from the watchdog's thread. limit 0: never, and there is no thread.
  Watchdog(std::chrono::duration<double> limit, std::function<void()> on_late);
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  void begin();  // of the watched
  void end();

 private:
  using Clock = std::chrono::steady_clock;
  void watch();

  const Clock::duration limit_, period_;
  const std::function<void()> on_late_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<Clock::time_point> deadline_;
  bool quit_ = false;
  std::thread thread_;
};

}  // namespace l4
