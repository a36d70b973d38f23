#include "engine/request_handle.h"

#include <utility>

namespace l4 {

void EventChannel::push(Event event) {
  {
    std::lock_guard lock(mutex_);
    if (closed_) return;
    closed_ = std::holds_alternative<Finished>(event);
    events_.push_back(std::move(event));
  }
  ready_.notify_one();
  if (wake_) wake_();
}

RequestHandle& RequestHandle::operator=(RequestHandle&& other) noexcept {
  std::swap(channel_, other.channel_);
  return *this;
}

RequestHandle::~RequestHandle() {
  cancel();
}

void RequestHandle::cancel() {
  if (!channel_) return;
  channel_->cancelled_ = true;
  *channel_->any_cancelled_ = true;
}

std::optional<Event> RequestHandle::next() {
  return take(nullptr);
}

std::optional<Event> RequestHandle::next(std::chrono::milliseconds timeout) {
  return take(&timeout);
}

std::optional<Event> RequestHandle::take(const std::chrono::milliseconds* timeout) {
  if (!channel_) return std::nullopt;
  EventChannel& c = *channel_;
  std::unique_lock lock(c.mutex_);
  if (c.finished_) return std::nullopt;
  auto has_event = [&] { return !c.events_.empty(); };
  if (!timeout)
    c.ready_.wait(lock, has_event);
  else if (!c.ready_.wait_for(lock, *timeout, has_event))
    return std::nullopt;
  Event event = std::move(c.events_.front());
  c.events_.pop_front();
  c.finished_ = std::holds_alternative<Finished>(event);
  return event;
}

}  // namespace l4
