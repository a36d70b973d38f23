// The thread that owns the runner and serves requests: first come, first served, one sequence at a time.
//
// A request's life: submit() checks it and puts it in the queue; the thread takes it, keeps what the last sequence has
// computed of the same beginning, runs the prompt in steps (encoding pictures when their first row comes up), then one
// step a token, and sends an event after each; cancel() is seen between two steps. A failure ends the request it
// belongs to; a failure of the device ends all.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <span>

#include "engine/limits.h"
#include "engine/request.h"
#include "engine/step_runner.h"

namespace l4 {

// Rows of logits, [n, vocab]; `first` is the prompt position of the first.
using LogitsSink = std::function<void(int64_t first, std::span<const float> rows)>;

// The receiving end of one request. One thread at a time calls next(), any thread cancel(). Outlives the engine safely.
class RequestHandle {
 public:
  struct Channel;

  RequestHandle() = default;
  explicit RequestHandle(std::shared_ptr<Channel> channel) : channel_(std::move(channel)) {}
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

  std::shared_ptr<Channel> channel_;
};

class EngineLoop {
 public:
  EngineLoop(std::unique_ptr<StepRunner> runner, const EngineLimits& limits);
  ~EngineLoop();  // cancels everything; waits for the step that runs
  EngineLoop(const EngineLoop&) = delete;
  EngineLoop& operator=(const EngineLoop&) = delete;

  // Error{usage} when the request cannot be served, Error{device} once the device has failed. `wake` is called from the
  // engine's thread after each event, the last time after Finished even if the handle is gone; it must not throw.
  RequestHandle submit(Request request, std::function<void()> wake = {});

  // Logits of every prompt token, in order; `sink` is called from the engine's thread. Returns when all is done.
  void logits(std::vector<int32_t> ids, std::vector<ImageInput> images, LogitsSink sink);

  const EngineLimits& limits() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace l4
