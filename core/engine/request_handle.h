// The two ends of one request's events: the engine pushes, whoever asked takes.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>

#include "engine/request.h"

namespace l4 {

// The engine's end.
class EventChannel {
 public:
  // any_cancelled: set when this or another request is cancelled, so that nobody needs to look at all of them.
  EventChannel(std::function<void()> wake, std::shared_ptr<std::atomic<bool>> any_cancelled)
      : wake_(std::move(wake)), any_cancelled_(std::move(any_cancelled)) {}

  void push(Event event);  // nothing goes behind Finished; calls wake
  bool cancelled() const { return cancelled_; }

 private:
  friend class RequestHandle;
  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<Event> events_;
  bool closed_ = false;    // Finished was pushed
  bool finished_ = false;  // and taken
  std::atomic<bool> cancelled_{false};
  const std::function<void()> wake_;
  const std::shared_ptr<std::atomic<bool>> any_cancelled_;
};

// The receiving end. One thread at a time calls next(), any thread cancel(). Outlives the engine safely.
class RequestHandle {
 public:
  RequestHandle() = default;
  explicit RequestHandle(std::shared_ptr<EventChannel> channel) : channel_(std::move(channel)) {}
  RequestHandle(RequestHandle&&) noexcept = default;
  RequestHandle& operator=(RequestHandle&& other) noexcept;
  ~RequestHandle();  // cancels what is not finished

  // Waits for the next event. Nothing after Finished.
  std::optional<Event> next();
  // Nothing also when none came in time.
  std::optional<Event> next(std::chrono::milliseconds timeout);
  void cancel();

 private:
  std::optional<Event> take(const std::chrono::milliseconds* timeout);

  std::shared_ptr<EventChannel> channel_;
};

}  // namespace l4
